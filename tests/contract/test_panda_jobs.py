"""Jobs through the PanDA mirror, against a live stack: how they are, their end, their debug mode, and such without a task."""

from __future__ import annotations

import copy
import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.panda_house import UNKNOWN, Panda, listed, parameters
from drayman.pandaclient import Client
from drayman.pandaclient.FileSpec import FileSpec
from drayman.pandaclient.JobSpec import JobSpec


def status_of(job_id: int) -> str:
    """Where a job stands."""
    status, (spec,) = Client.getJobStatus([job_id])
    assert status == 0
    found: str = spec.jobStatus
    return found


def job(**values: Any) -> JobSpec:
    """A job to submit."""
    spec = JobSpec()
    for name, value in ({"transformation": "bash", "prodSourceLabel": "user"} | values).items():
        setattr(spec, name, value)
    return spec


def file(name: str, kind: str, **values: Any) -> FileSpec:
    """A file of a job."""
    spec = FileSpec()
    for key, value in ({"lfn": name, "type": kind} | values).items():
        setattr(spec, key, value)
    return spec


# --- how they are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [Client.getJobStatus, Client.getFullJobStatus])
def test_places_are_kept(panda: Panda, ask: Any) -> None:
    _, ids = panda.ready()
    first, second, third = ids
    status, found = ask([third, UNKNOWN, first, "x", str(second), first, None, -1, 10**30, 1.5])
    assert status == 0
    expected = [third, None, first, None, second, first, None, None, None, None]
    assert [spec and spec.PandaID for spec in found] == expected
    assert ask([]) == (0, [])
    assert ask((first,))[1][0].PandaID == first
    assert ask(iter([first]))[1][0].PandaID == first
    for wrong in (None, 1.5):
        assert ask(wrong) == (255, None)


def test_no_more_than_5500(panda: Panda) -> None:
    _, ids = panda.ready(parameters(1))
    status, found = Client.getJobStatus(ids * 5501)
    assert status == 0
    assert len(found) == 5500
    assert found[-1].PandaID == ids[0]


def test_a_job_as_it_goes(panda: Panda) -> None:
    offer = {"site": "SITE", "cores": 2, "platform": "x86_64-el9"}
    asked = parameters(1, coreCount=2, ramCount=100, architecture="x86_64-el9", transUses="Release-1.2")
    task_id, ids = panda.ready(asked, **offer)
    spec = Client.getJobStatus(ids)[1][0]
    assert isinstance(spec, JobSpec)
    assert (spec.jobStatus, spec.jediTaskID, spec.attemptNr, spec.maxAttempt) == ("activated", task_id, 1, 1)
    assert (spec.prodUserName, spec.prodSourceLabel, spec.transformation) == (panda.name, "user", "bash")
    assert (spec.startTime, spec.endTime, spec.computingSite, spec.batchID) == ("NULL",) * 4
    assert (spec.pilotErrorCode, spec.taskBufferErrorCode, spec.transExitCode) == (0, 0, "NULL")
    assert abs(datetime.now(UTC).replace(tzinfo=None) - spec.creationTime) < timedelta(minutes=5)
    with panda.worker(worker_id="w-1") as worker:
        taken = worker.next_job(node="node1", task_id=task_id, timeout=30, **offer)
        assert taken is not None
        assert status_of(ids[0]) == "sent"
        worker.update(ids[0], "starting", attemptNr=1)
        assert status_of(ids[0]) == "starting"
        worker.update(ids[0], "running", attemptNr=1, jobSubStatus="halfway", maxRSS=1234)
        spec = Client.getJobStatus(ids)[1][0]
        assert (spec.jobStatus, spec.jobSubStatus, spec.maxRSS) == ("running", "halfway", 1234)
        assert (spec.computingSite, spec.batchID, spec.modificationHost) == ("SITE", "w-1", "node1")
        assert isinstance(spec.startTime, datetime)
        worker.update(ids[0], "failed", attemptNr=1, pilotErrorCode=1201, pilotErrorDiag="x" * 600, transExitCode=7)
    spec = Client.getFullJobStatus(ids)[1][0]
    assert (spec.jobStatus, spec.pilotErrorCode, spec.transExitCode) == ("failed", 1201, 7)
    assert spec.pilotErrorDiag == "x" * 500
    assert spec.endTime >= spec.startTime
    assert (spec.VO, spec.processingType, spec.reqID) == ("wlcg", "panda-client-1.5.50-jedi-run", task_id)
    assert (spec.cmtConfig, spec.AtlasRelease, spec.coreCount) == ("x86_64-el9", "Release-1.2", 2)


