"""The registry's bytes in a local folder: modes, links that lead elsewhere, files taken from others, and a full disk."""

import os
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from drayman.server.registry import tree
from drayman.server.registry.content import Content, ContentLost, FolderTaken, Incoming, Kind, StorageFull
from drayman.server.registry.content_stores import open_content

FOLDER = "proj/asset/v1"
MIB = 1 << 20


@pytest_asyncio.fixture
async def content(tmp_path: Path) -> AsyncIterator[Content]:
    (tmp_path / "listed").mkdir()
    opened = await open_content(tmp_path / "registry", whitelist=[tmp_path / "listed"])
    yield opened
    await opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: this needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def root_of(content: Content) -> Path:
    assert content.local_root is not None
    return content.local_root


async def begun(content: Content) -> Incoming:
    incoming = content.incoming(uuid.uuid4())
    await incoming.prepare()
    return incoming


async def read(content: Content, key: str, length: int = 1) -> bytes:
    return b"".join([block async for block in content.read(key, 0, length)])


async def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        content = await open_content(tmp_path / "registry")
        incoming = await begun(content)
        await incoming.put([("a/b", b"1")])
        await incoming.append(0, 0, b"2")
        await incoming.complete(0, "c/d")
        await incoming.empty_directory("e")
        source = tmp_path / "source"
        source.write_bytes(b"3")
        source.chmod(0o600)
        await incoming.adopt("f", source, consume=True)
        await incoming.publish(FOLDER)
        await content.write_document("proj/..usage", b"4")
    finally:
        os.umask(before)
    root = root_of(content)
    for found in [item async for item in content.walk("proj")]:
        mode = stat.S_IMODE((root / "proj" / found.path).lstat().st_mode)
        assert mode == (0o755 if found.kind is Kind.DIRECTORY else 0o644), found.path
    assert stat.S_IMODE((root / "proj").stat().st_mode) == 0o755
    # what is not published is nobody else's to see
    assert stat.S_IMODE((root / "..incoming").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "..trash").stat().st_mode) == 0o700
    await content.close()


async def test_links_are_followed_within_the_registry_and_to_the_whitelist(content: Content, tmp_path: Path) -> None:
    incoming = await begun(content)
    await incoming.put([("f", b"1"), ("deep/g", b"2")])
    await incoming.publish(FOLDER)
    root = root_of(content)
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "listed" / "ok").write_bytes(b"w")
    (tmp_path / "listed" / "out").symlink_to(tmp_path / "secret")
    links = {
        "near": "f",
        "far": "../../../proj/asset/v1/deep/g",
        "chain": "near",
        "absolute": str(root / FOLDER / "f"),
        "listed": str(tmp_path / "listed/ok"),
    }
    other = await begun(content)
    await other.links([*links.items()])
    await other.put([("f", b"3"), ("deep/g", b"4")])
    await other.publish("proj/asset/v2")
    assert await content.read_small([f"proj/asset/v2/{name}" for name in links]) == [b"3", b"2", b"3", b"1", b"w"]
    assert (await content.hashes("proj/asset/v2/far")).size == 1
    evil = {
        "secret": str(tmp_path / "secret"),
        "climbs": "../../../../secret",
        "listed out": str(tmp_path / "listed/out"),
        "listed up": str(tmp_path / "listed/../secret"),
        "device": "/dev/zero",
        "circle": "circle",
        "dangling": "nothing",
        "folder": "deep",
        "root": "../../../",
        "up": "..",
    }
    for name, text in evil.items():
        await content.relink(f"proj/asset/v2/{name}", text)
        with pytest.raises(ContentLost):
            await read(content, f"proj/asset/v2/{name}")
        with pytest.raises(ContentLost):
            await content.read_small([f"proj/asset/v2/{name}"])
        with pytest.raises(ContentLost):
            await content.copy(f"proj/asset/v2/{name}", "proj/asset/v2/f")
    assert await content.read_small(["proj/asset/v2/f"]) == [b"3"]


