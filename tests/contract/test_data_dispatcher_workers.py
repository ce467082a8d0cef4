"""The worker's side through the mirror, against a live stack."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from drayman.data_dispatcher import workers
from drayman.data_dispatcher.api import APIError, AuthenticationError, DataDispatcherClient, NotFoundError
from drayman.testing import LocalStack

HANDLE_KEYS = ["project_id", "namespace", "name", "state", "worker_id", "attempts", "attributes", "reserved_since"]
VIRTUAL = {"virtual": True}

Person = Callable[..., DataDispatcherClient]


@pytest.fixture
def person(stack: LocalStack) -> Person:
    """Makes users, each with a client of their own."""

    def make(**user: Any) -> DataDispatcherClient:
        name = f"u{uuid.uuid4().hex}"
        stack.add_user(name, **user)
        return DataDispatcherClient(stack.url, token=stack.token(name), worker_id=f"w-{name}")

    return make


@pytest.fixture
def ann(person: Person) -> DataDispatcherClient:
    return person()


def held(result: dict[str, Any] | bool) -> dict[str, Any]:
    assert isinstance(result, dict)
    return result


def refusal(call: Callable[[], object], kind: type[APIError] = APIError) -> APIError:
    with pytest.raises(kind) as refused:
        call()
    return refused.value


class Later:
    """A call in a thread; `result` waits for it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._found: list[object] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._call())
        except Exception as error:  # noqa: BLE001,RUF100 - handed to the test
            self._found.append(error)

    @property
    def result(self) -> object:
        self._thread.join(60)
        assert self._found, "no result after a minute"
        return self._found[0]


# --- next_file -------------------------------------------------------------------------------------------------------


def test_next_file(ann: DataDispatcherClient) -> None:
    project = ann.create_project(["n:a"], {"k": "ä"}, VIRTUAL | {"p": 2**62}, worker_timeout=600)
    file = held(ann.next_file(project["project_id"], timeout=5))
    assert list(file) == [*HANDLE_KEYS, "replicas", "project_attributes"]
    assert (file["namespace"], file["name"], file["state"], file["attempts"]) == ("n", "a", "reserved", 1)
    assert (file["worker_id"], file["attributes"]) == (ann.WorkerID, {"k": "ä"})
    assert (file["project_attributes"], file["replicas"]) == ({"virtual": True, "p": 2**62}, {})
    assert abs(file["reserved_since"] - time.time()) < 60


def test_the_same_worker_gets_another_file(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a", "n:b"], project_attributes=VIRTUAL)["project_id"]
    assert {held(ann.next_file(number, timeout=5))["name"] for _ in range(2)} == {"a", "b"}
    assert len(ann.reserved_handles(number)) == 2


def test_true_means_try_later(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, worker_id="other", timeout=0))
    start = time.monotonic()
    assert ann.next_file(number, timeout=0) is True
    assert ann.next_file(number, timeout=-3) is True
    assert time.monotonic() - start < 5, "the default stagger waits for nothing"
    start = time.monotonic()
    assert ann.next_file(number, timeout=0.5, stagger=0) is True
    assert 0.5 <= time.monotonic() - start < 10


