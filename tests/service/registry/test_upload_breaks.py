"""Uploads that break: connections that are cut, clients that go, servers that are killed, disks that are full. Nothing is half-made."""

import asyncio
import ctypes
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.client import AlreadyExistsError, DraymanError, InvalidRequestError, NotFoundError, UnavailableError
from drayman.client.registry import RegistryClient
from drayman.client.registry_progress import Progress
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.quota import Quota
from drayman.testing import LocalStack
from registry_rig import file, rig
from service.registry import trees
from service.registry.cuttable import cuttable
from service.registry.house import House, house
from service.registry.raw_upload import announce, raw_upload, upload_all

MIB = 1 << 20
PATIENCE = 30.0
SMALL = {f"d{number % 7}/f{number}": b"%d" % number * 300 for number in range(300)}


async def until(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    big = {"big": random.Random(1).randbytes(9 * MIB + 17), "other": random.Random(2).randbytes(3 * MIB)}
    return trees.write(tmp_path_factory.mktemp("source") / "source", SMALL | big)


@pytest.mark.parametrize("seed", range(4))
async def test_a_connection_that_is_cut_goes_on(registry: House, project: str, source: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with cuttable(registry.url) as passing, registry.client("ann", url=passing.url) as client:
        passing.cuts_after = [dice.randrange(1, 8 * MIB) for _ in range(3)]
        done = await client.upload(project, "asset", "v1", source)
        assert passing.cuts > 0
    assert done.version.latest
    # what had arrived did not travel again, but for what was under way
    assert done.bytes_sent < done.version.usage + (passing.cuts + 1) * 9 * MIB
    trees.check_version(registry.root / project / "asset/v1", trees.contents(source))
    assert trees.leftovers(registry.root) == []


async def test_what_has_arrived_is_not_wanted_again(registry: House, project: str) -> None:
    token, upload_id, content = registry.issuer.token("ann"), str(uuid4()), os.urandom(2 * MIB)
    files = [announce("a", b"aa"), announce("b", content), announce("c", b"")]
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(*files)
        assert await stream.wanted() == [(0, 0), (1, 0)]
        await stream.piece(0, b"aa")
        await stream.piece(1, content[:MIB])
        incoming = registry.root / "..incoming" / upload_id
        part = incoming / "parts/1"
        await until(lambda: (incoming / "files/a").exists() and part.exists() and part.stat().st_size == MIB)
    # the first one is not told of its end: it is taken over
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(*files)
        assert await stream.wanted() == [(1, MIB)]
        # who knows nothing of that may send all of it
        await stream.piece(0, b"aa")
        await stream.piece(1, content)
        done = await stream.finish()
    assert done.version.usage == 2 * MIB + 2
    trees.check_version(registry.root / project / "asset/v1", {"a": b"aa", "b": content, "c": b""})


async def test_another_manifest_believes_nothing_of_the_first(registry: House, project: str) -> None:
    token, upload_id = registry.issuer.token("ann"), str(uuid4())
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(announce("a", b"aa"), announce("gone", b"g"))
        await stream.wanted()
        await stream.piece(0, b"aa")
        await stream.piece(1, b"g")
        files = registry.root / "..incoming" / upload_id / "files"
        await until((files / "gone").exists)
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(announce("a", b"bb"))
        assert await stream.wanted() == [(0, 0)]
        await stream.piece(0, b"bb")
        await stream.finish()
    trees.check_version(registry.root / project / "asset/v1", {"a": b"bb"})


async def test_an_upload_of_somebody_else_cannot_be_resumed(
    registry: House, administrator: RegistryClient, project: str
) -> None:
    upload_id = str(uuid4())
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(announce("a", b"aa"))
        await stream.wanted()
        async with raw_upload(registry.url, registry.issuer.token("root", admin=True)) as other:
            await other.begin(f"{project}/asset/v1", upload_id)
            with pytest.raises((InvalidRequestError, AlreadyExistsError)):
                await other.read()
        await stream.piece(0, b"aa")
        assert (await stream.finish()).version.upload_user == "ann"


async def test_an_upload_that_was_not_heard_of_the_end_is_told_again(
    registry: House, administrator: RegistryClient, project: str
) -> None:
    token, upload_id, address = registry.issuer.token("ann"), str(uuid4()), f"{project}/asset/v1"
    async with raw_upload(registry.url, token) as stream:
        first = await stream.whole(address, upload_id, {"a": b"aa", "empty": b""})
    assert (first.bytes_received, first.version.entries) == (2, 2)
    async with raw_upload(registry.url, token) as stream:
        assert (await stream.whole(address, upload_id, {"a": b"aa", "empty": b""})).version == first.version
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(address, upload_id)
        await stream.manifest(announce("a", b"aa"), announce("empty", b""))
        assert await stream.wanted() == []
        assert (await stream.read()).done.version == first.version
    # the same files are not the same upload, nor is the same id for another name or user
    async with raw_upload(registry.url, token) as stream:
        with pytest.raises(AlreadyExistsError):
            await stream.whole(address, str(uuid4()), {"a": b"aa", "empty": b""})
    async with raw_upload(registry.url, token) as stream:
        with pytest.raises(InvalidRequestError):
            await stream.whole(f"{project}/asset/v2", upload_id, {"a": b"aa"})
    async with raw_upload(registry.url, registry.issuer.token("root", admin=True)) as stream:
        with pytest.raises(InvalidRequestError):
            await stream.whole(address, upload_id, {"a": b"aa"})
    await administrator.delete_version(project, "asset", "v1")
    async with raw_upload(registry.url, token) as stream:
        assert (await stream.whole(address, upload_id, {"a": b"bb"})).bytes_received == 2
    trees.check_version(registry.root / address, {"a": b"bb"})


async def test_a_small_upload_that_is_refused_leaves_nothing(registry: House, project: str) -> None:
    token = registry.issuer.token("ann")
    for fields in ({"md5": "0" * 32}, {"sha256": "0" * 64}, {"size": 3}, {"size": 1}):
        async with raw_upload(registry.url, token) as stream:
            with pytest.raises(InvalidRequestError):
                await stream.whole(f"{project}/asset/v1", str(uuid4()), {"a": b"aa"}, **fields)
    await until(lambda: trees.leftovers(registry.root) == [])
    async with raw_upload(registry.url, token) as stream:
        await stream.whole(f"{project}/asset/v1", str(uuid4()), {"a": b"aa"})
    trees.check_version(registry.root / project / "asset/v1", {"a": b"aa"})


@pytest.mark.parametrize("damaged", ["a", "big"])
async def test_what_a_loss_of_power_has_damaged_is_sent_again(
    database_url: str, tmp_path: Path, source: Path, damaged: str
) -> None:
    content = {"a": b"aa", "big": (source / "big").read_bytes(), "other": (source / "other").read_bytes()}
    folder, upload_id = trees.write(tmp_path / "source", content), uuid4()
    async with rig(database_url, tmp_path / "registry") as died:
        await died.project("p", "ann", quota=Quota(1 << 30, 0, 2000))
        upload = await died.registry.publisher.begin(
            VersionAddress("p", "a", "v"), upload_id, "ann", admin=False, on_probation=False
        )
        incoming = died.registry.content.incoming(upload_id)
        await incoming.prepare()
        await incoming.put(list(content.items()))
        await died.registry.versions.to_publishing(upload, [file(*each) for each in content.items()])
    with (tmp_path / f"registry/..incoming/{upload_id}/files/{damaged}").open("r+b") as damage:
        damage.write(b"\0")
    async with house(database_url, tmp_path) as running, running.client("ann") as client:
        done = await client.upload("p", "a", "v", folder, upload_id=str(upload_id))
        assert done.bytes_sent == len(content[damaged])
        trees.check_version(running.root / "p/a/v", content)
        assert trees.leftovers(running.root) == []


async def test_the_word_that_a_connection_loses_last_is_not_missed(
    registry: House, project: str, tmp_path: Path
) -> None:
    folder, upload_id = trees.write(tmp_path / "source", {"a": b"aa"}), str(uuid4())
    async with registry.client("ann") as client:
        first = await client.upload(project, "asset", "v1", folder, upload_id=upload_id)
        again = await client.upload(project, "asset", "v1", folder, upload_id=upload_id)
        assert again.version == first.version
        # an identical version is somebody else's
        with pytest.raises(AlreadyExistsError):
            await client.upload(project, "asset", "v1", folder, upload_id=str(uuid4()))


async def test_a_name_is_free_when_its_uploader_is_gone(registry: House, project: str) -> None:
    token = registry.issuer.token("ann")
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"aa"))
        await stream.wanted()
        with pytest.raises(AlreadyExistsError):
            await upload_all(registry.url, token, f"{project}/asset/v1", {"a": b"bb"})
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await upload_all(registry.url, token, f"{project}/asset/v1", {"a": b"bb"})
                break
            except AlreadyExistsError:
                await asyncio.sleep(0.05)
    trees.check_version(registry.root / project / "asset/v1", {"a": b"bb"})
    assert trees.leftovers(registry.root) == []


