"""Downloads over a real channel: into folders and as streams, verified, resumed, and what is refused."""

import asyncio
import hashlib
import random
import shutil
from pathlib import Path

import pytest

from drayman.client import InvalidRequestError, NotFoundError, NotOfferedError
from drayman.client.channel import open_channel
from drayman.client.errors import ServiceDefectError
from drayman.client.registry import RegistryClient
from drayman.client.registry_progress import Progress
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import content_service_pb2_grpc
from service.registry import trees
from service.registry.cuttable import cuttable
from service.registry.house import House

MIB = 1 << 20
FILES = {
    "a": b"alpha",
    "d/b": b"beta" * 1000,
    "d/big": random.Random(1).randbytes(5 * MIB + 3),
    "d2/c": b"c",
    "empty": b"",
    **{f"many/{number:03d}": b"%d" % number * 200 for number in range(200)},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return trees.write(tmp_path / "source", FILES | {"d/hollow": None})


async def test_a_version_becomes_a_folder(owner: RegistryClient, project: str, source: Path, tmp_path: Path) -> None:
    await owner.upload(project, "asset", "v1", source)
    await owner.upload(project, "asset", "v2", source)
    seen: list[Progress] = []
    # all of the second one are links
    done = await owner.download(project, "asset", "v2", tmp_path / "copy", progress=seen.append)
    assert trees.contents(tmp_path / "copy") == FILES
    assert (tmp_path / "copy/d/hollow").is_dir()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["a", "d", "d2", "empty", "many"]
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert done.files == len(FILES) + 1
    assert done.bytes_received == sum(map(len, FILES.values()))
    last = seen[-1]
    assert (last.stage, last.files, last.bytes) == ("receiving", last.files_total, last.bytes_total)


@pytest.mark.parametrize("concurrent", [1, 3])
async def test_what_is_there_is_not_fetched_again(
    owner: RegistryClient, project: str, source: Path, tmp_path: Path, concurrent: int
) -> None:
    await owner.upload(project, "asset", "v1", source)
    copy = tmp_path / "copy"
    await owner.download(project, "asset", "v1", copy, concurrent=concurrent)
    assert (await owner.download(project, "asset", "v1", copy)).files_received == 0
    (copy / "a").unlink()
    (copy / "d/b").write_bytes(b"b" * 4000)  # of the same size
    (copy / "mine").write_bytes(b"stays")
    kept = (copy / "d/big").stat().st_ino
    done = await owner.download(project, "asset", "v1", copy, concurrent=concurrent)
    assert done.files_received == 2
    assert trees.contents(copy) == FILES | {"mine": b"stays"}
    assert (copy / "d/big").stat().st_ino == kept


async def test_of_a_folder_only_what_is_named_is_looked_at_and_fetched(
    owner: RegistryClient, project: str, source: Path, tmp_path: Path
) -> None:
    await owner.upload(project, "asset", "v1", source)
    entries = [entry async for entry in owner.entries(project, "asset", "v1")]
    wanted = [entry for entry in entries if entry.path in ("a", "d/big", "empty")]
    copy = tmp_path / "copy"
    for concurrent in (1, 2):
        done = await owner.download(project, "asset", "v1", copy, entries=wanted, concurrent=concurrent)
        assert trees.contents(copy) == {path: FILES[path] for path in ("a", "d/big", "empty")}
        assert (done.files, done.bytes_received) == (3, 5 + 5 * MIB + 3)
        shutil.rmtree(copy)
    assert (await owner.download(project, "asset", "v1", copy, entries=[])).files == 0


async def test_parts_of_a_version(owner: RegistryClient, project: str, source: Path, tmp_path: Path) -> None:
    await owner.upload(project, "asset", "v1", source)
    await owner.download(project, "asset", "v1", tmp_path / "directory", path="d/")
    assert trees.contents(tmp_path / "directory") == {path: FILES[path] for path in ("d/b", "d/big")}
    await owner.download(project, "asset", "v1", tmp_path / "file", path="d/big")
    assert trees.contents(tmp_path / "file") == {"d/big": FILES["d/big"]}
    await owner.download(project, "asset", "v1", tmp_path / "hollow", path="d/hollow/")
    assert (tmp_path / "hollow/d/hollow").is_dir()
    for path in ("d", "nothing", "nothing/", "d/b/", "..manifest"):
        with pytest.raises(NotFoundError) as refused:
            await owner.download(project, "asset", "v1", tmp_path / "no", path=path)
        assert refused.value.reason == "FILE_NOT_FOUND"
    for address, reason in (
        (("no-such", "asset", "v1"), "REGISTRY_PROJECT_NOT_FOUND"),
        ((project, "no-such", "v1"), "ASSET_NOT_FOUND"),
        ((project, "asset", "no-such"), "VERSION_NOT_FOUND"),
    ):
        with pytest.raises(NotFoundError) as refused:
            await owner.download(*address, tmp_path / "no")
        assert refused.value.reason == reason
    assert not (tmp_path / "no").exists()


async def test_ranges(owner: RegistryClient, project: str, source: Path) -> None:
    await owner.upload(project, "asset", "v1", source)
    big = FILES["d/big"]

    async def read(offset: int, length: int = 0, path: str = "d/big") -> bytes:
        return b"".join(
            [block async for block in owner.read(project, "asset", "v1", path, offset=offset, length=length)]
        )

    assert await read(0) == big
    assert await read(MIB + 1, 2 * MIB) == big[MIB + 1 : 3 * MIB + 1]
    assert await read(len(big) - 1) == big[-1:]
    assert await read(len(big)) == b""
    assert await read(2, 2, "a") == b"ph"
    assert await read(0, 0, "empty") == b""
    for offset, length in ((len(big) + 1, 0), (0, len(big) + 1), (len(big), 1), (-1, 0), (0, -1)):
        with pytest.raises(InvalidRequestError) as refused:
            await read(offset, length)
        assert refused.value.field == "offset"
    with pytest.raises(InvalidRequestError):
        await read(1, 0, "d/")


async def test_many_small_files_share_messages(
    registry: House, owner: RegistryClient, project: str, source: Path
) -> None:
    await owner.upload(project, "asset", "v1", source)
    async with open_channel(registry.url) as channel:
        stub = content_service_pb2_grpc.ContentServiceStub(channel)
        request = pb.DownloadRequest(project=project, asset="asset", version="v1", path="many/")
        replies = [reply async for reply in stub.Download(request)]
    assert len(replies) == 2
    assert [entry.path for entry in replies[0].entries] == sorted(path for path in FILES if path.startswith("many/"))
    assert len(replies[1].pieces) == 200
    async with open_channel(registry.url) as channel:
        stub = content_service_pb2_grpc.ContentServiceStub(channel)
        request = pb.DownloadRequest(
            project=project,
            asset="asset",
            version="v1",
            only=[pb.PartialFile(path="d/big", offset=5 * MIB), pb.PartialFile(path="a")],
        )
        replies = [reply async for reply in stub.Download(request)]
        assert [entry.path for reply in replies for entry in reply.entries] == ["a", "d/big"]
        assert [(piece.file, piece.offset, piece.content) for reply in replies for piece in reply.pieces] == [
            (0, 0, b"alpha"),
            (1, 5 * MIB, FILES["d/big"][-3:]),
        ]


@pytest.mark.parametrize("concurrent", [1, 2])
async def test_a_connection_that_is_cut_goes_on(
    registry: House, owner: RegistryClient, project: str, source: Path, tmp_path: Path, concurrent: int
) -> None:
    await owner.upload(project, "asset", "v1", source)
    async with cuttable(registry.url) as passing, registry.client("ann", url=passing.url) as client:

        def cut(progress: Progress) -> None:
            if passing.cuts < 3 and progress.bytes > (passing.cuts + 1) * MIB:
                passing.cut()

        done = await client.download(project, "asset", "v1", tmp_path / "copy", concurrent=concurrent, progress=cut)
    assert done.files_received == len(FILES) - 1  # all but the empty one
    assert trees.contents(tmp_path / "copy") == FILES
    assert not (tmp_path / "copy/..arriving").exists()


async def test_a_download_that_was_given_up_goes_on(
    registry: House, owner: RegistryClient, project: str, source: Path, tmp_path: Path
) -> None:
    await owner.upload(project, "asset", "v1", source)
    copy = tmp_path / "copy"
    arrived = asyncio.Event()
    async with registry.client("ann") as client:
        task = asyncio.create_task(
            client.download(
                project,
                "asset",
                "v1",
                copy,
                progress=lambda progress: arrived.set() if progress.bytes > MIB else None,
            )
        )
        await arrived.wait()
        task.cancel()
        await asyncio.wait([task])
    done = await owner.download(project, "asset", "v1", copy)
    assert done.files_received < len(FILES) or task.done()
    assert trees.contents(copy) == FILES
    assert not (copy / "..arriving").exists()


async def test_part_of_a_file_that_was_another_one(
    owner: RegistryClient, project: str, source: Path, tmp_path: Path
) -> None:
    """What lies about of an earlier download is not believed."""
    await owner.upload(project, "asset", "v1", source)
    (entry,) = [entry async for entry in owner.entries(project, "asset", "v1", prefix="d/big")]
    parts = tmp_path / "copy/..arriving"
    parts.mkdir(parents=True)
    name = hashlib.sha256(f"{entry.path}\n{entry.size}\n{entry.md5}\n{entry.sha256}".encode()).hexdigest()
    (parts / name).write_bytes(b"x" * MIB)
    (tmp_path / "copy/a").write_bytes(FILES["a"])
    await owner.download(project, "asset", "v1", tmp_path / "copy")
    assert trees.contents(tmp_path / "copy") == FILES


@pytest.mark.parametrize("path", ["a", "d/big"])
async def test_what_is_not_what_was_stored(
    registry: House, owner: RegistryClient, project: str, source: Path, tmp_path: Path, path: str
) -> None:
    await owner.upload(project, "asset", "v1", source)
    stored = registry.root / project / "asset/v1" / path
    content = FILES[path]
    stored.write_bytes(content[:-1] + b"?")
    with pytest.raises(ServiceDefectError) as refused:
        await owner.download(project, "asset", "v1", tmp_path / "copy")
    assert refused.value.reason == "CONTENT_LOST"
    assert not (tmp_path / "copy" / path).exists()
    stored.write_bytes(content[:-1])
    with pytest.raises(ServiceDefectError):
        await owner.download(project, "asset", "v1", tmp_path / "copy")
    stored.unlink()
    with pytest.raises(ServiceDefectError):
        await owner.download(project, "asset", "v1", tmp_path / "copy")
    # what is fine arrives nevertheless
    await owner.download(project, "asset", "v1", tmp_path / "copy", path="d2/")


async def test_a_folder_that_cannot_be_written(
    owner: RegistryClient, project: str, source: Path, tmp_path: Path
) -> None:
    await owner.upload(project, "asset", "v1", source)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        await owner.download(project, "asset", "v1", tmp_path / "file")


async def test_there_are_no_urls_of_a_folder(owner: RegistryClient, project: str, source: Path) -> None:
    await owner.upload(project, "asset", "v1", source)
    with pytest.raises(NotOfferedError):
        await owner.presign(project, "asset", "v1")