def test_a_given_stagger_is_kept_within_the_time_out(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    start = time.monotonic()
    held(ann.next_file(number, timeout=0, stagger=1000))
    assert time.monotonic() - start < 10


def test_a_file_without_replica_is_not_handed_out(ann: DataDispatcherClient) -> None:
    number = ann.create_project([f"n:{uuid.uuid4().hex}"])["project_id"]
    assert ann.next_file(number, timeout=0) is True


def test_a_waiting_worker_gets_what_another_gives_back(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    file = held(ann.next_file(number, timeout=5))
    waiting = Later(lambda: ann.next_file(number, worker_id="second"))
    ann.file_failed(number, file)
    again = waiting.result
    assert isinstance(again, dict)
    assert (again["worker_id"], again["attempts"]) == ("second", 2)


def test_a_long_wait_is_asked_for_in_pieces(ann: DataDispatcherClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PIECE", 0.1)
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    file = held(ann.next_file(number, timeout=5))
    start = time.monotonic()
    assert ann.next_file(number, worker_id="second", timeout=0.5) is True
    assert time.monotonic() - start >= 0.5
    waiting = Later(lambda: ann.next_file(number, worker_id="second"))
    ann.file_failed(number, file)
    assert isinstance(waiting.result, dict)


def test_a_waiting_worker_hears_of_the_end(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    file = held(ann.next_file(number, timeout=5))
    waiting = Later(lambda: ann.next_file(number, worker_id="second"))
    ann.file_done(number, file)
    assert waiting.result is False


@pytest.mark.parametrize("end", ["cancel_project", "done"])
def test_false_means_the_project_is_over(ann: DataDispatcherClient, end: str) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    if end == "done":
        ann.file_done(number, held(ann.next_file(number, timeout=5)))
    else:
        ann.cancel_project(number)
    assert ann.next_file(number, timeout=5) is False
    assert ann.next_file(number) is False


def test_false_means_nothing_else(stack: LocalStack, person: Person) -> None:
    ann, bob = person(), person()
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    missing = refusal(lambda: ann.next_file(2**62, timeout=0), NotFoundError)
    assert missing.StatusCode == 404
    assert missing.URL.endswith("drayman.dispatch.v1.HandleService/NextFile")
    stranger = refusal(lambda: bob.next_file(number, timeout=0))
    assert (stranger.StatusCode, stranger.Message.startswith("Not authorized")) == (403, True)
    nameless = DataDispatcherClient(stack.url, token=ann.Token, worker_id="x")
    nameless.WorkerID = ""
    assert refusal(lambda: nameless.next_file(number, timeout=0)).StatusCode == 400
    bad = DataDispatcherClient(stack.url, token="no token", worker_id="x")
    assert refusal(lambda: bad.next_file(number, timeout=0), AuthenticationError).StatusCode == 401


def test_an_expired_token_raises(stack: LocalStack, ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    name, _ = ann.auth_info()
    short = DataDispatcherClient(stack.url, token=stack.token(name, lifetime=1), worker_id="w")
    held(short.next_file(number, timeout=0))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert short.next_file(number, timeout=0.1) is True
        except AuthenticationError as error:
            assert (error.StatusCode, error.Message) == (401, "Token expired")  # noqa: PT017 - polled
            return
    pytest.fail("the token does not expire")


# --- reports ---------------------------------------------------------------------------------------------------------


def test_file_done(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a", "n:b"], project_attributes=VIRTUAL)["project_id"]
    file = held(ann.next_file(number, timeout=5))
    done = ann.file_done(number, f"{file['namespace']}:{file['name']}")
    assert list(done) == HANDLE_KEYS
    assert (done["state"], done["worker_id"], done["attempts"]) == ("done", None, 1)
    assert done["reserved_since"] == file["reserved_since"], "kept"


def test_file_failed(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, timeout=5))
    again = ann.file_failed(number, "n:a")
    assert list(again) == HANDLE_KEYS
    assert (again["state"], again["worker_id"], again["attempts"]) == ("initial", None, 1)
    assert held(ann.next_file(number, timeout=5))["attempts"] == 2
    assert ann.file_failed(number, "n:a", False)["state"] == "failed"


def test_reports_by_worker_id(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, worker_id="first", timeout=5))
    for call in (lambda: ann.file_done(number, "n:a"), lambda: ann.file_failed(number, "n:a", True, "second")):
        error = refusal(call)
        assert error.StatusCode == 403
        assert error.Message.startswith("Not authorized: wrong worker_id")
    assert ann.file_done(number, "n:a", "first")["state"] == "done"
    twice = refusal(lambda: ann.file_done(number, "n:a", "first"))
    assert (twice.StatusCode, twice.json()["reason"]) == (403, "NOT_RESERVED")


def test_reports_of_files_that_are_not_there(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    assert refusal(lambda: ann.file_done(number, "n:b"), NotFoundError).StatusCode == 404
    assert refusal(lambda: ann.file_done(number, "n:b:c:d"), NotFoundError).StatusCode == 404


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("n", "a:b"), ("n:s", "a"), ("n:s", "a:b"), ("n", "+& #%?/"), ("", "a"), ("ä", "日\t本\\語'\"")],
)
def test_reports_of_odd_names(ann: DataDispatcherClient, namespace: str, name: str) -> None:
    number = ann.create_project([{"namespace": namespace, "name": name}], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, timeout=5))
    ann.file_failed(number, f"{namespace}:{name}")
    file = held(ann.next_file(number, timeout=5))
    assert ann.file_done(number, file)["name"] == name


def test_a_cancelled_project_takes_reports(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, timeout=5))
    ann.cancel_project(number)
    assert ann.file_done(number, "n:a")["state"] == "done"
    project = ann.get_project(number)
    assert project is not None
    assert project["state"] == "cancelled"


def test_listed_users_and_roles_have_the_whole_worker_interface(person: Person) -> None:
    role = f"r{uuid.uuid4().hex}"
    ann, bob, eve, member = person(), person(), person(), person(roles=[role])
    project = ann.create_project(["n:a", "n:b"], project_attributes=VIRTUAL, users=[bob.auth_info()[0]], roles=[role])
    number = project["project_id"]
    for worker in (bob, member):
        file = held(worker.next_file(number, timeout=5))
        error = refusal(lambda: eve.file_done(number, file, file["worker_id"]))  # noqa: B023 - called at once
        assert (error.StatusCode, error.Message.startswith("Not authorized")) == (403, True)
        assert worker.file_done(number, file)["state"] == "done"


def test_reserved_handles(stack: LocalStack, ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a", "n:b", "n:c"], project_attributes=VIRTUAL)["project_id"]
    for worker in (None, None, "other"):
        held(ann.next_file(number, worker_id=worker, timeout=5))
    anonymous = DataDispatcherClient(stack.url, worker_id=ann.WorkerID)
    mine = anonymous.reserved_handles(number)
    assert [list(handle) for handle in mine] == [HANDLE_KEYS] * 2
    assert {handle["worker_id"] for handle in mine} == {ann.WorkerID}
    assert [handle["state"] for handle in anonymous.reserved_handles(number, "other")] == ["reserved"]
    assert anonymous.reserved_handles(number, "nobody") == []


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(own_stack: LocalStack) -> tuple[LocalStack, DataDispatcherClient]:
    """A stack to restart, and a client of it."""
    own_stack.add_user("ann")
    return own_stack, DataDispatcherClient(own_stack.url, token=own_stack.token("ann"), worker_id="w")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_waiting_worker_survives_a_restart(
    broken: tuple[LocalStack, DataDispatcherClient], end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a call that meets the end of a server may be lost: that is noticed soon here
    monkeypatch.setattr(workers, "_PIECE", 3.0)
    monkeypatch.setattr(workers, "_LATE", 3.0)
    stack, ann = broken
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    held(ann.next_file(number, timeout=5))
    begun = threading.Event()

    class Telling(DataDispatcherClient):
        def _hear(self, request: Any, deadline: float) -> Any:
            begun.set()
            return super()._hear(request, deadline)

    second = Telling(stack.url, token=ann.Token, worker_id="second")
    waiting = Later(lambda: second.next_file(number, timeout=60))
    assert begun.wait(10)
    os.kill(stack.pid, end)
    stack.stop_services()
    stack.restart()
    ann.file_failed(number, "n:a")
    file = waiting.result
    assert isinstance(file, dict), file
    assert (file["worker_id"], file["attempts"]) == ("second", 2)
    assert second.file_done(number, file)["state"] == "done"
