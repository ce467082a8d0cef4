"""Collections by every kind of name, where reading needs a login; neighbours that are elsewhere, away, or not there at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DispatchClient, File, Replica, Rse, TaskClient
from drayman.client.registry import RegistryClient
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.task.collections import Collections
from drayman.server.task.dataset_names import DatasetNameError
from drayman.server.task.splitting import InputFile
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess
from service.registry.small_upload import upload
from service.task.closed_deployment import channel, closed_stack, identity
from service.task.task_house import parameters, reading

START_SECONDS = 60.0


@pytest.fixture(scope="module")
def closed() -> Iterator[LocalStack]:
    with closed_stack() as stack:
        yield stack


@pytest_asyncio.fixture
async def found(closed: LocalStack) -> AsyncIterator[Collections]:
    async with channel(closed.url) as opened:
        yield Collections(opened, opened, identity(closed), "outputs")


@pytest_asyncio.fixture
async def admin(closed: LocalStack) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(closed.url, closed.token(closed.admin[0])) as client:
        yield client


@pytest_asyncio.fixture
async def dispatch(closed: LocalStack) -> AsyncIterator[DispatchClient]:
    async with DispatchClient(closed.url, closed.token(closed.admin[0])) as client:
        yield client


async def files(collections: Collections, name: str) -> list[InputFile]:
    collection = await collections.find(name)
    assert collection is not None, name
    return [file async for file in collections.files(collection)]


async def put(closed: LocalStack, address: str, *names: str, **options: Any) -> None:
    await upload(
        closed.url,
        closed.token(closed.admin[0]),
        address,
        {name: name.encode() for name in names} | {"empty": None},
        **options,
    )


async def test_the_files_of_a_dispatch_project(found: Collections, dispatch: DispatchClient) -> None:
    rse = f"RSE-{uuid4().hex[:8]}"
    await dispatch.create_rse(Rse(rse))
    given = [
        File("ns", "plain"),
        File("ns", "b", {"size": 10, "nevents": 7, "md5": "abc", "guid": "G"}),
        File("ns", "c", {"fsize": -3, "events": "many", "adler32": "0a", "size": True}),
    ]
    await dispatch.update_replicas(
        [
            Replica("ns", "b", rse, urls=("root://far/b", "file:///near/b"), path="/p/b"),
            Replica("ns", "c", rse, urls=("root://far/c",), available=False),
        ]
    )
    project = await dispatch.create_project(given, attributes={"virtual": True})
    for name in (str(project.project_id), f"dispatch:{project.project_id}"):
        collection = await found.find(name)
        assert collection is not None
        assert not collection.growing
        got = {file.name: file for file in await files(found, name)}
        assert set(got) == {"plain", "b", "c"}
        assert {file.scope for file in got.values()} == {"ns"}
        assert (got["b"].size, got["b"].events, got["b"].checksum, got["b"].guid) == (10, 7, "md5:abc", "G")
        assert set(got["b"].urls) >= {"root://far/b", "file:///near/b"}
        assert (got["c"].size, got["c"].events, got["c"].checksum, got["c"].urls) == (0, 0, "ad:0a", ())
        assert (got["plain"].size, got["plain"].urls, got["plain"].checksum) == (0, (), None)
    growing = await dispatch.create_project(given, attributes={"virtual": True}, open=True)
    collection = await found.find(str(growing.project_id))
    assert collection is not None
    assert collection.growing


async def test_versions_of_the_registry(closed: LocalStack, found: Collections, admin: RegistryClient) -> None:
    project = f"p{uuid4().hex[:8]}"
    await admin.create_project(project)
    await put(closed, f"{project}/a/v1", "one", "d/two")
    await put(closed, f"{project}/a/v2", "three")
    await put(closed, f"{project}/a/v3", "waits", probation=True)
    one, two = sorted(await files(found, f"{project}/a/v1"), key=lambda file: file.name, reverse=True)
    assert (one.name, one.size, one.place) == ("one", 3, f"{project}/a/v1/one")
    assert one.checksum == "md5:f97c5d29941bfb1b2fdab0874906ab82"
    assert (two.name, two.place) == ("d/two", f"{project}/a/v1/d/two")
    assert [file.place for file in await files(found, f"{project}/a")] == [f"{project}/a/v2/three"]
    assert {file.name for file in await files(found, f"{project}/a/")} == {"one", "d/two", "three"}
    assert await found.find(f"{project}/a/v3") is None, "waits for approval"


async def test_outputs_by_their_short_name(closed: LocalStack, found: Collections, admin: RegistryClient) -> None:
    await admin.create_project("outputs")
    name = f"user.ann.{uuid4().hex[:8]}"
    for version, file in (("7.000001", "first"), ("7.000002", "second"), ("9.000001", "other")):
        await put(closed, f"outputs/{name}/{version}", file)
    for written in (name, f"{name}/", f"outputs/{name}/"):
        assert sorted(file.name for file in await files(found, written)) == ["first", "other", "second"]
    await put(closed, f"outputs/{name}/7", "first", "second")
    got = await files(found, name)
    assert sorted(file.name for file in got) == ["first", "other", "second"]
    assert {file.place.rpartition("/")[0] for file in got if file.place} == {
        f"outputs/{name}/7",
        f"outputs/{name}/9.000001",
    }


@pytest.mark.parametrize(
    "name",
    [
        "999999",
        "dispatch:999999",
        "9" * 18,
        "nobody",
        "nobody/",
        "no/body",
        "no/body/",
        "no/bo/dy",
        "ünï/çode",
        "a b",
        "%",
        "x" * 255,
    ],
)
async def test_what_is_not_there(found: Collections, name: str) -> None:
    assert await found.find(name) is None


@pytest.mark.parametrize("name", ["", "0", "dispatch:x", "a/b/c/d", "a//b", "../x", "a\0b", "x" * 300])
async def test_what_is_no_name(found: Collections, name: str) -> None:
    with pytest.raises(DatasetNameError):
        await found.find(name)


async def test_a_neighbour_that_is_not_there() -> None:
    nobody = Collections(None, None, ServiceIdentity("k" * 40), "outputs")
    for name in ("1", "a", "a/b", "a/b/", "a/b/c"):
        assert await nobody.find(name) is None


async def test_a_neighbour_that_is_away_or_knows_another_key(closed: LocalStack) -> None:
    """Neither says anything of the collection: it is asked for again."""
    async with channel("grpc://127.0.0.1:9") as away, channel(closed.url) as opened:
        for collections in (
            Collections(away, away, identity(closed), "outputs"),
            Collections(opened, opened, ServiceIdentity("another key, of another deployment, as long"), "outputs"),
        ):
            for name in ("1", "a/b"):
                with pytest.raises(Refusal) as refused:
                    await collections.find(name)
                assert refused.value.reason == "UNAVAILABLE"


async def last_of(url: str, token: str, given: dict[str, Any], *until: str) -> Any:
    async with TaskClient(url, token) as tasks, asyncio.timeout(60):
        submitted = await tasks.submit(given)
        assert submitted.code == 0, submitted
        async for task in tasks.watch(submitted.task_id, interval=0.1):
            if task.state in until:
                break
        if task.state != "broken":
            await tasks.command(task.task_id, "kill")
        return task


async def test_services_in_separate_processes(
    closed: LocalStack, admin: RegistryClient, dispatch: DispatchClient, tmp_path: Path
) -> None:
    project = f"p{uuid4().hex[:8]}"
    await admin.create_project(project)
    await put(closed, f"{project}/a/v1", "one", "two")
    files_of = await dispatch.create_project([File("ns", "three")], attributes={"virtual": True})
    with_output = {
        "jobParameters": [
            {
                "type": "template",
                "param_type": "input",
                "value": "${IN}",
                "dataset": f"{project}/a/v1,{files_of.project_id}",
            },
            {"type": "template", "param_type": "output", "value": "o.${SN}", "dataset": f"out.{project}"},
        ]
    }
    token = closed.token("ann")
    everywhere = closed.environment | {"DRAYMAN_AUTH_URL": closed.url}
    elsewhere = everywhere | {"DRAYMAN_DISPATCH_URL": closed.url, "DRAYMAN_REGISTRY_URL": closed.url}
    arguments = ["task", "--listen", "127.0.0.1:0", "--data-dir"]
    async with AsyncExitStack() as ends:
        urls = []
        # the stack's own task service takes part: whichever looks after the task has to find everything
        for name, environment in (("with", elsewhere), ("without", everywhere)):
            database = await _database(closed, name)
            process = ServiceProcess(
                [*arguments, str(tmp_path / name)],
                environment | {"DRAYMAN_DATABASE_URL": database},
                tmp_path / f"{name}.log",
            )
            ends.callback(process.terminate)
            urls.append(await asyncio.to_thread(process.await_ready, START_SECONDS))
        task = await last_of(urls[0], token, reading("", **with_output), "running", "scouting", "broken")
        assert (task.state, task.counts.inputs) == ("running", 3), task
        # without neighbours: nothing to read, nowhere to write, and each is said; what needs neither runs
        task = await last_of(urls[1], token, reading(f"{project}/a/v1"), "running", "scouting", "pending")
        assert task.state == "broken"
        assert f"{project}/a/v1" in task.error
        task = await last_of(urls[1], token, reading("", **with_output), "running", "scouting", "pending")
        assert task.state == "broken"
        assert "registry" in task.error
        assert (await last_of(urls[1], token, parameters(), "running", "scouting")).state == "running"


async def _database(closed: LocalStack, name: str) -> str:
    import asyncpg  # noqa: PLC0415 - for this alone

    connection = await asyncpg.connect(closed.dsn)
    await connection.execute(f"CREATE DATABASE task_{name}")
    await connection.close()
    return closed.dsn.replace("@/drayman?", f"@/task_{name}?")
