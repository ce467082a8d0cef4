"""Projects and handles through the mirror, against a live stack."""

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from drayman.data_dispatcher.api import APIError, AuthenticationError, DataDispatcherClient, NotFoundError
from drayman.testing import LocalStack

PROJECT_KEYS = [
    "project_id",
    "owner",
    "state",
    "retry_count",
    "attributes",
    "created_timestamp",
    "ended_timestamp",
    "active",
    "query",
    "worker_timeout",
    "idle_timeout",
    "users",
    "roles",
]
HANDLE_KEYS = ["project_id", "namespace", "name", "state", "worker_id", "attempts", "attributes", "reserved_since"]
VIRTUAL = {"virtual": True}
NOBODY = 2**62

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


@pytest.fixture
def anonymous(stack: LocalStack) -> DataDispatcherClient:
    return DataDispatcherClient(stack.url, worker_id="nobody")


def status_of(call: Callable[[], object], kind: type[APIError] = APIError) -> int:
    with pytest.raises(kind) as refused:
        call()
    return refused.value.StatusCode


def states(project: dict[str, Any] | None) -> list[str]:
    assert project is not None
    return [handle["state"] for handle in project["file_handles"]]


# --- create_project --------------------------------------------------------------------------------------------------


def test_create_project(ann: DataDispatcherClient) -> None:
    before = time.time()
    files: list[Any] = [
        {"namespace": "b", "name": "2", "attributes": {"own": 1, "both": "file"}, "size": 9},
        "b:1:x",
        "a:z",
    ]
    project = ann.create_project(
        files, {"both": "common", "c": None}, VIRTUAL | {"n": 2**63}, "files from ünïcode", 60, users=["admin"]
    )
    assert list(project) == [*PROJECT_KEYS, "file_handles"]
    owner, _ = ann.auth_info()
    assert project["owner"] == owner
    assert (project["state"], project["active"], project["retry_count"]) == ("active", True, None)
    assert (project["query"], project["worker_timeout"], project["idle_timeout"]) == (
        "files from ünïcode",
        60.0,
        259200.0,
    )
    assert isinstance(project["worker_timeout"], float)
    assert project["attributes"] == {"virtual": True, "n": 2**63}
    assert (project["users"], project["roles"], project["ended_timestamp"]) == (["admin"], [], None)
    assert before - 60 < project["created_timestamp"] < time.time() + 60
    handles = project["file_handles"]
    assert [(handle["namespace"], handle["name"]) for handle in handles] == [("a", "z"), ("b", "1:x"), ("b", "2")]
    assert [list(handle) for handle in handles] == [HANDLE_KEYS] * 3
    assert handles[2] == {
        "project_id": project["project_id"],
        "namespace": "b",
        "name": "2",
        "state": "initial",
        "worker_id": None,
        "attempts": 0,
        "attributes": {"both": "file", "c": None, "own": 1},
        "reserved_since": None,
    }
    assert handles[0]["attributes"] == {"both": "common", "c": None}


def test_attributes_and_names_come_back_as_given(ann: DataDispatcherClient) -> None:
    attributes = {"z": 9007199254740993, "a": [-(2**63), 1.5, "ä\"\\\n\t'%"], "ключ": {"nested": {"🙂": False}}}
    names = ["plain", "with space", "+&#%?=/", "quote'\"", "back\\slash", "tab\tline\n", "日本語", "col:on", "🙂"]
    project = ann.create_project(
        ({"namespace": "ns:ä", "name": name, "attributes": attributes} for name in names),
        project_attributes=VIRTUAL | attributes,
    )
    assert project["attributes"] == VIRTUAL | attributes
    assert list(project["attributes"]) == ["virtual", "z", "a", "ключ"]
    assert [handle["name"] for handle in project["file_handles"]] == sorted(names, key=str.encode)
    assert all(handle["attributes"] == attributes for handle in project["file_handles"])
    for name in names:
        handle = ann.get_handle(project["project_id"], "ns:ä", name)
        assert handle is not None
        assert handle["name"] == name