async def test_folders_that_are_links_are_never_entered(content: Content, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "asset" / "v1").mkdir(parents=True)
    (outside / "asset" / "v1" / "f").write_bytes(b"keep")
    root = root_of(content)
    (root / "evil").symlink_to(outside)
    (root / "proj").mkdir()
    (root / "proj" / "asset").symlink_to(outside / "asset")
    for key in ("evil/asset/v1/f", "proj/asset/v1/f"):
        with pytest.raises(ContentLost):
            await read(content, key)
        with pytest.raises(ContentLost):
            await content.write_document(key, b"changed")
        with pytest.raises(ContentLost):
            await content.relink(key, "x")
        with pytest.raises(ContentLost):
            await content.remove_document(key)
    incoming = await begun(content)
    await incoming.put([("f", b"1")])
    with pytest.raises(ContentLost):
        await incoming.publish("proj/asset/v2")
    await incoming.link("d", str(outside))
    with pytest.raises((ContentLost, OSError)):
        await incoming.put([("d/x", b"1")])
    assert [found.kind async for found in content.walk("proj")] == [Kind.LINK]
    assert not await content.exists("evil")
    await content.remove("evil")
    await content.remove("proj/asset")
    assert not (root / "evil").is_symlink()
    assert [path.name for path in outside.rglob("*")] == ["asset", "v1", "f"]
    assert (outside / "asset" / "v1" / "f").read_bytes() == b"keep"


async def test_pipes_and_devices_do_not_hold_a_reader(content: Content) -> None:
    await content.make_folder(FOLDER)
    os.mkfifo(root_of(content) / FOLDER / "pipe")
    with pytest.raises(ContentLost):
        await read(content, f"{FOLDER}/pipe")
    assert [found.kind async for found in content.walk(FOLDER)] == [Kind.OTHER]
    await content.remove(FOLDER)


async def test_a_consumed_file_is_linked_and_its_source_is_never_written_to(content: Content, tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"original")
    known = source.stat()
    incoming = await begun(content)
    assert await incoming.adopt("f", source, consume=True, known=known) is None
    assert source.stat().st_nlink == 2
    await incoming.put([("f", b"other")])
    assert source.read_bytes() == b"original"
    assert await incoming.adopt("g", source, consume=True) is not None
    # it has another name: who has that could write to it
    source.with_name("other").hardlink_to(source)
    adopted = await incoming.adopt("h", source, consume=True)
    assert adopted is not None
    assert not adopted.linked
    changed = tmp_path / "changed"
    changed.write_bytes(b"one")
    known = changed.stat()
    changed.write_bytes(b"two")
    adopted = await incoming.adopt("i", changed, consume=True, known=known)
    assert adopted is not None
    assert adopted.linked
    assert adopted.md5.hex() == "b8a9f715dbb64fd5c56e7783c6820a61"
    await incoming.publish(FOLDER)
    source.unlink()
    assert await content.read_small([f"{FOLDER}/{name}" for name in "fghi"]) == [
        b"other",
        b"original",
        b"original",
        b"two",
    ]


