"""Sandboxes: limits, reuse, names, sweeping, and what is left of an upload that breaks. In a folder and in an object store."""

from __future__ import annotations

import asyncio
import os
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.client import AlreadyExistsError, NotFoundError, SandboxClient
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.server.platform.calls import Service
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.errors import Refusal
from drayman.server.task import access
from drayman.server.task.sandbox_bytes import SandboxBytes
from drayman.server.task.sandbox_servicer import SandboxServicer, SandboxSweeper
from drayman.server.task.sandbox_store import SandboxStore
from drayman.task.v1 import sandbox_service_pb2 as pb
from drayman.task.v1 import sandbox_service_pb2_grpc
from s3_server import S3Server, s3_server
from service.task.conftest import make_database
from service.task.task_house import House, house, parameters

MB = 1024 * 1024
DAY = 86400.0
DAYS = 7.0


@dataclass
class Cache:
    """A task service with sandboxes, and where their bytes are."""

    house: House
    content: SandboxBytes
    store: SandboxStore
    address: str

    def sweeper(self) -> SandboxSweeper:
        return SandboxSweeper(self.store, self.content, DAYS)

    async def sweep(self) -> None:
        await self.sweeper()._sweep()

    async def keys(self) -> set[str]:
        """What is stored: `older` tells of everything that is older than the future."""
        return set(await self.content.older(-3600.0))

    async def known(self) -> set[str]:
        return {row["key"] for row in await self.house.pool.fetch("SELECT key FROM task.sandbox")}

    async def age(self, name: str, **days: float) -> None:
        for column, count in days.items():
            await self.house.pool.execute(
                f"UPDATE task.sandbox SET {column} = now() - make_interval(secs => $2) WHERE name = $1",
                name,
                count * DAY,
            )

    def client(self, user: str) -> SandboxClient:
        return SandboxClient(self.house.url, self.house.issuer.token(user), timeout=30)

    async def row(self, name: str) -> Any:
        return await self.house.pool.fetchrow("SELECT * FROM task.sandbox WHERE name = $1", name)


@asynccontextmanager
async def cache(dsn: str, folder: Path, address: str) -> AsyncIterator[Cache]:
    content = SandboxBytes(address)
    stores: list[SandboxStore] = []

    def services(running: House) -> list[Service]:
        stores.append(SandboxStore(running.pool))
        descriptor = sandbox_service_pb2_descriptor()
        return [Service(descriptor, SandboxServicer(stores[0], content), access.SANDBOX_SERVICE)]

    async with house(dsn, folder, services=services) as running:
        yield Cache(running, content, stores[0], address)