def test_files_of_a_job(panda: Panda) -> None:
    item = {"type": "constant", "value": '-c "touch $1" sh ${IN/L}'}
    made = {
        "type": "template",
        "param_type": "output",
        "value": "out.${SN}.txt",
        "dataset": "user.x.out",
        "hidden": True,
    }
    task_id, ids = panda.ready(listed(2, jobParameters=[item, made]))
    assert Client.getJobStatus(ids)[1][0].Files == []
    specs = Client.getFullJobStatus(ids)[1]
    for spec in specs:
        read, written = spec.Files
        assert (read.type, read.PandaID, read.status) == ("pseudo_input", spec.PandaID, read.status)
        assert (written.type, written.status, written.dataset) == ("output", "unknown", "user.x.out")
        assert written.destinationDBlock == "user.x.out"
        assert written.lfn in spec.jobParameters or written.lfn.startswith("out.")
    assert {spec.Files[0].lfn for spec in specs} == {"file0", "file1"}
    assert Client.killJobs(ids[:1]) == (0, [True])
    assert Client.getFullJobStatus(ids[:1])[1][0].Files[1].status == "failed"
    assert task_id


def test_descriptions(panda: Panda) -> None:
    task_id = panda.submit()
    good, bad = panda.work(task_id, 1), panda.work(task_id, 1, "failed")
    status, found = Client.get_job_descriptions(task_id)
    assert status == 0
    assert {each["PandaID"] for each in found} == set(Client.getPandaIDsWithTaskID(task_id)[1])
    assert json.dumps(found)
    assert next(each for each in found if each["PandaID"] == good[0])["jobStatus"] == "finished"
    assert [each["PandaID"] for each in Client.get_job_descriptions(task_id, True)[1]] == bad
    for nothing in (UNKNOWN, "abc", None):
        assert Client.get_job_descriptions(nothing) == (0, [])


# --- their end -------------------------------------------------------------------------------------------------------


def test_kills(panda: Panda) -> None:
    task_id, ids = panda.ready(parameters(4))
    with panda.worker() as worker:
        running, sent, over = [worker.next_job(task_id=task_id, timeout=30) for _ in range(3)]
        assert running is not None
        assert sent is not None
        assert over is not None
        worker.update(running.PandaID, "running", attemptNr=1)
        worker.update(over.PandaID, "finished", attemptNr=1)
        queued = next(iter(set(ids) - {running.PandaID, sent.PandaID, over.PandaID}))
        asked = [running.PandaID, sent.PandaID, over.PandaID, queued, UNKNOWN, "x", str(queued), None]
        assert Client.killJobs(asked) == (0, [True, True, False, True, False, False, False, False])
        assert Client.killJobs(asked) == (0, [False] * 8), "a second time"
        assert status_of(running.PandaID) == "running"
        assert Client.getJobStatus([running.PandaID])[1][0].commandToPilot == "tobekilled"
        for job_id in (sent.PandaID, queued):
            spec = Client.getJobStatus([job_id])[1][0]
            assert (spec.jobStatus, spec.taskBufferErrorCode) == ("cancelled", 100)
            assert panda.name in spec.taskBufferErrorDiag
            assert isinstance(spec.endTime, datetime)
        late = worker.update(sent.PandaID, "running", attemptNr=1)
        assert (late.result, late.command) == ("alreadydone", "tobekilled")
        for _ in range(2):
            assert worker.update(running.PandaID, "running", attemptNr=1).command == "tobekilled"
        worker.update(running.PandaID, "failed", attemptNr=1)
    assert status_of(running.PandaID) == "cancelled"
    assert Client.killJobs([over.PandaID]) == (0, [False])


def test_kills_of_one_and_of_none(panda: Panda) -> None:
    _, ids = panda.ready()
    assert Client.killJobs(ids[0]) == (0, [True])
    assert Client.killJobs([ids[1], ids[1]]) == (0, [True, False])
    assert Client.killJobs([]) == (0, [])
    assert Client.killJobs(None) == (255, None)
    assert Client.killJobs([0] * 10_001) == (0, [False] * 10_001)


