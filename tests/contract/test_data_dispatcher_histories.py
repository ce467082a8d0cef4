"""Logs through the mirror: Drayman's additions, with the records of section 11."""

import time
from typing import Any
from uuid import uuid4

import pytest

from drayman.data_dispatcher.api import APIError, DataDispatcherClient, NotFoundError
from drayman.testing import LocalStack


@pytest.fixture
def ann(stack: LocalStack) -> DataDispatcherClient:
    name = f"u{uuid4().hex}"
    stack.add_user(name)
    return DataDispatcherClient(stack.url, token=stack.token(name), worker_id="w1")


def without_time(records: list[dict[str, Any]], since: float) -> list[dict[str, Any]]:
    times = [record.pop("time") for record in records]
    assert times == sorted(times)
    assert all(since - 5 < moment < time.time() + 5 for moment in times)
    return records


def test_the_log_of_a_file(ann: DataDispatcherClient) -> None:
    began = time.time()
    project_id = ann.create_project(["n:a:b"], project_attributes={"virtual": True})["project_id"]
    ann.next_file(project_id)
    ann.file_failed(project_id, "n:a:b")
    ann.next_file(project_id)
    ann.restart_handles(project_id, reserved=True)
    ann.next_file(project_id)
    ann.file_done(project_id, "n:a:b")
    ann.restart_handles(project_id, done=True)
    records = without_time(ann.file_log(project_id, "n:a:b"), began)
    assert {(record.pop("type"), record.pop("did")) for record in records} == {("state", "n:a:b")}
    reserve = {"event": "reserve", "state": "reserved", "old_state": "initial", "worker": "w1"}
    assert [record["data"] for record in records] == [
        {"event": "create", "state": "initial"},
        reserve,
        {"event": "failed", "state": "initial", "old_state": "reserved", "worker": "w1"},
        reserve,
        {"event": "reset", "state": "initial", "old_state": "reserved", "worker": "w1"},
        reserve,
        {"event": "done", "state": "done", "old_state": "reserved", "worker": "w1"},
        {"event": "reset", "state": "initial", "old_state": "done", "worker": None},
    ]
    assert len(ann.handle_log(project_id)) == 8
    assert len(ann.file_log(project_id, {"namespace": "n", "name": "a:b"})) == 8


def test_a_name_with_colons_is_found_however_it_is_split(ann: DataDispatcherClient) -> None:
    files = [{"namespace": "n:a", "name": "b"}]
    project_id = ann.create_project(files, project_attributes={"virtual": True})["project_id"]
    assert [record["did"] for record in ann.file_log(str(project_id), "n:a:b")] == ["n:a:b"]


def test_a_time_out_has_no_old_state(ann: DataDispatcherClient) -> None:
    project_id = ann.create_project(["n:a"], project_attributes={"virtual": True}, worker_timeout=0.2)["project_id"]
    ann.next_file(project_id)
    assert isinstance(ann.next_file(project_id, worker_id="w2", timeout=10), dict)
    timed_out = ann.file_log(project_id, "n:a")[2]["data"]
    assert timed_out == {"event": "worker_timeout", "state": "initial", "worker": "w1", "code": "WORKER_TIMEOUT"}


def test_the_log_of_a_project(ann: DataDispatcherClient) -> None:
    began = time.time()
    original = ann.create_project(["n:a"], project_attributes={"virtual": True})["project_id"]
    copy = ann.copy_project(original)
    assert copy is not None
    project_id = copy["project_id"]
    ann.cancel_project(project_id)
    ann.activate_project(project_id)
    ann.next_file(project_id)
    ann.restart_handles(project_id, reserved=True)
    user = copy["owner"]
    assert without_time(ann.project_log(project_id), began) == [
        {"type": "state", "data": {"event": "create", "state": "active", "user": user, "files": 1}},
        {"type": "event", "data": {"event": "copied", "state": "active", "user": user, "source": original}},
        {"type": "state", "data": {"event": "cancel", "state": "cancelled", "user": user}},
        {"type": "state", "data": {"event": "activate", "state": "active", "user": user}},
        {"type": "event", "data": {"event": "restart", "state": "active", "user": user, "handles_reset": 1}},
    ]


def test_logs_of_what_is_not_there(ann: DataDispatcherClient) -> None:
    project_id = ann.create_project([])["project_id"]
    for call in (ann.project_log, ann.handle_log):
        with pytest.raises(NotFoundError):
            call(2**62)
    for missing in (2**62, project_id):
        with pytest.raises(NotFoundError):
            ann.file_log(missing, "n:a:b")
    with pytest.raises(ValueError, match="namespace:name"):
        ann.file_log(project_id, "a")
    with pytest.raises(APIError):
        ann.project_log("x")
