"""How many files may be reserved at a time: in a project, and at an RSE, whoever hands them out."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DispatchClient, File, Handle, Project, ProjectEnded, Replica, Rse, TimedOut
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

PATIENCE = 20.0


@pytest_asyncio.fixture
async def near_and_far(admin: DispatchClient) -> AsyncIterator[tuple[str, str, str]]:
    """A CPU site, an RSE near to it and one far away."""
    mark = uuid4().hex[:8]
    site, near, far = f"site-{mark}", f"near-{mark}", f"far-{mark}"
    for name in (near, far):
        await admin.create_rse(Rse(name))
    await admin.set_proximity(site, near, 1)
    await admin.set_proximity(site, far, 50)
    yield site, near, far
    for name in (near, far):
        await admin.delete_rse(name)


async def project_at(dispatch: DispatchClient, admin: DispatchClient, count: int, *rses: str) -> Project:
    mark = uuid4().hex[:8]
    names = [f"f{number}" for number in range(count)]
    await admin.update_replicas([Replica(mark, name, rse, (f"file:///{name}",)) for name in names for rse in rses])
    return await dispatch.create_project([File(mark, name) for name in names])


async def take(dispatch: DispatchClient, project: Project, count: int, site: str = "") -> list[Handle]:
    got = await dispatch.reserve(project.project_id, "w", count, cpu_site=site, timeout=0)
    return got if isinstance(got, list) else []


async def test_no_more_are_reserved_than_the_project_allows(dispatch: DispatchClient) -> None:
    files = [File("ns", f"f{number}") for number in range(30)]
    project = await dispatch.create_project(files, attributes={"virtual": True}, max_running=4)
    batches = await asyncio.gather(*(take(dispatch, project, 3) for _ in range(10)))
    assert sum(map(len, batches)) == 4
    waiting = asyncio.create_task(dispatch.next_file(project.project_id, "late"))
    refused = await dispatch.next_file(project.project_id, "impatient", timeout=0)
    assert isinstance(refused, TimedOut)
    assert refused.hindrances is not None
    assert (refused.hindrances.ready, refused.hindrances.at_limit, refused.hindrances.reserved) == (0, 26, 4)
    held = [handle for batch in batches for handle in batch]
    await dispatch.done(held.pop())
    async with asyncio.timeout(PATIENCE):
        assert isinstance(await waiting, Handle)
    assert await take(dispatch, project, 5) == []
    for handle, outcome in zip(held, ("done", "failed", "release"), strict=True):
        await getattr(dispatch, outcome)(handle)
    assert len(await take(dispatch, project, 9)) == 3


async def test_restarting_makes_room(dispatch: DispatchClient) -> None:
    files = [File("ns", f"f{number}") for number in range(5)]
    project = await dispatch.create_project(files, attributes={"virtual": True}, max_running=2)
    assert len(await take(dispatch, project, 5)) == 2
    await dispatch.restart_handles(project.project_id, states=["reserved"])
    assert len(await take(dispatch, project, 5)) == 2


async def test_no_more_are_read_from_an_rse_than_it_allows(
    dispatch: DispatchClient, admin: DispatchClient, near_and_far: tuple[str, str, str]
) -> None:
    site, near, _ = near_and_far
    await admin.update_rse(near, max_running=3)
    assert (await admin.get_rse(near)).max_running == 3
    projects = [await project_at(dispatch, admin, 10, near) for _ in range(3)]
    batches = await asyncio.gather(*(take(dispatch, project, 2, site) for project in projects * 2))
    held = [handle for batch in batches for handle in batch]
    assert len(held) == 3
    waiting = asyncio.create_task(dispatch.next_file(projects[0].project_id, "late", cpu_site=site))
    explained = (await dispatch.explain_project(projects[0].project_id, site)).hindrances
    assert explained.ready == 0
    assert explained.at_rse_limit == 10 - explained.reserved
    await dispatch.done(held.pop())
    async with asyncio.timeout(PATIENCE):
        assert isinstance(await waiting, Handle)
    assert await take(dispatch, projects[1], 1, site) == []
    await admin.update_rse(near, max_running=0)
    assert len(await take(dispatch, projects[1], 4, site)) == 4


async def test_a_full_rse_leaves_the_next_one(
    dispatch: DispatchClient, admin: DispatchClient, near_and_far: tuple[str, str, str]
) -> None:
    site, near, far = near_and_far
    await admin.update_rse(near, max_running=2)
    project = await project_at(dispatch, admin, 6, near, far)
    first, then = await take(dispatch, project, 2, site), await take(dispatch, project, 2, site)
    assert [handle.replicas[0].rse for handle in first] == [near, near]
    assert [handle.replicas[0].rse for handle in then] == [far, far]


@pytest.mark.parametrize("way", ["restart", "delete"])
async def test_an_rse_gets_back_what_ends_without_a_report(
    dispatch: DispatchClient, admin: DispatchClient, near_and_far: tuple[str, str, str], way: str
) -> None:
    site, near, _ = near_and_far
    await admin.update_rse(near, max_running=2)
    project, other = [await project_at(dispatch, admin, 4, near) for _ in range(2)]
    assert len(await take(dispatch, project, 4, site)) == 2
    assert await take(dispatch, other, 4, site) == []
    if way == "restart":
        await dispatch.restart_handles(project.project_id, states=["reserved"])
    else:
        await dispatch.delete_project(project.project_id)
    assert len(await take(dispatch, other, 4, site)) == 2


async def test_limits_hold_over_replicas_under_load(
    stack: LocalStack, replica: tuple[ServiceProcess, str], admin: DispatchClient, near_and_far: tuple[str, str, str]
) -> None:
    site, near, far = near_and_far
    await admin.update_rse(near, max_running=3)
    await admin.update_rse(far, max_running=2)
    projects = [await project_at(admin, admin, 60, near, far) for _ in range(2)]
    running = {near: 0, far: 0}
    most = dict(running)
    token = stack.token(stack.admin[0])

    async def work(number: int, client: DispatchClient) -> int:
        done = 0
        project = projects[number % 2]
        while isinstance(handle := await client.next_file(project.project_id, f"w{number}", cpu_site=site), Handle):
            rse = handle.replicas[0].rse
            running[rse] += 1
            most[rse] = max(most[rse], running[rse])
            await asyncio.sleep(0.002)
            running[rse] -= 1
            await client.done(handle)
            done += 1
        assert isinstance(handle, ProjectEnded)
        return done

    async with DispatchClient(replica[1], token) as second, asyncio.timeout(60):
        counts = await asyncio.gather(*(work(n, (admin, second)[n // 2 % 2]) for n in range(16)))
    assert sum(counts) == 120
    assert most[near] <= 3
    assert most[far] <= 2