def test_kills_by_others(panda: Panda) -> None:
    _, ids = panda.ready()
    with panda.stranger():
        assert Client.killJobs(ids) == (0, [False] * 3)
    with panda.stranger(admin=True):
        assert Client.killJobs(ids) == (0, [False] * 3), "with an ordinary code users' jobs are theirs"
    with panda.anonymously():
        assert Client.killJobs(ids) == (0, False)
    assert {spec.jobStatus for spec in Client.getJobStatus(ids)[1]} == {"activated"}


def test_a_killed_job_is_made_again(panda: Panda) -> None:
    task_id, ids = panda.ready(parameters(1, maxAttempt=3))
    assert Client.killJobs(ids) == (0, [True])
    assert Client.getTaskStatus(task_id) == (0, "running"), "the task goes on"
    again = panda.work(task_id, 1)
    assert again != ids
    spec = Client.getJobStatus(again)[1][0]
    assert (spec.attemptNr, spec.parentID) == (2, ids[0])
    panda.await_task(task_id, "done")


# --- debug mode ------------------------------------------------------------------------------------------------------


def test_debug_mode(panda: Panda) -> None:
    task_id, ids = panda.ready(parameters(1))
    assert Client.setDebugMode(ids[0], True, False) == (0, "Succeeded")
    assert Client.getJobStatus(ids)[1][0].specialHandling == "debug"
    status, text = Client.setDebugMode(ids[0], True, False)
    assert status == 0
    assert "already" in text
    with panda.worker() as worker:
        taken = worker.next_job(task_id=task_id, timeout=30)
        assert taken is not None
        assert taken.debug is True
        assert worker.update(ids[0], "running", attemptNr=1).command == "debug"
        assert Client.setDebugMode(str(ids[0]), False, False) == (0, "Succeeded")
        assert worker.update(ids[0], "running", attemptNr=1).command == "NULL"
        assert Client.setDebugMode(ids[0], False, False)[1] != "Succeeded"
        with panda.stranger():
            status, text = Client.setDebugMode(ids[0], True, False)
            assert status == 0
            assert text != "Succeeded"
        with panda.stranger(admin=True):
            assert Client.setDebugMode(ids[0], True, False) == (0, "Succeeded")
        worker.update(ids[0], "finished", attemptNr=1)
    for wrong in (ids[0], UNKNOWN, "abc", None):
        status, text = Client.setDebugMode(wrong, False, False)
        assert status == 0
        assert isinstance(text, str)
        assert text != "Succeeded"
    with panda.anonymously():
        status, text = Client.setDebugMode(ids[0], True, False)
        assert status == 0
        assert text != "Succeeded"


# --- without a task --------------------------------------------------------------------------------------------------


def test_jobs_without_a_task(panda: Panda) -> None:
    spec = job(
        jobName="mine", jobParameters="-c true", assignedPriority=500, PandaID=17, jobStatus="running", maxCpuCount=60
    )
    spec.addFile(file("out.txt", "output", destinationDBlock="user.x.own"))
    status, answers = Client.submitJobs(
        [spec, job(prodSourceLabel="panda"), job(prodSourceLabel="test", jobName="named")]
    )
    assert status == 0
    assert all(isinstance(answer, tuple) for answer in answers)
    (first, definition, third), (second, other, fourth), (last, _, name) = answers
    assert (third, fourth, name) == ({"jobsetID": definition}, {"jobsetID": other}, "named")
    assert definition == other
    assert len({17, first, second, last}) == 4, "whatever PandaID a spec has"
    assert spec.PandaID == 17
    found = Client.getFullJobStatus([first])[1][0]
    assert (found.PandaID, found.jobName, found.jobStatus, found.prodUserName) == (
        first,
        "mine",
        "activated",
        panda.name,
    )
    assert (found.jobDefinitionID, found.jobsetID, found.currentPriority) == (definition, definition, 500)
    assert (found.creationHost, found.jediTaskID) == (socket.gethostname(), "NULL")
    assert [(each.lfn, each.type, each.PandaID) for each in found.Files] == [("out.txt", "output", first)]
    again = Client.submitJobs([found])[1][0][0]
    assert again not in (None, first)
    copied = Client.getFullJobStatus([again])[1][0]
    assert (copied.jobName, copied.jobParameters, copied.transformation) == ("mine", "-c true", "bash")
    assert [(each.lfn, each.destinationDBlock) for each in copied.Files] == [("out.txt", "user.x.own")]
    assert Client.killJobs([first, second, last, again]) == (0, [True] * 4)