def test_a_generator_of_many_files(ann: DataDispatcherClient) -> None:
    project = ann.create_project((f"many:{number:05}" for number in range(2_501)), project_attributes=VIRTUAL)
    assert [handle["name"] for handle in project["file_handles"]] == [f"{number:05}" for number in range(2_501)]


def test_large_attributes_go_in_several_messages(ann: DataDispatcherClient) -> None:
    text = "x" * 100_000
    project = ann.create_project((f"n:{number}" for number in range(60)), {"text": text}, VIRTUAL)
    assert len(project["file_handles"]) == 60
    assert all(handle["attributes"] == {"text": text} for handle in project["file_handles"])


def test_an_empty_project(ann: DataDispatcherClient) -> None:
    project = ann.create_project([])
    assert (project["state"], project["active"], project["file_handles"]) == ("active", False, [])
    assert ann.next_file(project["project_id"], timeout=0) is False


@pytest.mark.parametrize("span", [None, 0, -5])
def test_no_time_outs(ann: DataDispatcherClient, span: float | None) -> None:
    project = ann.create_project(["n:f"], worker_timeout=span, idle_timeout=span)
    assert (project["worker_timeout"], project["idle_timeout"]) == (None, None)


def test_refused_creations_leave_nothing(ann: DataDispatcherClient) -> None:
    twice = "n:twice"
    with pytest.raises(APIError, match="n:twice") as refused:
        ann.create_project(["n:a", twice, twice])
    assert (refused.value.StatusCode, refused.value.json()["reason"]) == (400, "DUPLICATE_FILE")
    assert refused.value.URL.endswith("drayman.dispatch.v1.ProjectService/CreateProject")
    assert status_of(lambda: ann.create_project(["n:a"], users=["no such user"])) == 400
    assert status_of(lambda: ann.create_project(["n:a"], roles=["no such role"])) == 400
    assert ann.list_projects(owner=ann.auth_info()[0], state=None, not_state=None) == []
    with pytest.raises(ValueError, match="JSON"):
        ann.create_project(["n:a"], project_attributes={"x": float("nan")})


def test_users_are_kept_once_and_roles_too(person: Person) -> None:
    role = f"r{uuid.uuid4().hex}"
    ann, bob = person(roles=[role]), person()
    names = [ann.auth_info()[0], bob.auth_info()[0]]
    project = ann.create_project(["n:f"], users=[*names, names[1]], roles=[role])
    assert (project["users"], project["roles"]) == (sorted(names), [role])


# --- copy_project ----------------------------------------------------------------------------------------------------


def test_copy_project(person: Person) -> None:
    ann, bob = person(), person()
    original = ann.create_project(
        ["n:b", "n:a"], {"k": 1, "l": 1}, VIRTUAL | {"p": 1}, "text", 60, 120, users=[bob.auth_info()[0]]
    )
    ann.next_file(original["project_id"], timeout=5)
    copy = bob.copy_project(original["project_id"], {"k": 2}, {"p": 2, "q": 3})
    assert copy is not None
    assert list(copy) == [*PROJECT_KEYS, "file_handles"]
    assert copy["project_id"] != original["project_id"]
    assert (copy["owner"], copy["users"], copy["query"]) == (bob.auth_info()[0], [], "text")
    assert copy["attributes"] == VIRTUAL | {"p": 2, "q": 3}
    assert (copy["worker_timeout"], copy["idle_timeout"]) == (60, 120)
    assert [handle["attributes"] for handle in copy["file_handles"]] == [{"k": 2, "l": 1}] * 2
    assert states(copy) == ["initial", "initial"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, 60),
        ("default", 60),
        ("none", None),
        ("None", None),
        ("no timeout", None),
        ("300", 300),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        (7, 7),
        (2.5, 2.5),
        (0, None),
    ],
)
def test_time_outs_of_a_copy(ann: DataDispatcherClient, given: float | str | None, meant: float | None) -> None:
    original = ann.create_project(["n:f"], worker_timeout=60, idle_timeout=60)
    copy = ann.copy_project(original["project_id"], worker_timeout=given, idle_timeout=given)
    assert copy is not None
    assert (copy["worker_timeout"], copy["idle_timeout"]) == (meant, meant)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_get_project(ann: DataDispatcherClient, anonymous: DataDispatcherClient) -> None:
    created = ann.create_project(["n:f"], project_attributes=VIRTUAL)
    number = created["project_id"]
    assert anonymous.get_project(number) == created
    assert anonymous.get_project(str(number)) == created, "ids may be digits"
    assert list(anonymous.get_project(number, with_files=False) or {}) == PROJECT_KEYS
    replicas = anonymous.get_project(number, with_files=False, with_replicas=True)
    assert replicas is not None
    assert list(replicas["file_handles"][0]) == [*HANDLE_KEYS, "replicas"]
    assert replicas["file_handles"][0]["replicas"] == {}