def sandbox_service_pb2_descriptor() -> Any:
    return pb.DESCRIPTOR.services_by_name["SandboxService"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def aws(server: S3Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in server.environment.items():
            patch.setenv(key, value)
        yield


@pytest_asyncio.fixture(scope="module", params=["folder", "s3"])
async def caches(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cache]:
    folder = tmp_path_factory.mktemp("sandboxes")
    async with AsyncExitStack() as stack:
        address = str(folder / "sandboxes")
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3")
            stack.enter_context(aws(server))
            address = f"s3://{server.bucket()}/some/where"
        yield await stack.enter_async_context(cache(await make_database(postgres), folder, address))


@pytest_asyncio.fixture
async def ann(caches: Cache) -> AsyncIterator[SandboxClient]:
    async with caches.client(f"ann-{uuid4().hex[:8]}") as client:
        yield client


@pytest_asyncio.fixture
async def raw(caches: Cache) -> AsyncIterator[Raw]:
    async with open_channel(caches.house.url) as channel:
        yield Raw(channel, bearer(caches.house.issuer.token("raw")))


class Raw:
    """The stub, for what no client of ours would send."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any) -> None:
        self.stub: Any = sandbox_service_pb2_grpc.SandboxServiceStub(channel)
        self.metadata = metadata

    async def put(self, name: str, size: int, *chunks: bytes) -> str:
        return await self.send(pb.PutSandboxRequest(header=pb.SandboxHeader(name=name, size=size)), *chunks)

    async def send(self, *parts: Any) -> str:
        """Send messages; returns the reason of the refusal, or an empty text."""
        requests = [pb.PutSandboxRequest(chunk=part) if isinstance(part, bytes) else part for part in parts]
        try:
            await self.stub.PutSandbox(iter(requests), metadata=self.metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return ""


def new_name(kind: str = "jobO") -> str:
    return f"{kind}.{uuid4()}.tar.gz"


def a_file(folder: Path, content: bytes, name: str = "") -> Path:
    path = folder / (name or new_name())
    path.write_bytes(content)
    return path


async def test_what_was_stored_comes_back(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    content = os.urandom(3 * MB + 17)
    name = await ann.put(a_file(tmp_path, content))
    assert await ann.get(name, tmp_path / "back") == len(content)
    assert (tmp_path / "back").read_bytes() == content
    row = await caches.row(name)
    assert (row["size"], row["trailer"]) == (len(content), content[-8:])


@pytest.mark.parametrize("content", [b"", b"7 bytes"])
async def test_small_ones_too(caches: Cache, ann: SandboxClient, tmp_path: Path, content: bytes) -> None:
    name = await ann.put(a_file(tmp_path, content))
    assert await ann.get(name, tmp_path / "back") == len(content)
    assert (tmp_path / "back").read_bytes() == content
    assert (await caches.row(name))["trailer"] == content


async def test_who_knows_the_name_may_read_it(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    name = await ann.put(a_file(tmp_path, b"for everybody"))
    async with caches.client("somebody-else") as other:
        await other.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"for everybody"
    with pytest.raises(NotFoundError) as refused:
        await ann.get("jobO.nobody.tar.gz", tmp_path / "nothing")
    assert refused.value.reason == "SANDBOX_NOT_FOUND"
    assert not (tmp_path / "nothing").exists()


async def test_there_is_no_overwriting(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    name = await ann.put(a_file(tmp_path, b"first"))
    await caches.age(name, used_at=6)
    with pytest.raises(AlreadyExistsError) as refused:
        await ann.put(a_file(tmp_path, b"second"), name)
    assert refused.value.reason == "SANDBOX_EXISTS"
    await ann.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"first"
    assert await caches.house.one(
        "SELECT used_at > now() - interval '1 minute' FROM task.sandbox WHERE name = $1", name
    )


async def test_but_of_names_that_ask_for_it(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    name = new_name() + ".__ow__"
    before = await caches.keys()
    for content in (b"first", b"second", b"third"):
        await ann.put(a_file(tmp_path, content), name)
        await ann.get(name, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
    assert len(await caches.keys() - before) == 1
    assert await caches.keys() <= await caches.known()


async def test_who_reads_what_is_being_replaced_reads_one_or_the_other(
    caches: Cache, ann: SandboxClient, tmp_path: Path
) -> None:
    name = new_name() + ".__ow__"
    contents = {bytes([byte]) * (MB + byte) for byte in range(3)}
    await ann.put(a_file(tmp_path, next(iter(contents))), name)
    busy = True

    async def read(number: int) -> int:
        times = 0
        while busy:
            await ann.get(name, tmp_path / f"back{number}")
            assert (tmp_path / f"back{number}").read_bytes() in contents
            times += 1
        return times

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(number)) for number in range(2)]
        for content in [*contents] * 3:
            await ann.put(a_file(tmp_path, content), name)
        busy = False
    assert all(reader.result() for reader in readers)


async def test_of_several_at_a_time_one_is_stored(caches: Cache, tmp_path: Path) -> None:
    name = new_name()
    before = await caches.keys()

    async def put(number: int) -> bytes | None:
        content = f"content {number}".encode() * 1000
        async with caches.client(f"user-{number}") as client:
            try:
                await client.put(a_file(tmp_path, content), name)
            except AlreadyExistsError:
                return None
        return content

    stored = [content for content in await asyncio.gather(*(put(number) for number in range(8))) if content is not None]
    assert len(stored) == 1
    async with caches.client("reader") as client:
        await client.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == stored[0]
    assert len(await caches.keys() - before) == 1


async def test_of_several_at_a_time_that_overwrite_the_last_stays(caches: Cache, tmp_path: Path) -> None:
    name = new_name() + ".__ow__"
    contents = [f"content {number}".encode() * 1000 for number in range(8)]
    async with caches.client("many") as client:
        await asyncio.gather(*(client.put(a_file(tmp_path, content), name) for content in contents))
        await client.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() in contents


@pytest.mark.parametrize(("kind", "limit"), [("sources", 768 * MB), ("jobO", 100 * MB), ("log", 100 * MB)])
async def test_what_is_announced_as_too_large_need_not_be_sent(raw: Raw, kind: str, limit: int) -> None:
    """The refusal comes while the sender has sent nothing but the header."""
    never = asyncio.Event()

    async def parts(size: int) -> AsyncIterator[pb.PutSandboxRequest]:
        yield pb.PutSandboxRequest(header=pb.SandboxHeader(name=new_name(kind), size=size))
        await never.wait()

    call = raw.stub.PutSandbox(parts(limit + 1), metadata=raw.metadata, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    problem = from_rpc_error(refused.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SANDBOX_TOO_LARGE")
    assert problem.metadata["limit"] == str(limit)


async def test_a_sandbox_of_the_largest_size(caches: Cache, raw: Raw) -> None:
    if caches.address.startswith("s3:"):
        pytest.skip("the server of these tests keeps all of it in memory; the limits are the same")
    name = new_name()
    assert await raw.put(name, 100 * MB, *[b"x" * MB] * 100) == ""
    assert (await caches.row(name))["size"] == 100 * MB


@pytest.mark.parametrize(
    ("size", "reason"), [(-1, "INVALID_FIELD"), (-(2**63), "INVALID_FIELD"), (2**63 - 1, "SANDBOX_TOO_LARGE")]
)
async def test_sizes_that_are_none(raw: Raw, size: int, reason: str) -> None:
    assert await raw.put(new_name(), size) == reason


@pytest.mark.parametrize(
    ("sent", "announced"), [(b"", 1), (b"12", 1), (b"1" * 506, 507), (b"1" * 507, 508), (b"1" * 2 * MB, 15070)]
)
async def test_a_broken_promise_leaves_nothing(caches: Cache, raw: Raw, sent: bytes, announced: int) -> None:
    before = await caches.keys()
    name = new_name()
    assert await raw.put(name, announced, sent) == "CONTENT_MISMATCH"
    assert await caches.keys() == before
    assert await caches.row(name) is None


async def test_an_upload_that_breaks_off_leaves_nothing(caches: Cache, raw: Raw) -> None:
    before = await caches.keys()
    name = new_name()
    sent = asyncio.Event()

    async def parts() -> AsyncIterator[pb.PutSandboxRequest]:
        yield pb.PutSandboxRequest(header=pb.SandboxHeader(name=name, size=3 * MB))
        yield pb.PutSandboxRequest(chunk=b"x" * MB)
        sent.set()
        await asyncio.Event().wait()

    call = raw.stub.PutSandbox(parts(), metadata=raw.metadata)
    await sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await raw.put(name, 1, b"1") == ""  # and the name is free
    assert len(await caches.keys() - before) == 1


async def test_messages_in_a_wrong_order(caches: Cache, raw: Raw) -> None:
    header = pb.PutSandboxRequest(header=pb.SandboxHeader(name=new_name(), size=2))
    before = await caches.keys()
    assert await raw.send() == "INVALID_FIELD"
    assert await raw.send(b"first the bytes", header) == "INVALID_FIELD"
    assert await raw.send(header, b"1", header, b"2") == "INVALID_FIELD"
    assert await raw.send(pb.PutSandboxRequest()) == "INVALID_FIELD"
    assert await caches.keys() == before


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../escaped", "/etc/passwd", "a/b", "a\0b", "a\nb", "\x1b[2J", "é" * 128, "\u202e", "x" * 256],
)
async def test_names_that_are_none(caches: Cache, raw: Raw, ann: SandboxClient, tmp_path: Path, name: str) -> None:
    before = await caches.keys()
    assert await raw.put(name, 1, b"1") == "INVALID_FIELD"
    assert await caches.keys() == before
    with pytest.raises(NotFoundError):
        await ann.get(name, tmp_path / "nothing")


async def test_a_name_of_megabytes_is_answered_clearly(raw: Raw) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await raw.stub.GetSandbox(pb.GetSandboxRequest(name="n" * 2_000_000), metadata=raw.metadata).read()
    assert from_rpc_error(refused.value).reason == "SANDBOX_NOT_FOUND"


@pytest.mark.parametrize(
    "name", ["a b", "ünï", "..hidden", "%2e%2e", "back\\slash", '"quoted"', "x" * 255, "#1", "a#1"]
)
async def test_strange_names_that_are_good(ann: SandboxClient, tmp_path: Path, name: str) -> None:
    source = a_file(tmp_path, name.encode())
    await ann.put(source, name)
    await ann.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == name.encode()


async def test_the_same_content_is_found_again(caches: Cache, tmp_path: Path) -> None:
    content = os.urandom(1000)
    async with caches.client("finder") as ann, caches.client("other") as bob:
        assert await ann.find(1000, content[-8:]) is None
        name = await ann.put(a_file(tmp_path, content))
        assert await ann.find(1000, content[-8:]) == name
        assert await ann.find(999, content[-8:]) is None
        assert await ann.find(1000, b"12345678") is None
        assert await bob.find(1000, content[-8:]) is None
        newer = await ann.put(a_file(tmp_path, content))
        assert await ann.find(1000, content[-8:]) == newer
        await caches.age(newer, created_at=3.1, used_at=3.1)
        await caches.age(name, created_at=2.9, used_at=2.9)
        assert await ann.find(1000, content[-8:]) == name
        assert await caches.house.one(
            "SELECT used_at > now() - interval '1 minute' FROM task.sandbox WHERE name = $1", name
        )
        await caches.age(name, created_at=3.1)
        assert await ann.find(1000, content[-8:]) is None
        assert await ann.find(-1, b"") is None
        assert await ann.find(2**63 - 1, b"\0" * 100_000) is None


async def test_what_was_lost_is_not_offered(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    content = os.urandom(1000)
    name = await ann.put(a_file(tmp_path, content))
    await caches.content.delete((await caches.row(name))["key"])
    assert await ann.find(1000, content[-8:]) is None
    with pytest.raises(NotFoundError):
        await ann.get(name, tmp_path / "back")


# --- sweeping --------------------------------------------------------------------------------------------------------


async def test_what_nobody_uses_goes(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    old, young = [await ann.put(a_file(tmp_path, b"x")) for _ in range(2)]
    await caches.age(old, used_at=DAYS + 0.1)
    await caches.age(young, used_at=DAYS - 0.1)
    key = (await caches.row(old))["key"]
    await caches.sweep()
    assert await caches.row(old) is None
    assert key not in await caches.keys()
    assert await caches.row(young) is not None
    await ann.get(young, tmp_path / "back")


async def test_reading_is_using(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    name = await ann.put(a_file(tmp_path, b"x"))
    await caches.age(name, used_at=DAYS + 0.1)
    await ann.get(name, tmp_path / "back")
    await caches.sweep()
    await ann.get(name, tmp_path / "back")


async def test_more_than_are_swept_at_once(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    file = a_file(tmp_path, b"x")
    names = [await ann.put(file, new_name("many")) for _ in range(120)]
    await caches.house.pool.execute(
        "UPDATE task.sandbox SET used_at = now() - interval '8 days' WHERE name LIKE 'many.%'"
    )
    assert await caches.sweeper()._sweep() == 0.0
    await caches.sweep()
    assert [name for name in names if await caches.row(name) is not None] == []
    assert await caches.keys() <= await caches.known()


@pytest.mark.parametrize("suffix", [".tar.gz", ' "quoted" ünï \\ .tgz'])
async def test_a_task_keeps_its_sandbox_until_it_is_over(
    caches: Cache, ann: SandboxClient, tmp_path: Path, suffix: str
) -> None:
    name = await ann.put(a_file(tmp_path, b"x"), f"sources.{uuid4()}{suffix}")
    await caches.age(name, used_at=DAYS + 1)
    tasks = await caches.house.tasks("ann")
    items = [{"type": "constant", "value": "-c true"}]
    task_id = await tasks.made(parameters(fixedSandbox=name, jobParameters=items))
    await tasks.wait(task_id, "running", "scouting")
    await tasks.command(task_id, "pause")
    await tasks.wait(task_id, "paused")
    await caches.age(name, used_at=DAYS + 1)
    await caches.sweep()
    row = await caches.row(name)
    assert row is not None
    await caches.age(name, used_at=DAYS + 1)
    await tasks.command(task_id, "resume")
    await tasks.command(task_id, "kill")
    await tasks.wait(task_id, "aborted")
    await caches.sweep()
    assert await caches.row(name) is None


async def test_submitting_is_using(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    name = await ann.put(a_file(tmp_path, b"x"), f"sources.{uuid4()}.tar.gz")
    await caches.age(name, used_at=DAYS + 1)
    tasks = await caches.house.tasks("ann")
    items = [{"type": "constant", "value": f"-a {name}"}]
    task_id = await tasks.made(parameters(jobParameters=items))
    await tasks.wait(task_id, "running", "scouting")
    assert await caches.house.one(
        "SELECT used_at > now() - interval '1 minute' FROM task.sandbox WHERE name = $1", name
    )


async def test_what_a_crash_left_goes(caches: Cache, ann: SandboxClient, tmp_path: Path) -> None:
    """Bytes that no row knows of: of an upload that was cut off between the two, or within the first."""
    name = await ann.put(a_file(tmp_path, b"known"))
    known = (await caches.row(name))["key"]
    young, old = uuid4().hex, uuid4().hex
    await caches.content.put(young, _bytes(b"an upload that is under way"), MB)
    if not caches.address.startswith("s3:"):  # an object has no age that can be set, and is there whole or not at all
        folder = Path(caches.address)
        (folder / old).write_bytes(b"left")
        (folder / f"{old}#1").write_bytes(b"half of it")
        for each in (old, f"{old}#1", known):
            os.utime(folder / each, (time.time() - 2 * DAY,) * 2)
        await caches.sweep()
        assert not (folder / old).exists()
        assert not (folder / f"{old}#1").exists()
    await caches.sweep()
    assert {known, young} <= await caches.keys()
    await caches.content.delete(young)
    await caches.content.delete(young)


async def _bytes(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


# --- trouble ---------------------------------------------------------------------------------------------------------


async def test_a_folder_that_is_gone_is_told_apart_from_a_sandbox_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    content = SandboxBytes(str(folder))
    await content.put("key", _bytes(b"x"), MB)
    assert await content.has("key")
    folder.rename(tmp_path / "elsewhere")
    folder.write_bytes(b"in its place")
    with pytest.raises(Refusal) as refused:
        await content.put("other", _bytes(b"x"), MB)
    assert refused.value.reason == "UNAVAILABLE"


async def test_a_full_disk_is_said_to_be_full_and_keeps_nothing(tmp_path: Path) -> None:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder, stderr=DEVNULL
    )
    if await mount.wait():
        pytest.skip("nothing can be mounted here")
    try:
        content = SandboxBytes(str(folder))
        with pytest.raises(Refusal) as refused:
            await content.put("key", _bytes(*[b"x" * MB] * 3), 100 * MB)
        assert refused.value.reason == "STORAGE_FULL"
        assert list(folder.iterdir()) == []
        await content.put("key", _bytes(b"x" * 1000), MB)
    finally:
        unmount = await asyncio.create_subprocess_exec("umount", "-l", folder)
        assert await unmount.wait() == 0


async def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in S3Server("http://127.0.0.1:9").environment.items():
        monkeypatch.setenv(key, value)
    content = SandboxBytes("s3://nowhere/x")
    with pytest.raises(Refusal) as refused:
        await content.put("key", _bytes(b"x"), MB)
    assert refused.value.reason == "UNAVAILABLE"
    with pytest.raises(Refusal):
        await content.has("key")
    with pytest.raises(Refusal):
        await content.open("key")


@pytest.mark.parametrize("address", ["gs://bucket/x", "https://example.org"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="neither a folder nor"):
        SandboxBytes(address)
