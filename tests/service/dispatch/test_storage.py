"""Storage over a real channel: RSEs, replicas, and who is given what from where."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DispatchClient, File, Handle, InvalidRequestError, NotFoundError, Replica, Rse, TimedOut

PATIENCE = 10.0
Site = tuple[str, str, str]


@pytest_asyncio.fixture
async def site(admin: DispatchClient) -> Site:
    """A CPU site, an RSE that is near to it, and one that is far."""
    mark = uuid4().hex[:8]
    cpu, near, far = f"CPU_{mark}", f"NEAR_{mark}", f"FAR_{mark}"
    for rse, distance in ((near, 1), (far, 10)):
        await admin.create_rse(Rse(rse))
        await admin.set_proximity(cpu, rse, distance)
    return cpu, near, far


@pytest.fixture
def put(admin: DispatchClient) -> Callable[..., Awaitable[Any]]:
    async def put_replicas(rse: str, namespace: str, *names: str, **fields: Any) -> None:
        await admin.update_replicas(
            [Replica(namespace, name, rse, urls=(f"root://{rse}/{name}", "second"), **fields) for name in names]
        )

    return put_replicas


async def names(dispatch: DispatchClient, project_id: int, cpu: str, count: int) -> list[str]:
    got = await dispatch.reserve(project_id, "w", count, cpu_site=cpu, timeout=0)
    return [handle.name for handle in got] if isinstance(got, list) else []


async def test_only_files_that_can_be_read_and_the_nearest_first(
    dispatch: DispatchClient, admin: DispatchClient, site: Site, put: Any
) -> None:
    cpu, near, far = site
    await put(far, cpu, "a", "b")
    await put(near, cpu, "c", "d")
    await put(near, cpu, "b", path="/b", preference=7)
    await put(near, cpu, "e", available=False)
    project = await dispatch.create_project([File(cpu, name) for name in "abcdef"])
    got = await dispatch.reserve(project.project_id, "w", 10, cpu_site=cpu, timeout=0)
    assert isinstance(got, list)
    assert [handle.name for handle in got] == ["b", "c", "d", "a"]
    first = got[0]
    assert [(replica.rse, replica.proximity, replica.preference) for replica in first.replicas] == [
        (near, 1, 1),
        (far, 10, 10),
    ]
    assert first.replicas[0].path == "/b"
    assert first.replicas[0].urls == (f"root://{near}/b", "second")
    listed = [h async for h in dispatch.handles(project.project_id, with_replicas=True)]
    assert {replica.rse: replica.preference for replica in listed[1].replicas} == {near: 7, far: 0}
    assert listed[5].replicas == ()


async def test_fewer_attempts_come_before_nearer(dispatch: DispatchClient, site: Site, put: Any) -> None:
    cpu, near, far = site
    await put(near, cpu, "near")
    await put(far, cpu, "far")
    project = await dispatch.create_project([File(cpu, "near"), File(cpu, "far")])
    first = await dispatch.next_file(project.project_id, "w", cpu_site=cpu)
    assert isinstance(first, Handle)
    assert first.name == "near"
    await dispatch.failed(first)
    assert await names(dispatch, project.project_id, cpu, 2) == ["far", "near"]


async def test_an_rse_that_goes_down_takes_its_files_along_and_brings_them_back(
    dispatch: DispatchClient, admin: DispatchClient, site: Site, put: Any
) -> None:
    cpu, near, far = site
    await put(near, cpu, "a", "b")
    await put(far, cpu, "b")
    project = await dispatch.create_project([File(cpu, "a"), File(cpu, "b")])
    for change in ({"is_available": False}, {"is_enabled": False}):
        await admin.update_rse(near, **change)
        handle = await dispatch.next_file(project.project_id, "w", cpu_site=cpu, timeout=0)
        assert isinstance(handle, Handle)
        assert (handle.name, [replica.rse for replica in handle.replicas]) == ("b", [far])
        assert isinstance(await dispatch.next_file(project.project_id, "w", cpu_site=cpu, timeout=0), TimedOut)
        waits = asyncio.Event()
        waiting = asyncio.create_task(
            dispatch.next_file(project.project_id, "waiting", cpu_site=cpu, on_wait=lambda _, w=waits: w.set())
        )
        async with asyncio.timeout(PATIENCE):
            await waits.wait()
            await admin.update_rse(near, **dict.fromkeys(change, True))
            got = await waiting
        assert got.name == "a"
        await dispatch.release(handle)
        await dispatch.release(got)


async def test_a_replica_that_appears_wakes_who_waits(dispatch: DispatchClient, site: Site, put: Any) -> None:
    cpu, near, _ = site
    project = await dispatch.create_project([File(cpu, "a")])
    waits = asyncio.Event()
    waiting = asyncio.create_task(
        dispatch.next_file(project.project_id, "w", cpu_site=cpu, on_wait=lambda _: waits.set())
    )
    async with asyncio.timeout(PATIENCE):
        await waits.wait()
        await put(near, cpu, "a")
        got = await waiting
    assert [replica.rse for replica in got.replicas] == [near]


async def test_a_replica_that_goes_takes_the_file_out_of_reach(
    dispatch: DispatchClient, admin: DispatchClient, site: Site, put: Any
) -> None:
    cpu, near, _ = site
    await put(near, cpu, "a", "b")
    project = await dispatch.create_project([File(cpu, "a"), File(cpu, "b")])
    await admin.update_replicas(deletes=[Replica(cpu, "a", near)])
    await put(near, cpu, "b", available=False)
    assert await names(dispatch, project.project_id, cpu, 9) == []
    await put(near, cpu, "b")
    assert await names(dispatch, project.project_id, cpu, 9) == ["b"]
    assert await admin.replicas([File(cpu, "a")]) == []


async def test_rses_are_made_changed_and_removed(admin: DispatchClient, dispatch: DispatchClient, put: Any) -> None:
    name = f"RSE_{uuid4().hex[:8]}"
    made = await admin.create_rse(Rse(name, "tape", is_tape=True, pin_url="http://pin", preference=3, type="wlcg"))
    assert made == Rse(name, "tape", is_tape=True, pin_url="http://pin", preference=3, type="wlcg")
    changed = await admin.update_rse(name, description="", is_available=False, preference=0)
    assert changed == Rse(name, "", is_available=False, is_tape=True, pin_url="http://pin", type="wlcg")
    assert await dispatch.get_rse(name) == changed
    assert changed in await dispatch.rses()
    await put(name, name, "a", "b")
    assert await admin.delete_rse(name) == 2
    for call in (admin.get_rse, admin.delete_rse, admin.update_rse):
        with pytest.raises(NotFoundError):
            await call(name)
    assert await admin.replicas([File(name, "a")]) == []


async def test_files_of_a_removed_rse_are_out_of_reach(
    dispatch: DispatchClient, admin: DispatchClient, site: Site, put: Any
) -> None:
    cpu, near, _ = site
    await put(near, cpu, "a")
    project = await dispatch.create_project([File(cpu, "a")])
    await admin.delete_rse(near)
    assert await names(dispatch, project.project_id, cpu, 1) == []


async def test_unknown_rses_and_odd_names(admin: DispatchClient, site: Site, put: Any) -> None:
    with pytest.raises(NotFoundError, match="NO_SUCH_RSE"):
        await put("NO_SUCH_RSE", "n", "a")
    with pytest.raises(InvalidRequestError):
        await put(site[1], "n", "")
    with pytest.raises(InvalidRequestError):
        await put(site[1], "n", "a\x00b")
    with pytest.raises(InvalidRequestError):
        await admin.create_rse(Rse(""))
    with pytest.raises(InvalidRequestError):
        await admin.set_proximity("", "x", 1)


async def test_the_map_is_read_back(admin: DispatchClient, site: Site) -> None:
    cpu, near, far = site
    assert await admin.proximities(cpu) == [(cpu, far, 10), (cpu, near, 1)]
    await admin.set_proximity(cpu, far, None)
    assert await admin.proximities(cpu) == [(cpu, near, 1)]