@pytest.mark.parametrize("number", [NOBODY, 0, -1, 2**70])
def test_what_is_missing(ann: DataDispatcherClient, number: int) -> None:
    assert ann.get_project(number) is None
    assert ann.get_handle(number, "n", "f") is None
    assert ann.copy_project(number) is None
    assert ann.restart_handles(number, all=True) is None
    for call in (
        lambda: ann.cancel_project(number),
        lambda: ann.activate_project(number),
        lambda: ann.delete_project(number),
        lambda: ann.list_handles(number),
        lambda: ann.reserved_handles(number),
        lambda: ann.next_file(number, timeout=0),
        lambda: ann.file_done(number, "n:f"),
        lambda: ann.file_failed(number, "n:f"),
    ):
        assert status_of(call, NotFoundError) == 404


def test_list_projects(person: Person) -> None:
    ann, bob = person(), person()
    tag = {"tag": uuid.uuid4().hex}
    first = ann.create_project(["n:f"], project_attributes=tag | {"n": 1})
    second = bob.create_project(["n:f", "n:g"], project_attributes=tag | {"n": "1"})
    third = ann.create_project(["n:f"], project_attributes=tag)
    ann.cancel_project(third["project_id"])

    def listed(**filters: Any) -> list[int]:
        return [project["project_id"] for project in bob.list_projects(attributes=tag, **filters)]

    one, two, three = (project["project_id"] for project in (first, second, third))
    assert bob.list_projects(attributes=tag) == [first, second]
    assert listed(owner="all") == [one, two]
    assert listed(owner=ann.auth_info()[0]) == [one]
    assert listed(state=None) == [one, two, three]
    assert listed(state="cancelled") == [three]
    assert listed(state=None, not_state="active") == [three]
    assert listed(state=None, not_state=None) == [one, two, three]
    assert listed(state="abandoned") == listed(state="no such state") == listed(owner="nobody") == []
    assert [p["project_id"] for p in bob.list_projects(attributes=tag | {"n": 1.0})] == [one]
    assert [p["project_id"] for p in bob.list_projects(attributes=tag | {"n": "1"})] == [two]
    bare = bob.list_projects(attributes=tag, with_files=False)
    assert [list(project) for project in bare] == [PROJECT_KEYS] * 2
    full = bob.list_projects(attributes=tag, with_files=False, with_replicas=True)
    assert [len(project["file_handles"]) for project in full] == [1, 2]
    assert full[0]["file_handles"][0]["replicas"] == {}


def test_list_projects_needs_a_login(anonymous: DataDispatcherClient) -> None:
    with pytest.raises(AuthenticationError, match="Token not found"):
        anonymous.list_projects()


