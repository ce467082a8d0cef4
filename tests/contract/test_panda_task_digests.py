"""Digests of tasks through the PanDA mirror, against a live stack."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contract.panda_house import UNKNOWN, Panda, listed, parameters
from drayman.pandaclient import Client

LONG_AGO = "2020-01-01 00:00:00"
KEYS = {"inDS", "outDS", "statistics", "PandaID", "mergePandaID", "mergeStatus"}
LISTED = {
    *("jediTaskID", "modificationTime", "status", "processingType", "transUses", "transHome", "architecture", "reqID"),
    *("creationDate", "site", "cloud", "taskName"),
}


def details(task_id: Any, full: bool = True, info: bool = True) -> dict[str, Any]:
    """The digest of a task."""
    given = {"jediTaskID": task_id, "mine": 1}
    status, found = Client.getJediTaskDetails(given, full, info)
    assert status == 0
    assert found is given, "the same dict"
    assert found["mine"] == 1
    return given


def parts(text: str) -> dict[str, int]:
    """Statistics by state."""
    return {state: int(count) for state, count in (part.split("*") for part in text.split(","))}


def test_keys(panda: Panda) -> None:
    task_id = panda.submit()
    assert set(details(task_id)) == KEYS | {"jediTaskID", "mine", "status", "cliParams"}
    assert set(details(task_id, full=False)) == KEYS | {"jediTaskID", "mine", "status"}
    assert set(details(task_id, info=False)) == KEYS | {"jediTaskID", "mine", "cliParams"}
    assert details(task_id)["cliParams"] == "prun --exec true"
    bare = panda.submit(parameters(cliParams=None))
    assert details(bare)["cliParams"] == ""
    assert details(str(bare))["mergeStatus"] is None


def test_unknown_tasks(panda: Panda) -> None:
    for wrong in (UNKNOWN, 0, -1, 10**30):
        for full, info in ((True, True), (True, False), (False, True)):
            given = {"jediTaskID": wrong}
            assert Client.getJediTaskDetails(given, full, info) == (255, None)
            assert given == {"jediTaskID": wrong}
        found = details(wrong, full=False, info=False)
        assert (found["inDS"], found["outDS"], found["statistics"]) == ("", "", "")
        assert (found["PandaID"], found["mergePandaID"], found["mergeStatus"]) == ([], [], None)
    for text in ("abc", None):
        assert Client.getJediTaskDetails({"jediTaskID": text}, False, False) == (255, None)
    with pytest.raises(KeyError, match="jediTaskID"):
        Client.getJediTaskDetails({}, True, True)


def test_statistics(panda: Panda) -> None:
    task_id, _ = panda.ready(parameters(6))
    assert details(task_id)["statistics"] == "activated*6"
    panda.work(task_id, 2)
    panda.work(task_id, 1, "failed")
    with panda.worker() as worker:
        first, second = (worker.next_job(task_id=task_id, timeout=30) for _ in range(2))
        assert first is not None
        assert second is not None
        worker.update(first.PandaID, "running", attemptNr=1)
        said = details(task_id)["statistics"]
        assert said.startswith("finished*2,failed*1,")
        assert parts(said) == {"finished": 2, "failed": 1, "running": 1, "sent": 1, "activated": 1}
        Client.pauseTask(task_id)
        assert parts(details(task_id)["statistics"])["throttled"] == 1
        Client.resumeTask(task_id)
        worker.update(second.PandaID, "finished", attemptNr=1)
        worker.update(first.PandaID, "finished", attemptNr=1)
    panda.work(task_id, 1)
    panda.await_task(task_id, "finished")
    assert details(task_id)["statistics"] == "finished*5,failed*1"


def test_statistics_count_files(panda: Panda) -> None:
    task_id, ids = panda.ready(listed(5, nFilesPerJob=2))
    assert len(ids) == 3
    assert details(task_id)["statistics"] == "activated*5"
    panda.work(task_id, 3)
    panda.await_task(task_id, "done")
    assert details(task_id)["statistics"] == "finished*5"


def test_what_is_not_given_to_a_job(panda: Panda) -> None:
    task_id = panda.submit(parameters(20, skipScout=False, official=True))
    panda.await_task(task_id, "scouting", "running")
    with panda.worker() as worker:
        assert worker.next_job(task_id=task_id, timeout=30) is not None
    said = parts(details(task_id)["statistics"])
    assert sum(said.values()) == 20


def test_the_latest_jobs(panda: Panda) -> None:
    task_id, ids = panda.ready(parameters(2, maxAttempt=3))
    assert sorted(details(task_id)["PandaID"]) == ids
    failed = panda.work(task_id, 1, "failed")
    done = panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    assert sorted(details(task_id)["PandaID"]) == sorted(done)
    assert set(Client.getPandaIDsWithTaskID(task_id)[1]) == set(done + failed), "all attempts there, not here"


def test_names_of_datasets(panda: Panda) -> None:
    made = {
        "type": "template",
        "param_type": "output",
        "value": "out.${SN}.txt",
        "dataset": "user.x.one_out",
        "container": "user.x.one/",
        "hidden": True,
    }
    log = {"type": "template", "param_type": "log", "dataset": "user.x.log", "value": "log.${SN}.tgz"}
    task_id = panda.submit(listed(1, jobParameters=[made, {"type": "constant", "value": "-c true"}], log=log))
    panda.await_task(task_id, "running")
    found = details(task_id)
    assert found["outDS"] == "user.x.one/,user.x.log", "containers rather than their datasets"
    assert found["inDS"] == ""


# --- lists -----------------------------------------------------------------------------------------------------------


def test_tasks_of_the_caller(panda: Panda) -> None:
    first, second = panda.submit(), panda.run()
    status, found = Client.getJobIDsJediTasksInTimeRange(LONG_AGO)
    assert status == 0
    assert set(found) == {first, second}
    assert set(found[second]) == LISTED | KEYS
    assert found[second]["jediTaskID"] == found[second]["reqID"] == second
    assert (found[second]["status"], found[second]["statistics"]) == ("done", "finished*1")
    assert found[second]["PandaID"] == []
    assert json.dumps(found)
    changed = datetime.strptime(found[second]["modificationTime"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - changed) < timedelta(minutes=5)
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, minTaskID=first)[1]) == {second}, "strictly greater"
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, minTaskID=str(second))[1]) == set()
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S")
    assert Client.getJobIDsJediTasksInTimeRange(later) == (0, {})


def test_tasks_of_somebody_else(panda: Panda) -> None:
    task_id = panda.submit()
    name = panda.name
    panda.become()
    assert Client.getJobIDsJediTasksInTimeRange(LONG_AGO) == (0, {})
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, name)[1]) == {task_id}
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, dn=f"/DC=x/CN={name}")[1]) <= {task_id}
    for nobody in ("", " ", "nobody-there"):
        assert Client.getJobIDsJediTasksInTimeRange(LONG_AGO, nobody) == (0, {})
    panda.be_nobody()
    assert Client.getJobIDsJediTasksInTimeRange(LONG_AGO) == (0, {})
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, name)[1]) == {task_id}


@pytest.mark.parametrize(
    "wrong", ["", "yesterday", "2026-01-01", "2026-13-01 00:00:00", None, 17, "2026-01-01T00:00:00"]
)
def test_times_that_are_none(panda: Panda, wrong: Any) -> None:
    panda.submit()
    assert Client.getJobIDsJediTasksInTimeRange(wrong) == (0, {})


def test_types_of_tasks(panda: Panda) -> None:
    user, tested = panda.submit(), panda.submit(parameters(prodSourceLabel="test"))
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO)[1]) == {user}
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, task_type="test")[1]) == {tested}
    assert set(Client.getJobIDsJediTasksInTimeRange(LONG_AGO, task_type="anal")[1]) == {user, tested}
    assert Client.getJobIDsJediTasksInTimeRange(LONG_AGO, task_type="managed") == (0, {})
    assert Client.getJobIDsJediTasksInTimeRange(LONG_AGO, minTaskID="x") == (0, {})


def test_tasks_of_one_request_collapse(panda: Panda) -> None:
    number = int(uuid4().int % 10**9) + 10**6
    panda.submit(parameters(reqID=number))
    newest = panda.submit(parameters(reqID=number))
    found = Client.getJobIDsJediTasksInTimeRange(LONG_AGO)[1]
    assert set(found) == {number}
    assert found[number]["jediTaskID"] == newest


# --- attributes ------------------------------------------------------------------------------------------------------


def test_attributes(panda: Panda) -> None:
    task_id = panda.run(2, cloud="CLOUD-A", campaign="c")
    status, (there, found) = Client.get_task_details_json(str(task_id))
    assert (status, there) == (0, True)
    assert (found["jediTaskID"], found["status"], found["superStatus"], found["progress"]) == (
        task_id,
        "done",
        "done",
        100,
    )
    assert (found["cloud"], found["failureRate"], found["errorDialog"]) == ("CLOUD-A", 0, None)
    assert json.dumps(found)
    for wrong in (UNKNOWN, 0, "abc", None):
        status, (there, text) = Client.get_task_details_json(wrong)
        assert (status, there) == (0, False)
        assert isinstance(text, str)


def test_parents(panda: Panda) -> None:
    parent = panda.submit()
    child = panda.submit(parameters(1), parent=parent)
    assert Client.get_parent_detailed_info(child)[1]["jediTaskID"] == parent
    assert Client.get_parent_detailed_info(parent)[1]["jediTaskID"] == parent, "without one it is its own"
    for wrong in (UNKNOWN, "abc", None):
        assert Client.get_parent_detailed_info(wrong) == (255, None)


def test_filters(panda: Panda) -> None:
    first, second, third = panda.submit(), panda.run(), panda.run(1, "failed")

    def ids(*given: Any, **options: Any) -> list[int]:
        status, found = Client.get_tasks_detailed_info_since(*given, **options)
        assert status == 0
        return [each["jediTaskID"] for each in found]

    assert ids() == [third, second, first]
    assert ids(LONG_AGO) == [third, second, first]
    assert ids(filters={"status": "done"}) == [second]
    assert ids(None, {"jediTaskID": str(first)}) == [first]
    assert ids(filters={"status": "done", "jediTaskID": first}) == []
    assert ids(filters={"nothing": 1}) == []
    assert ids(n_tasks=2) == [third, second]
    assert ids(n_tasks=0) == []
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S")
    assert ids(later) == []
    assert Client.get_tasks_detailed_info_since("nonsense") == (255, None)
    panda.be_nobody()
    assert Client.get_tasks_detailed_info_since() == (255, None)


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_in_datasets(panda: Panda) -> None:
    made = {"type": "template", "param_type": "output", "value": "out.${SN}.txt", "dataset": f"user.x.{uuid4().hex}"}
    shell = {"type": "constant", "value": '-c \'cp "$0" "$1" 2>/dev/null || echo "$0" > "$1"\' ${IN/L}'}
    task_id = panda.submit(listed(2, jobParameters=[shell, made]))
    panda.pilot(task_id, 2)
    panda.await_task(task_id, "done")
    status, (read,) = Client.get_files_in_datasets(task_id)
    assert status == 0
    assert (read["type"], read["nFiles"], read["nFilesFinished"]) == ("pseudo_input", 2, 2)
    assert [each["lfn"] for each in read["files"]] == ["file0", "file1"]
    assert {each["status"] for each in read["files"]} == {"finished"}
    status, (written,) = Client.get_files_in_datasets(task_id, "output")
    assert (written["datasetName"], written["type"]) == (made["dataset"], "output")
    assert len(written["files"]) == 2
    assert {each["PandaID"] for each in written["files"]} == set(details(task_id)["PandaID"])
    assert {each["status"] for each in written["files"]} == {"ready"}
    assert details(task_id)["outDS"] == made["dataset"]
    assert Client.get_files_in_datasets(task_id, "nothing") == (0, [])
    assert len(Client.get_files_in_datasets(task_id, "input,pseudo_input,output")[1]) == 2
    for wrong in (UNKNOWN, "abc", None):
        status, text = Client.get_files_in_datasets(wrong)
        assert status == 255
        assert isinstance(text, str)
    jobs = Client.getFullJobStatus(details(task_id)["PandaID"])[1]
    assert {file.status for spec in jobs for file in spec.Files if file.type == "output"} == {"ready"}
    assert all(spec.nOutputDataFiles == 1 for spec in jobs)
    assert sum(spec.outputFileBytes for spec in jobs) == sum(each["fsize"] for each in written["files"])
    child = panda.submit(
        parameters(
            noInput=None,
            nEvents=None,
            nEventsPerJob=None,
            nFilesPerJob=1,
            jobParameters=[{"type": "template", "param_type": "input", "value": "${IN}", "dataset": made["dataset"]}],
        )
    )
    panda.await_task(child, "running")
    assert details(child)["inDS"] == made["dataset"], "at once usable as an input"
    assert len(Client.get_files_in_datasets(child)[1][0]["files"]) == 2
    assert Client.send_file_recovery_request(task_id, True)[1][0] is True