def test_a_job_without_a_task_runs(panda: Panda) -> None:
    job_id = Client.submitJobs([job(jobParameters='-c "exit 0"', assignedPriority=1000)])[1][0][0]
    with panda.worker() as worker:
        taken = worker.next_job(timeout=30)
        assert taken is not None
        assert (taken.PandaID, taken.jobParameters, taken.transformation) == (job_id, '-c "exit 0"', "bash")
        worker.update(job_id, "running", attemptNr=1)
        worker.update(job_id, "finished", attemptNr=1)
    assert status_of(job_id) == "finished"


def test_a_job_of_a_task_is_submitted_again(panda: Panda) -> None:
    _, ids = panda.ready(parameters(1))
    assert Client.setDebugMode(ids[0], True, False) == (0, "Succeeded")
    panda.work(Client.getJobStatus(ids)[1][0].jediTaskID, 1, "failed", maxRSS=5, jobSubStatus="late", pilotErrorCode=3)
    spec = Client.getFullJobStatus(ids)[1][0]
    assert (spec.maxRSS, spec.jobSubStatus, spec.pilotErrorCode, spec.specialHandling) == (5, "late", 3, "debug")
    again = Client.submitJobs([spec])[1][0][0]
    found = Client.getFullJobStatus([again])[1][0]
    assert (found.jobStatus, found.jediTaskID, found.taskID) == ("activated", "NULL", "NULL")
    assert (found.maxRSS, found.jobSubStatus, found.pilotErrorCode) == ("NULL", "NULL", 0)
    assert (found.specialHandling, found.startTime, found.endTime) == ("NULL",) * 3
    assert (found.transformation, found.jobParameters) == (spec.transformation, spec.jobParameters)
    assert Client.killJobs([again]) == (0, [True])


def test_jobs_that_cannot_be_stored(panda: Panda) -> None:
    bad = job()
    bad.addFile(file("../out", "output"))
    status, answers = Client.submitJobs([job(), job(transformation=None), bad, job(minRamCount="much"), job()])
    assert status == 0
    assert [answer[0] is None for answer in answers] == [False, True, True, True, False]
    assert all(isinstance(answer[2]["jobsetID"], int) for answer in answers)


def test_submissions_that_are_refused(panda: Panda) -> None:
    for label in ("managed", "nonsense"):
        status, text = Client.submitJobs([job(), job(prodSourceLabel=label)])
        assert status == 0
        assert text.startswith("ERROR: ")
        assert label in text
    for wrong in ([object()], [None], 17, None, [{"transformation": "bash"}], [job(maxCpuCount=float("nan"))]):
        status, text = Client.submitJobs(wrong)
        assert status == 0
        assert text.startswith("ERROR: ")
    assert Client.submitJobs([]) == (0, [])
    with panda.stranger(roles=("production",)):
        assert Client.submitJobs([job(prodSourceLabel="managed", jobName="n")])[1][0][2] == "n"
    with panda.anonymously():
        status, text = Client.submitJobs([job()])
        assert status == 0
        assert text.startswith("ERROR: ")


def test_values_that_json_has_not(panda: Panda) -> None:
    spec = job(creationTime=datetime.now(UTC), jobMetrics={1: [2]}, jobName=b"bytes", grid="g" * 60, lockedby=object())
    job_id = Client.submitJobs([spec])[1][0][0]
    assert job_id is not None
    assert Client.getJobStatus([job_id])[1][0].grid == "g" * 50


def test_no_more_than_5000(panda: Panda) -> None:
    status, answers = Client.submitJobs([job(jobName="many")] * 5001)
    assert status == 0
    assert len(answers) == 5000
    ids = [answer[0] for answer in answers]
    assert len(set(ids)) == 5000
    found = Client.getFullJobStatus(ids)[1]
    assert [spec.PandaID for spec in found] == ids
    assert Client.killJobs(ids) == (0, [True] * 5000)


def test_what_was_read_can_be_copied(panda: Panda) -> None:
    _, ids = panda.ready(listed(1))
    spec = Client.getFullJobStatus(ids)[1][0]
    twin = copy.deepcopy(spec)
    assert twin.to_dict() == spec.to_dict()
    assert twin.Files[0].PandaID == spec.PandaID