def test_search_projects(person: Person, anonymous: DataDispatcherClient) -> None:
    ann, bob = person(), person()
    mark = uuid.uuid4().hex
    first, second = (
        who.create_project([f"ns:{n}"], project_attributes=VIRTUAL | {"mark": mark, "n": n}, worker_timeout=60 * n)
        for n, who in ((1, ann), (2, bob))
    )
    ann.cancel_project(first["project_id"])

    def found(query: str, **filters: Any) -> list[int]:
        projects = anonymous.search_projects(f"mark = {mark} and {query}", **filters)
        return [project["project_id"] for project in projects]

    one, two = first["project_id"], second["project_id"]
    assert found("n in 1:2") == [two]
    assert found("n in 1:2", state="all") == found("n in 1:2", state=None) == [one, two]
    assert found("n", owner=first["owner"]) == []
    assert found("n", owner=first["owner"], state="cancelled") == [one]
    assert found("n", owner="all", state=None) == [one, two]
    assert found("n", state="no such state") == []
    # trap 21
    assert found("worker_timeout = 60", state=None) == [one]
    assert found("ended_timestamp > 2022-01-01 and ended present", state=None) == [one]
    assert found('created > "2022-01-01" and created_timestamp > 2022-01-01') == [two]

    full = anonymous.search_projects(f"mark = {mark}")
    assert full == [anonymous.get_project(two)]
    assert anonymous.search_projects(f"mark = {mark}", None, "active", False) == [anonymous.get_project(two, False)]
    replicas = anonymous.search_projects(f"mark = {mark}", with_files=False, with_replicas=True)
    assert replicas[0]["file_handles"][0]["replicas"] == {}
    with pytest.raises(APIError, match="line 1, column 4: found the end of the query, expected a value") as refused:
        anonymous.search_projects("n =")
    assert refused.value.StatusCode == 400


def test_handles(ann: DataDispatcherClient, anonymous: DataDispatcherClient) -> None:
    number = ann.create_project(["n:c", "n:b", "m:a"], project_attributes=VIRTUAL)["project_id"]
    held = ann.next_file(number, timeout=5)
    assert isinstance(held, dict)
    handle = anonymous.get_handle(number, held["namespace"], held["name"])
    assert handle is not None
    assert list(handle) == [*HANDLE_KEYS, "replicas"]
    assert (handle["state"], handle["attempts"], handle["worker_id"], handle["replicas"]) == (
        "reserved",
        1,
        ann.WorkerID,
        {},
    )
    assert isinstance(handle["reserved_since"], float)
    assert anonymous.get_handle(number, "n", "none") is None
    listed = anonymous.list_handles(number)
    assert [(h["namespace"], h["name"]) for h in listed] == [("m", "a"), ("n", "b"), ("n", "c")]
    assert [list(h) for h in listed] == [HANDLE_KEYS] * 3
    assert len(anonymous.list_handles(number, state="reserved")) == 1
    assert len(anonymous.list_handles(number, not_state="reserved")) == 2
    assert anonymous.list_handles(number, state="no such state") == []
    assert [h["replicas"] for h in anonymous.list_handles(number, with_replicas=True)] == [{}] * 3


# --- steering --------------------------------------------------------------------------------------------------------