async def test_a_client_that_is_cancelled(registry: House, project: str, source: Path) -> None:
    sending = asyncio.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "sending" and progress.bytes > MIB:
            sending.set()

    async with registry.client("ann") as client:
        task = asyncio.create_task(client.upload(project, "asset", "v1", source, progress=watch))
        await sending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(NotFoundError):
            await client.get_version(project, "asset", "v1")
        assert not (registry.root / project / "asset/v1").exists()
        await until(lambda: registry.contents._uploads._live == {})
        done = await client.upload(project, "asset", "v1", source)
    assert done.version.latest
    assert registry.contents._uploads.memory.used == 0
    assert trees.leftovers(registry.root) == []


async def test_readers_never_see_half_a_version(registry: House, project: str, tmp_path: Path, source: Path) -> None:
    """Readers of the folder and by calls, while versions come."""
    expected = trees.contents(source)
    place = registry.root / project / "asset"
    ended = asyncio.Event()
    seen: set[str] = set()

    def look() -> None:
        if not place.exists():
            return
        for version in place.iterdir():
            if not version.name.startswith(".."):
                assert (version / "..summary").exists(), version
                assert trees.contents(version) == expected
                seen.add(version.name)

    async def read_folder() -> None:
        while not ended.is_set():
            await asyncio.to_thread(look)

    async def read_calls(client: RegistryClient) -> None:
        while not ended.is_set():
            try:
                versions = [version async for version in client.versions(project, "asset")]
            except NotFoundError:
                continue
            for version in versions:
                assert version.entries == len(expected)
                entries = [entry async for entry in client.entries(project, "asset", version.version)]
                assert len(entries) == len(expected)
                assert (place / version.version / "..manifest").exists()

    async with registry.client("ann") as client, asyncio.TaskGroup() as group:
        group.create_task(read_folder())
        group.create_task(read_calls(client))
        for number in range(5):
            (source / "d0/f0").write_bytes(expected["d0/f0"])  # the time of its change is no reason to send it
            await client.upload(project, "asset", f"v{number}", source)
        look()
        ended.set()
    assert seen == {f"v{number}" for number in range(5)}


