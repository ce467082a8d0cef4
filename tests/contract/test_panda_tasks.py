"""Tasks through the PanDA mirror, against a live stack: submission, commands and what there is to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from contract.panda_house import UNKNOWN, Panda, listed, parameters
from drayman.client.registry import RegistryClient
from drayman.pandaclient import Client
from drayman.pandaclient.JobSpec import JobSpec
from drayman.testing import local_stack

#: What takes a task's id and answers with a code that PanDA's table has.
COMMANDS: dict[str, Callable[[Any], Any]] = {
    "killTask": Client.killTask,
    "finishTask": Client.finishTask,
    "finishTask softly": lambda task_id: Client.finishTask(task_id, soft=True),
    "retryTask": Client.retryTask,
    "retryTask properly": lambda task_id: Client.retryTask(task_id, properErrorCode=True),
    "reload_input": Client.reload_input,
    "pauseTask": Client.pauseTask,
    "resumeTask": Client.resumeTask,
}
EVERY = COMMANDS | {
    "retryTask with parameters": lambda task_id: Client.retryTask(task_id, newParams={"nFiles": 1}),
    "reactivateTask": Client.reactivateTask,
}


def answer(result: tuple[int, Any]) -> Any:
    """The code of a command that was answered."""
    status, payload = result
    assert status == 0
    assert isinstance(payload, tuple)
    code, message = payload
    assert isinstance(message, str)
    assert message
    assert not isinstance(code, bool)
    return code


# --- submission ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proper", [True, False])
def test_a_new_task(panda: Panda, proper: bool) -> None:
    status, payload = Client.insertTaskParams(parameters(), False, proper)
    assert status == 0
    assert isinstance(payload, tuple)
    code, message, task_id = payload
    assert (code, type(code)) == ((0, int) if proper else (True, bool))
    assert f"new jediTaskID={task_id}" in message
    assert type(task_id) is int
    assert Client.getTaskStatus(task_id)[1] in ("registered", "defined", "ready", "running")
    assert Client.get_task_details_json(task_id)[1][1]["userName"] == panda.name, "never by userName"


def test_the_status_right_after_a_submission(panda: Panda) -> None:
    for _ in range(5):
        status, found = Client.getTaskStatus(panda.submit())
        assert (status, type(found)) == (0, str)


def test_a_name_twice(panda: Panda) -> None:
    given = parameters(1, uniqueTaskName=True)
    task_id = panda.submit(given)
    status, (code, message, found) = Client.insertTaskParams(given, properErrorCode=True)
    assert status == 0
    assert code in (1, 2), "queued or active, as quick as the engine is"
    assert f"jediTaskID={task_id}" in message
    assert found == task_id
    panda.await_task(task_id, "running")
    assert Client.insertTaskParams(given, properErrorCode=True)[1][::2] == (2, task_id)
    assert Client.insertTaskParams(given)[1][::2] == (False, task_id)
    panda.work(task_id, 1, "failed")
    panda.await_task(task_id, "failed")
    code, message, found = Client.insertTaskParams(given, properErrorCode=True)[1]
    assert (code, found) == (3, task_id)
    assert f"jediTaskID={task_id}" in message
    panda.await_task(task_id, "running", "failed")
    other = Client.insertTaskParams(given | {"uniqueTaskName": False}, properErrorCode=True)[1]
    assert other[0] == 0
    assert other[2] != task_id
    with panda.stranger():
        assert Client.insertTaskParams(given, properErrorCode=True)[1][0] == 0, "names are the users'"


def test_a_finished_name_again_without_numbers(panda: Panda) -> None:
    given = parameters(1, uniqueTaskName=True)
    task_id = panda.submit(given)
    panda.work(task_id, 1)
    panda.await_task(task_id, "done")
    assert Client.insertTaskParams(given)[1][::2] == (True, task_id)


@pytest.mark.parametrize("key", ["taskName", "vo", "prodSourceLabel"])
def test_a_key_that_is_missing_at_the_door(panda: Panda, key: str) -> None:
    given = parameters(**{key: None})
    code, message, task_id = Client.insertTaskParams(given, properErrorCode=True)[1]
    assert (code, task_id) == (4, None)
    assert key in message
    assert Client.insertTaskParams(given)[1][::2] == (False, None)


def test_a_key_that_is_missing_later(panda: Panda) -> None:
    task_id = panda.submit(parameters(transPath=None))
    panda.await_task(task_id, "broken")
    assert "transPath" in Client.get_task_details_json(task_id)[1][1]["errorDialog"]


@pytest.mark.parametrize(
    "given",
    [
        [],
        "text",
        None,
        {"taskName": {1, 2}},
        {"taskName": object()},
        parameters(goal=float("nan")),
        parameters(cliParams="\ud800"),
        {(1, 2): 3},
    ],
)
def test_what_is_no_parameters(panda: Panda, given: Any) -> None:
    status, (code, message, task_id) = Client.insertTaskParams(given, properErrorCode=True)
    assert (status, code, task_id) == (0, 4, None)
    assert message
    assert Client.insertTaskParams(given)[1][::2] == (False, None)


def test_parameters_within_themselves(panda: Panda) -> None:
    given = parameters()
    given["self"] = given
    assert Client.insertTaskParams(given, properErrorCode=True)[1][::2] == (4, None)


@pytest.mark.parametrize("parent", ["abc", -1, 1.5, 10**30, True])
def test_a_parent_that_is_none(panda: Panda, parent: Any) -> None:
    code, message, task_id = Client.insertTaskParams(parameters(), properErrorCode=True, parent_tid=parent)[1]
    assert (code, task_id) == (4, None)
    assert "parent_tid" in message


def test_a_parent_that_there_is_not(panda: Panda) -> None:
    task_id = panda.submit(parameters(), parent=UNKNOWN)
    panda.await_task(task_id, "broken")
    code, message, nothing = Client.insertTaskParams(parameters(parentTaskName="none"), properErrorCode=True)[1]
    assert (code, nothing) == (11, None)
    assert "none" in message
    assert Client.insertTaskParams(parameters(parentTaskName="none"))[1][0] is False


def test_a_child_waits_for_its_parent(panda: Panda) -> None:
    name = f"user.x.{uuid4().hex}"
    parent = panda.submit(parameters(1, taskName=name))
    children = [
        panda.submit(parameters(1), parent=parent),
        panda.submit(parameters(1, parentTaskName=name)),
        int(Client.insertTaskParams(parameters(1), parent_tid=str(parent))[1][2]),
    ]
    for child in children:
        panda.await_task(child, "pending")
        assert Client.get_parent_detailed_info(child)[1]["jediTaskID"] == parent
        assert Client.get_task_details_json(child)[1][1]["parent_tid"] == parent
    panda.work(parent, 1)
    for child in children:
        panda.await_task(child, "running")
        panda.work(child, 1)
        panda.await_task(child, "done")
    orphan = panda.submit(parameters(1), parent=panda.run(1, "failed"))
    panda.await_task(orphan, "broken")


def test_too_many_active_tasks(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_stack(settings={"DRAYMAN_TASK_LIMIT": "1"}) as stack:
        monkeypatch.setenv("DRAYMAN_URL", stack.url)
        stack.add_user("ann")
        monkeypatch.setenv("DRAYMAN_TOKEN", stack.token("ann"))
        given = parameters(uniqueTaskName=True)
        assert Client.insertTaskParams(given, properErrorCode=True)[1][0] == 0
        assert Client.insertTaskParams(parameters(), properErrorCode=True)[1][::2] == (10, None)
        assert Client.insertTaskParams(given, properErrorCode=True)[1][0] == 10, "before duplicates are looked for"
        assert Client.insertTaskParams(given)[1][0] is False


def test_a_submission_without_a_token(panda: Panda) -> None:
    with panda.anonymously():
        assert Client.insertTaskParams(parameters(), properErrorCode=True)[1][::2] == (100, None)
        assert Client.insertTaskParams(parameters())[1][::2] == (False, None)


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_id(panda: Panda, name: str) -> None:
    for task_id in ("abc", None, 1.5, "1.5", True, "", b"1", "12a"):
        assert answer(EVERY[name](task_id)) == 101


@pytest.mark.parametrize("name", EVERY)
def test_nobody_without_a_token(panda: Panda, name: str) -> None:
    task_id = panda.submit()
    panda.be_nobody()
    for asked in (task_id, UNKNOWN, "abc"):
        assert answer(EVERY[name](asked)) == 100, "checked first"


@pytest.mark.parametrize("name", EVERY)
def test_no_such_task(panda: Panda, name: str) -> None:
    expected = {"retryTask with parameters": 1, "reactivateTask": 0}.get(name, 2)
    for task_id in (UNKNOWN, str(UNKNOWN), 0, -1, 10**30, f" {UNKNOWN} "):
        assert answer(EVERY[name](task_id)) == expected


@pytest.mark.parametrize("name", EVERY)
def test_strangers_never_learn_the_state(panda: Panda, name: str) -> None:
    running, done = panda.submit(), panda.run()
    before = Client.getTaskStatus(done)
    with panda.stranger():
        for task_id in (running, done, str(done)):
            assert answer(EVERY[name](task_id)) == 3
    assert Client.getTaskStatus(done) == before
    assert Client.getTaskStatus(running)[1] not in ("aborting", "aborted", "paused", "finishing")


@pytest.mark.parametrize("roles", [{"admin": True}, {"roles": ("production",)}])
def test_the_production_role_may(panda: Panda, roles: dict[str, Any]) -> None:
    task_id = panda.submit()
    with panda.stranger(**roles):
        assert answer(Client.pauseTask(task_id)) == 0
        assert answer(Client.killTask(task_id)) == 0


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("killTask", False),
        ("finishTask", False),
        ("finishTask softly", False),
        ("retryTask", False),
        ("retryTask properly", False),
        ("retryTask with parameters", 3),
        ("reload_input", 0),
        ("pauseTask", False),
        ("resumeTask", False),
        ("reactivateTask", 1),
    ],
)
def test_what_a_task_that_is_done_accepts(panda: Panda, name: str, accepted: Any) -> None:
    task_id = panda.run()
    code = answer(EVERY[name](task_id))
    assert code == (4 if accepted is False else accepted)
    if accepted is False:
        assert Client.getTaskStatus(task_id) == (0, "done")


def test_kill(panda: Panda) -> None:
    task_id, ids = panda.ready()
    with panda.worker() as worker:
        job = worker.next_job(task_id=task_id, timeout=30)
        assert job is not None
        worker.update(job.PandaID, "running", attemptNr=1)
        worker.update(job.PandaID, "finished", attemptNr=1)
    assert answer(Client.killTask(task_id)) == 0
    panda.await_task(task_id, "aborted")
    states = [spec.jobStatus for spec in Client.getJobStatus(ids)[1]]
    assert sorted(states) == ["cancelled", "cancelled", "finished"], "what finished is kept"
    for command in ("killTask", "finishTask", "retryTask", "pauseTask", "resumeTask"):
        assert answer(EVERY[command](task_id)) == 4


def test_digits_are_an_id(panda: Panda) -> None:
    task_id = panda.submit()
    panda.await_task(task_id, "running")
    assert answer(Client.killTask(str(task_id))) == 0
    panda.await_task(task_id, "aborted")
    assert Client.getTaskStatus(str(task_id)) == (0, "aborted")


def test_finish(panda: Panda) -> None:
    task_id = panda.submit()
    panda.work(task_id, 1)
    assert answer(Client.finishTask(task_id)) == 0
    panda.await_task(task_id, "finished")


def test_finish_softly(panda: Panda) -> None:
    task_id = panda.submit()
    with panda.worker() as worker:
        job = worker.next_job(task_id=task_id, timeout=30)
        assert job is not None
        worker.update(job.PandaID, "running", attemptNr=1)
        assert answer(Client.finishTask(task_id, True)) == 0
        panda.await_task(task_id, "finishing")
        heartbeat = worker.update(job.PandaID, "running", attemptNr=1)
        assert heartbeat.command == "NULL", "what runs may end itself"
        worker.update(job.PandaID, "finished", attemptNr=1)
    panda.await_task(task_id, "finished")


def test_pause_and_resume(panda: Panda) -> None:
    task_id, ids = panda.ready()
    with panda.worker() as worker:
        job = worker.next_job(task_id=task_id, timeout=30)
        assert job is not None
        worker.update(job.PandaID, "running", attemptNr=1)
        assert answer(Client.pauseTask(task_id)) == 0
        assert Client.getTaskStatus(task_id) == (0, "paused")
        assert answer(Client.pauseTask(task_id)) == 4
        assert worker.next_job(task_id=task_id, timeout=0) is None
        states = {spec.PandaID: spec.jobStatus for spec in Client.getJobStatus(ids)[1]}
        assert states.pop(job.PandaID) == "running"
        assert set(states.values()) == {"throttled"}
        assert worker.update(job.PandaID, "running", attemptNr=1).command == "NULL"
        assert answer(Client.resumeTask(task_id)) == 0
        assert Client.getTaskStatus(task_id) == (0, "running"), "where it was"
        assert answer(Client.resumeTask(task_id)) == 4
        assert worker.next_job(task_id=task_id, timeout=30) is not None


def test_retry(panda: Panda) -> None:
    task_id = panda.run(2, "failed")
    first = Client.getPandaIDsWithTaskID(task_id)[1]
    assert answer(Client.retryTask(task_id)) == 0, "a number in any case"
    again = panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    assert sorted(Client.getPandaIDsWithTaskID(task_id)[1]) == sorted(first + again), "all attempts"
    assert Client.get_task_details_json(task_id)[1][1]["attemptNr"] == 2
    assert answer(Client.retryTask(task_id)) == 4


def test_retry_with_parameters(panda: Panda) -> None:
    task_id = panda.run(1, "failed")
    assert answer(Client.retryTask(task_id, newParams={})) == 0, "as without"
    panda.await_task(task_id, "running")
    assert answer(Client.finishTask(task_id)) == 0
    panda.await_task(task_id, "failed")
    given = Client.getTaskParamsMap(task_id)[1][1]
    assert answer(Client.retryTask(task_id, newParams={"ramCount": 100, "transPath": "other"})) == 3
    job = Client.getFullJobStatus(panda.work(task_id, 1))[1][0]
    assert job.transformation == "bash", "not one of the keys that are taken over"
    panda.await_task(task_id, "done")
    assert Client.getTaskParamsMap(task_id)[1][1] == given, "as first submitted"


def test_retry_with_parameters_that_are_none(panda: Panda) -> None:
    task_id = panda.run(1, "failed")
    for wrong in ({"nFiles": object()}, {"nFiles": float("nan")}, [1], "text"):
        assert answer(Client.retryTask(task_id, newParams=wrong)) == 1
    assert Client.getTaskStatus(task_id) == (0, "failed")


def test_retry_of_what_runs(panda: Panda) -> None:
    task_id = panda.submit(listed(2, maxFailure=1))
    panda.work(task_id, 1, "failed")
    assert answer(Client.retryTask(task_id)) == 4
    assert answer(Client.retryTask(task_id, properErrorCode=True)) == 0
    assert Client.getTaskStatus(task_id) == (0, "running")
    panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    task_id = panda.submit(listed(1))
    panda.await_task(task_id, "running")
    assert answer(Client.retryTask(task_id, properErrorCode=True, newParams={"ramCount": 10})) == 3


def test_reload(panda: Panda) -> None:
    task_id = panda.run(2, "failed")
    assert answer(Client.reload_input(task_id)) == 0
    panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    assert answer(Client.reload_input(task_id)) == 0, "of a done one too"
    panda.await_task(task_id, "done")


def test_reactivate(panda: Panda) -> None:
    task_id = panda.run(2)
    assert answer(Client.reactivateTask(task_id)) == 1
    assert answer(Client.reactivateTask(UNKNOWN)) == 0
    panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    assert len(Client.getPandaIDsWithTaskID(task_id)[1]) == 4


def test_more_attempts(panda: Panda) -> None:
    task_id = panda.submit(listed(2, maxAttempt=1))
    panda.work(task_id, 1, "failed")
    assert answer(Client.increase_attempt_nr(task_id)) == 0
    panda.work(task_id, 2)
    panda.await_task(task_id, "done")
    assert answer(Client.increase_attempt_nr(task_id)) == 2


def test_more_attempts_of_nothing(panda: Panda) -> None:
    task_id, _ = panda.ready()
    assert answer(Client.increase_attempt_nr(task_id, 0)) == 0
    assert answer(Client.increase_attempt_nr(str(task_id), "2")) == 0
    assert answer(Client.increase_attempt_nr(UNKNOWN)) == 1
    assert answer(Client.increase_attempt_nr(10**30, 1)) == 1
    for increase in (-1, "x", None, 1.5, 10**30, -(10**30)):
        assert answer(Client.increase_attempt_nr(task_id, increase)) == 4
    for wrong in ("abc", None, 1.5):
        assert answer(Client.increase_attempt_nr(wrong)) == 4
    with panda.stranger():
        for increase in (1, -1, "x"):
            assert answer(Client.increase_attempt_nr(task_id, increase)) == 3, "the role first"
    with panda.anonymously():
        assert answer(Client.increase_attempt_nr(task_id)) == 100


def test_somebody_who_is_shut_out(panda: Panda) -> None:
    task_id = panda.submit()
    name = panda.name
    panda.shut_out()
    status, (code, message) = Client.killTask(task_id)
    assert (status, code) == (0, 3)
    assert name in message
    assert answer(Client.reactivateTask(task_id)) == 3
    status, (code, message, nothing) = Client.insertTaskParams(parameters(), properErrorCode=True)
    assert (status, code, nothing) == (0, 4, None)
    assert name in message
    assert Client.insertTaskParams(parameters())[1][0] is False
    assert Client.submitJobs([JobSpec()]) == (0, [])
    assert Client.killJobs([1]) == (0, False)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_status_of_what_is_no_task(panda: Panda) -> None:
    for task_id in (UNKNOWN, str(UNKNOWN), 0, -5, 10**30):
        status, text = Client.getTaskStatus(task_id)
        assert status == 255
        assert isinstance(text, str)
    for wrong in ("abc", None, 1.5):
        status, (found, text) = Client.getTaskStatus(wrong)
        assert (status, found) == (0, False)
        assert text


def test_parameters(panda: Panda) -> None:
    given = parameters(extra={"deep": [1, None, "ä"]}, userName="x")
    task_id = panda.submit(given)
    assert Client.getTaskParamsMap(task_id) == (0, (0, given))
    assert Client.getTaskParamsMap(str(task_id)) == (0, (0, given))
    for wrong in (UNKNOWN, 0, "abc", None):
        status, (code, text) = Client.getTaskParamsMap(wrong)
        assert (status, code) == (0, 1)
        assert isinstance(text, str)


def test_job_ids(panda: Panda) -> None:
    task_id, ids = panda.ready()
    assert len(ids) == 3
    assert all(type(job_id) is int for job_id in ids)
    assert Client.getPandaIDsWithTaskID(str(task_id)) == (0, ids)
    for unknown in (UNKNOWN, 0, 10**30):
        assert Client.getPandaIDsWithTaskID(unknown) == (0, [])
    status, (found, text) = Client.getPandaIDsWithTaskID("abc")
    assert (status, found) == (0, False)
    assert text


def test_metadata_of_jobs(panda: Panda) -> None:
    task_id = panda.submit(parameters(4))
    good = panda.work(task_id, 1, metadata='{"a": [1, {"b": null}]}')
    listing = panda.work(task_id, 1, metadata="[1, 2]")
    panda.work(task_id, 1)
    panda.work(task_id, 1, "failed", metadata='{"a": 2}')
    panda.await_task(task_id, "finished", "failed")
    expected = [{"a": [1, {"b": None}], "PandaID": good[0]}, {"metadata": [1, 2], "PandaID": listing[0]}]
    status, found = Client.getUserJobMetadata(task_id)
    assert status == 0
    assert sorted(found, key=lambda each: int(each["PandaID"])) == sorted(
        expected, key=lambda each: int(each["PandaID"])
    )
    assert Client.getUserJobMetadata(UNKNOWN) == (0, [])
    assert Client.getUserJobMetadata(panda.run()) == (0, [])
    assert Client.getUserJobMetadata("abc")[1][0] is False


def test_recovery(panda: Panda) -> None:
    task_id = panda.run()
    for dry in (True, False):
        status, (accepted, message) = Client.send_file_recovery_request(task_id, dry)
        assert (status, accepted) == (0, True)
        assert "no files" in message
    with panda.stranger():
        assert Client.send_file_recovery_request(task_id)[1][0] is False
    with panda.anonymously():
        status, (accepted, message) = Client.send_file_recovery_request(task_id)
        assert (status, accepted) == (0, False)
    for wrong in (UNKNOWN, "abc", None, panda.submit()):
        status, (accepted, message) = Client.send_file_recovery_request(wrong)
        assert (status, accepted) == (0, False)
        assert message


async def test_lost_files_are_made_again(panda: Panda) -> None:
    dataset = f"user.x.{uuid4().hex}"
    made = {"type": "template", "param_type": "output", "value": "out.${SN}.txt", "dataset": dataset}
    task_id = panda.submit(
        parameters(2, jobParameters=[{"type": "constant", "value": "-c 'echo hello > \"$0\"'"}, made])
    )
    panda.pilot(task_id, 2)
    panda.await_task(task_id, "done")
    before = Client.getPandaIDsWithTaskID(task_id)[1]
    token = panda.stack.token(panda.stack.admin[0])
    async with RegistryClient(panda.stack.url, token) as registry:
        assert await registry.delete_version("outputs", dataset, f"{task_id}.000001", force=True)
        status, (accepted, message) = Client.send_file_recovery_request(task_id, dry_run=True)
        assert (status, accepted) == (0, True)
        assert "1 files" in message
        assert dataset in message
        assert Client.getTaskStatus(task_id) == (0, "done"), "nothing was changed"
        status, (accepted, message) = Client.send_file_recovery_request(task_id)
        assert (status, accepted) == (0, True)
        panda.pilot(task_id, 1)
        panda.await_task(task_id, "done")
    assert len(Client.getPandaIDsWithTaskID(task_id)[1]) == len(before) + 1
    assert "no files" in Client.send_file_recovery_request(task_id)[1][1]


def test_readers_need_no_token(panda: Panda) -> None:
    task_id, ids = panda.ready()
    panda.be_nobody()
    assert Client.getTaskStatus(task_id) == (0, "running")
    assert Client.getTaskParamsMap(task_id)[1][0] == 0
    assert Client.getPandaIDsWithTaskID(task_id) == (0, ids)
    assert [spec.PandaID for spec in Client.getJobStatus(ids)[1]] == ids
    assert [spec.PandaID for spec in Client.getFullJobStatus(ids)[1]] == ids