def test_cancel_and_activate(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:f"], project_attributes=VIRTUAL)["project_id"]
    cancelled = ann.cancel_project(number)
    assert list(cancelled) == [*PROJECT_KEYS, "file_handles"]
    assert (cancelled["state"], cancelled["active"]) == ("cancelled", False)
    assert isinstance(cancelled["ended_timestamp"], float)
    assert cancelled["file_handles"][0]["replicas"] == {}
    assert ann.cancel_project(number)["ended_timestamp"] == cancelled["ended_timestamp"]
    assert ann.next_file(number, timeout=0) is False
    active = ann.activate_project(number)
    assert (active["state"], active["active"], active["ended_timestamp"]) == ("active", True, None)
    assert active["file_handles"][0]["replicas"] == {}


def test_a_project_ends_with_its_last_handle(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a", "n:b"], project_attributes=VIRTUAL)["project_id"]
    for final in (False, True):
        held = ann.next_file(number, timeout=5)
        assert isinstance(held, dict)
        if final:
            ann.file_failed(number, held, retry=False)
        else:
            ann.file_done(number, held)
    ended = ann.get_project(number)
    assert ended is not None
    assert (ended["state"], ended["active"]) == ("failed", False)
    assert isinstance(ended["ended_timestamp"], float)
    assert ann.next_file(number, timeout=0) is False


def test_restart_handles(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:done", "n:failed", "n:held", "n:rest"], project_attributes=VIRTUAL)["project_id"]
    assert ann.restart_handles(number) is not None

    def work() -> None:
        for _ in range(3):
            held = ann.next_file(number, timeout=5)
            assert isinstance(held, dict)
            if held["name"] == "done":
                ann.file_done(number, held)
            elif held["name"] == "failed":
                ann.file_failed(number, held, retry=False)

    work()
    assert states(ann.get_project(number)) == ["done", "failed", "reserved", "initial"]
    again = ann.restart_handles(number, done=True)
    assert again is not None
    assert list(again) == [*PROJECT_KEYS, "file_handles"]
    assert states(again) == ["initial", "failed", "reserved", "initial"]
    assert again["file_handles"][0]["attempts"] == 1
    assert again["file_handles"][0]["replicas"] == {}
    assert states(ann.restart_handles(number, failed=True)) == ["initial", "initial", "reserved", "initial"]
    assert states(ann.restart_handles(number, reserved=True)) == ["initial"] * 4
    assert status_of(lambda: ann.file_done(number, "n:held")) == 403


def test_restart_of_named_handles_ignores_flags_and_strangers(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a", "n:b"], project_attributes=VIRTUAL)["project_id"]
    for _ in range(2):
        held = ann.next_file(number, timeout=5)
        assert isinstance(held, dict)
        ann.file_done(number, held)
    again = ann.restart_handles(number, done=True, handles=["n:b", "n:stranger"])
    assert again is not None
    assert states(again) == ["done", "initial"]
    assert (again["state"], again["ended_timestamp"]) == ("active", None)
    assert states(ann.restart_handles(number, all=True, handles=[again["file_handles"][0]])) == ["initial", "initial"]


def test_an_empty_restart_changes_nothing(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    ann.cancel_project(number)
    project = ann.restart_handles(number)
    assert project is not None
    assert project["state"] == "cancelled"


def test_delete_project(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"])["project_id"]
    ann.delete_project(number)
    assert ann.get_project(number) is None


# --- who may (4, 7) --------------------------------------------------------------------------------------------------


def test_steering_is_for_the_owner_and_administrators(
    stack: LocalStack, person: Person, anonymous: DataDispatcherClient
) -> None:
    ann, bob = person(), person()
    number = ann.create_project(["n:a"], users=[bob.auth_info()[0]], project_attributes=VIRTUAL)["project_id"]
    for name in ("cancel_project", "activate_project", "restart_handles", "delete_project"):
        with pytest.raises(APIError, match="Forbidden") as refused:
            getattr(bob, name)(number)
        assert refused.value.StatusCode == 403
        with pytest.raises(APIError, match="Token not found") as refused:
            getattr(anonymous, name)(number)
        assert refused.value.StatusCode == 401
    admin = DataDispatcherClient(stack.url, token=stack.token(stack.admin[0]), worker_id="w")
    assert admin.cancel_project(number)["state"] == "cancelled"
    assert admin.activate_project(number)["state"] == "active"
    admin.delete_project(number)


def test_a_login_is_needed_to_create_and_to_work(ann: DataDispatcherClient, anonymous: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    for call in (
        lambda: anonymous.create_project(["n:a"]),
        lambda: anonymous.copy_project(number),
        lambda: anonymous.next_file(number, timeout=0),
        lambda: anonymous.file_done(number, "n:a"),
    ):
        assert status_of(call, AuthenticationError) == 401


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_forked_child_connects_anew(ann: DataDispatcherClient) -> None:
    number = ann.create_project(["n:a"], project_attributes=VIRTUAL)["project_id"]
    child = os.fork()
    if child == 0:
        try:
            found = ann.get_project(number)
            os._exit(0 if found and found["project_id"] == number else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert ann.get_project(number) is not None


def test_a_closed_client_opens_again(ann: DataDispatcherClient) -> None:
    assert ann.version()
    ann.close()
    assert ann.version()