@asynccontextmanager
async def tight(tmp_path: Path, size: int) -> AsyncIterator[Path]:
    """A folder on a file system of so many bytes."""
    folder = tmp_path / "tight"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size) != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        libc.umount2(os.fsencode(folder), 2)


@pytest.mark.parametrize("shape", [{"big": 12 * MIB}, {f"f{n}": 100_000 for n in range(120)}], ids=["big", "small"])
async def test_a_disk_that_is_full(database_url: str, tmp_path: Path, shape: dict[str, int]) -> None:
    source = trees.write(tmp_path / "source", {name: os.urandom(size) for name, size in shape.items()})
    fitting = trees.write(tmp_path / "fitting", {"a": b"fits"})
    async with (
        tight(tmp_path, 8 * MIB) as folder,
        house(database_url, folder) as here,
        here.client("ann", admin=True) as ann,
    ):
        await ann.create_project("p")
        with pytest.raises(DraymanError) as refused:
            await ann.upload("p", "asset", "v1", source)
        assert refused.value.reason == "STORAGE_FULL"
        assert trees.leftovers(here.root) == []
        assert not (here.root / "p/asset").exists()
        assert (await ann.get_project("p")).usage == 0
        # the name is free, and so is the space
        assert (await ann.upload("p", "asset", "v1", fitting)).version.latest


async def test_a_server_that_is_killed_and_comes_back(own_stack: LocalStack, source: Path) -> None:
    stack = own_stack
    token = stack.token(stack.admin[0])
    sending = asyncio.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "sending" and progress.bytes > 4 * MIB:
            sending.set()

    async with RegistryClient(stack.url, token, patience=60) as client:
        await client.create_project("p")
        task = asyncio.create_task(client.upload("p", "asset", "v1", source, progress=watch))
        await asyncio.wait([task, asyncio.create_task(sending.wait())], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(stack.kill)
        assert not (stack.registry / "p/asset/v1").exists()
        await asyncio.to_thread(stack.restart)
        done = await task
        assert done.version.latest
        trees.check_version(stack.registry / "p/asset/v1", trees.contents(source))
        assert (await client.get_project("p")).usage == done.version.usage
        assert trees.leftovers(stack.registry) == []


async def test_a_service_that_is_not_there(tmp_path: Path, registry: House) -> None:
    client = RegistryClient("grpc://127.0.0.1:1", registry.issuer.token("ann"), patience=0.5)
    async with client:
        with pytest.raises(UnavailableError):
            await client.upload("p", "asset", "v1", trees.write(tmp_path / "source", {"a": b"a"}))