async def test_another_accounts_file_is_copied(content: Content, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("a file cannot be given to another account: this needs root")
    source = tmp_path / "f"
    source.write_bytes(b"1")
    os.chown(source, 12345, 12345)
    incoming = await begun(content)
    adopted = await incoming.adopt("f", source, consume=True)
    assert adopted is not None
    assert not adopted.linked
    await incoming.publish(FOLDER)
    assert (root_of(content) / FOLDER / "f").stat().st_uid == os.geteuid()
    assert source.stat().st_uid == 12345


async def test_an_empty_folder_in_the_place_is_not_replaced(content: Content) -> None:
    await content.make_folder(FOLDER)
    incoming = await begun(content)
    await incoming.put([("f", b"1")])
    with pytest.raises(FolderTaken):
        await incoming.publish(FOLDER)
    await content.remove(FOLDER)
    assert not await incoming.publish(FOLDER)


async def test_deep_paths(content: Content) -> None:
    path = "/".join(["d"] * 1900)
    incoming = await begun(content)
    await incoming.put([(f"{path}/f", b"1"), (f"{path}/g", b"2")])
    assert await incoming.state([(0, f"{path}/f", 1), (1, f"{path}/g", 1)]) == {0: 1, 1: 1}
    await incoming.publish(FOLDER)
    assert await content.read_small([f"{FOLDER}/{path}/g"]) == [b"2"]
    assert len([found async for found in content.walk(FOLDER)]) == 1902
    await content.remove(FOLDER)
    await content.empty_trash()
    assert list((root_of(content) / "..trash").iterdir()) == []


async def test_names_that_are_no_text(content: Content) -> None:
    await content.make_folder(FOLDER)
    (root_of(content) / FOLDER / os.fsdecode(b"\xff")).write_bytes(b"1")
    assert [found.path for found in await content.listing(FOLDER)] == ["\udcff"]
    await content.remove(FOLDER)


async def test_what_others_are_about_to_put_in_place_is_left_alone(content: Content) -> None:
    trash = root_of(content) / "..trash"
    (trash / "temporary-1").write_bytes(b"1")
    (trash / "temporary-2").write_bytes(b"2")
    old = time.time() - 7200
    os.utime(trash / "temporary-2", (old, old))
    (trash / "folder").mkdir()
    await content.empty_trash()
    assert [path.name for path in trash.iterdir()] == ["temporary-1"]


async def test_without_syncfs_files_are_synced_one_by_one(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        """A C library without it."""

    monkeypatch.setattr(tree, "_libc", Elsewhere())
    incoming = await begun(content)
    await incoming.put([("a", b"1"), ("b/c", b"2")])
    await incoming.link("l", "a")
    assert not await incoming.publish(FOLDER)
    await content.write_documents({f"proj/..{name}": b"1" for name in "xyz"})
    assert await content.read_small([f"{FOLDER}/b/c", "proj/..z"]) == [b"2", b"1"]


async def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    content = await open_content(small_disk / "registry")
    await content.make_folder("proj")
    await content.write_document("proj/..usage", b"old")
    before = await content.room()
    assert before is not None
    incoming = await begun(content)
    await incoming.put([("fits", b"1" * MIB)])
    with pytest.raises(StorageFull, match="no room"):
        await incoming.put([("a", b"2" * MIB), ("b", b"3" * (4 * MIB))])
    await incoming.append(0, 0, b"4" * MIB)
    with pytest.raises(StorageFull):
        await incoming.append(0, MIB, b"5" * (4 * MIB))
    source = tmp_path / "source"
    source.write_bytes(b"6" * (4 * MIB))
    with pytest.raises(StorageFull):
        await incoming.adopt("c", source, consume=True)
    with pytest.raises(StorageFull):
        await content.write_document("proj/..usage", b"7" * (4 * MIB))
    with pytest.raises(StorageFull):
        await content.write_documents({f"proj/..{name}": b"8" * MIB for name in ("usage", "x", "y", "z")})
    assert await content.read_small(["proj/..usage"]) == [b"old"]
    assert list((small_disk / "registry" / "..trash").iterdir()) == []
    # of what did not fit nothing is left, and what was there before can be gone on with
    assert await incoming.state([(9, "fits", MIB), (8, "a", MIB), (7, "b", 4 * MIB), (0, "part", 4 * MIB)]) == {
        9: MIB,
        8: MIB,
        0: MIB,
    }
    await incoming.discard()
    assert await content.room() == before
    again = await begun(content)
    await again.put([("f", b"9" * (3 * MIB))])
    assert not await again.publish(FOLDER)
    await content.close()


def test_a_limit_of_file_sizes_is_a_full_disk_too(tmp_path: Path) -> None:
    script = f"""
import asyncio, resource, uuid
from drayman.server.registry.content import StorageFull
from drayman.server.registry.content_stores import open_content

async def main():
    content = await open_content({str(tmp_path / "registry")!r})
    incoming = content.incoming(uuid.uuid4())
    await incoming.prepare()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        await incoming.put([("f", b"1" * 200_000)])
    except StorageFull:
        await incoming.put([("g", b"1" * 90_000)])
        await incoming.publish("proj/asset/v1")
        print([found.path for found in await content.listing("proj/asset/v1")])

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['g']\n"
