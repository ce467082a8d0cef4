"""RSEs, replicas and proximity through the mirror, against a live stack."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from drayman.data_dispatcher.api import APIError, AuthenticationError, DataDispatcherClient, NotFoundError
from drayman.testing import LocalStack

RSE_KEYS = [
    "name",
    "description",
    "is_enabled",
    "is_available",
    "is_tape",
    "pin_url",
    "poll_url",
    "remove_prefix",
    "add_prefix",
    "pin_prefix",
    "preference",
    "type",
]
REPLICA_KEYS = ["name", "namespace", "path", "rse", "url", "urls", "preference", "available", "rse_available"]


@pytest.fixture
def admin(stack: LocalStack) -> DataDispatcherClient:
    return DataDispatcherClient(stack.url, token=stack.token(stack.admin[0]), worker_id="admin")


@pytest.fixture
def rse() -> str:
    return f"RSE-{uuid.uuid4().hex}"


def refusal(call: Callable[[], object], kind: type[APIError] = APIError) -> APIError:
    with pytest.raises(kind) as refused:
        call()
    return refused.value


def test_rses(admin: DataDispatcherClient, stack: LocalStack, rse: str) -> None:
    anonymous = DataDispatcherClient(stack.url, worker_id="w")
    created = admin.create_rse(rse, "a disk", pin_url="https://pin", preference=3, interface="wlcg")
    assert list(created) == RSE_KEYS
    assert created == {
        "name": rse,
        "description": "a disk",
        "is_enabled": True,
        "is_available": True,
        "is_tape": False,
        "pin_url": "https://pin",
        "poll_url": None,
        "remove_prefix": None,
        "add_prefix": None,
        "pin_prefix": None,
        "preference": 3,
        "type": "wlcg",
    }
    assert anonymous.get_rse(rse) == created
    assert created in anonymous.list_rses()
    assert refusal(lambda: admin.create_rse(rse, "again")).StatusCode == 409
    assert refusal(lambda: admin.create_rse("", "nameless")).StatusCode == 400
    changed = admin.update_rse(rse, "a tape", is_enabled=False, is_tape=True, add_prefix="/pnfs")
    assert changed == created | {"description": "a tape", "is_enabled": False, "is_tape": True, "add_prefix": "/pnfs"}
    assert changed in anonymous.list_rses(), "disabled ones are listed"
    assert admin.set_rse_availability(rse, False) == changed | {"is_available": False}
    admin.delete_rse(rse)
    assert anonymous.get_rse(rse) is None


def test_an_unknown_interface_is_none(admin: DataDispatcherClient, rse: str) -> None:
    assert admin.create_rse(rse, "", interface="carrier pigeon")["type"] is None


def test_missing_rses(admin: DataDispatcherClient, rse: str) -> None:
    assert admin.get_rse(rse) is None
    assert admin.set_rse_availability(rse, True) is None
    assert admin.update_rse(rse, "none") is None
    assert refusal(lambda: admin.delete_rse(rse), NotFoundError).StatusCode == 404
    replica = {"namespace": "n", "name": "f", "rse": rse, "url": "root://x"}
    assert refusal(lambda: admin.add_replicas([replica]), NotFoundError).StatusCode == 404


def test_changes_are_for_administrators(stack: LocalStack, admin: DataDispatcherClient, rse: str) -> None:
    admin.create_rse(rse)
    name = f"u{uuid.uuid4().hex}"
    stack.add_user(name)
    ann = DataDispatcherClient(stack.url, token=stack.token(name), worker_id="w")
    anonymous = DataDispatcherClient(stack.url, worker_id="w")
    changes: list[Callable[[DataDispatcherClient], object]] = [
        lambda client: client.create_rse(rse + "x"),
        lambda client: client.update_rse(rse, "mine"),
        lambda client: client.set_rse_availability(rse, False),
        lambda client: client.delete_rse(rse),
        lambda client: client.add_replicas([{"namespace": "n", "name": "f", "rse": rse}]),
        lambda client: client.set_proximity("SITE", rse, 1),
    ]
    for change in changes:
        error = refusal(lambda: change(ann))  # noqa: B023 - called at once
        assert (error.StatusCode, error.Message.startswith("Not authorized")) == (403, True)
        assert refusal(lambda: change(anonymous), AuthenticationError).StatusCode == 401  # noqa: B023 - called at once


@pytest.mark.parametrize(
    "item", [{"namespace": "n", "name": "f"}, {"namespace": "n", "rse": "R"}, {"name": "f", "rse": "R"}]
)
def test_replicas_that_are_none(admin: DataDispatcherClient, item: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needed"):
        admin.add_replicas([item])


def test_replicas_and_proximity(admin: DataDispatcherClient, rse: str) -> None:
    near, far, unknown, down, disabled = (f"{rse}-{part}" for part in ("near", "far", "unknown", "down", "disabled"))
    site = f"SITE-{uuid.uuid4().hex}"
    for name in (near, far, unknown, down, disabled):
        admin.create_rse(name)
    admin.set_proximity(site, near, 1)
    admin.set_proximity(site, far, 50)
    admin.set_rse_availability(down, False)
    admin.update_rse(disabled, is_enabled=False)
    file, other = f"f{uuid.uuid4().hex}", f"g{uuid.uuid4().hex}"
    replicas: list[dict[str, Any]] = [
        {
            "namespace": "n",
            "name": file,
            "rse": far,
            "urls": ["root://far/1", "https://far/2"],
            "path": "/p",
            "preference": 7,
        },
        {"namespace": "n", "name": file, "rse": unknown, "url": "root://unknown"},
        {"namespace": "n", "name": file, "rse": near, "url": "root://near"},
        {"namespace": "n", "name": file, "rse": down, "url": "root://down"},
        {"namespace": "n", "name": file, "rse": disabled, "url": "root://disabled"},
        {"namespace": "n", "name": other, "rse": near, "url": "root://tape", "available": False},
    ]
    assert admin.add_replicas(iter(replicas)) == 6
    number = admin.create_project([f"n:{file}", f"n:{other}"])["project_id"]

    handle = admin.get_handle(number, "n", file)
    assert handle is not None
    assert set(handle["replicas"]) == {near, far, unknown, down, disabled}
    assert handle["replicas"][far] == {
        "name": file,
        "namespace": "n",
        "path": "/p",
        "rse": far,
        "url": "root://far/1",
        "urls": ["root://far/1", "https://far/2"],
        "preference": 7,
        "available": True,
        "rse_available": True,
    }
    assert list(handle["replicas"][near]) == REPLICA_KEYS
    assert handle["replicas"][near]["path"] is None
    assert handle["replicas"][down]["rse_available"] is False
    project = admin.get_project(number, with_replicas=True)
    assert project is not None
    assert [set(h["replicas"]) for h in project["file_handles"]] == [set(handle["replicas"]), {near}]

    given = admin.next_file(number, cpu_site=site, timeout=5)
    assert isinstance(given, dict)
    assert given["name"] == file
    assert list(given["replicas"]) == [near, far, unknown], "nearest first, those without a distance last"
    assert [(r["preference"], r["proximity"]) for r in given["replicas"].values()][:2] == [(1, 1), (50, 50)]
    assert given["replicas"][unknown]["proximity"] is None
    assert list(given["replicas"][near]) == [*REPLICA_KEYS, "proximity"]
    assert admin.next_file(number, cpu_site=site, timeout=0) is True, "the other file's only copy cannot be read"

    admin.add_replicas([replicas[-1] | {"available": True}])
    second = admin.next_file(number, timeout=10)
    assert isinstance(second, dict)
    assert second["name"] == other


def test_an_entry_of_the_map_can_be_removed(admin: DataDispatcherClient, rse: str) -> None:
    site, file = f"SITE-{uuid.uuid4().hex}", f"f{uuid.uuid4().hex}"
    admin.create_rse(rse)
    admin.set_proximity(site, rse, 4)
    admin.set_proximity(site, "DEFAULT", 9)
    admin.add_replicas([{"namespace": "n", "name": file, "rse": rse, "url": "root://x"}])
    number = admin.create_project([f"n:{file}"])["project_id"]
    distances = []
    for change in (None, rse):
        if change:
            admin.set_proximity(site, change, None)
        given = admin.next_file(number, cpu_site=site, timeout=5)
        assert isinstance(given, dict)
        distances.append(given["replicas"][rse]["proximity"])
        admin.file_failed(number, given)
    assert distances == [4, 9]
    assert refusal(lambda: admin.set_proximity("", rse, 1)).StatusCode == 400


def test_replicas_go_with_their_rse(admin: DataDispatcherClient, rse: str) -> None:
    admin.create_rse(rse)
    file = f"f{uuid.uuid4().hex}"
    admin.add_replicas([{"namespace": "n", "name": file, "rse": rse, "url": "root://x"}])
    number = admin.create_project([f"n:{file}"])["project_id"]
    admin.delete_rse(rse)
    handle = admin.get_handle(number, "n", file)
    assert handle is not None
    assert handle["replicas"] == {}
