"""The registry's bytes: the same promises of a local folder and of an object store with a real S3 interface."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from drayman.server.registry.content import (
    Content,
    ContentError,
    ContentLost,
    FolderTaken,
    Found,
    Hashes,
    Incoming,
    Kind,
)
from drayman.server.registry.content_stores import open_content
from s3_server import S3Server, s3_server

FOLDER = "proj/asset/v1"
SUMMARY = b'{\n    "upload_user_id": "ann"\n}'
MIB = 1 << 20
#: Names that some layer or other could take for something else.
ODD_NAMES = [
    "a b",
    "é",
    "e\u0301",
    "a+b",
    "g%",
    "%41",
    "h#1",
    "q?x=y",
    "~t",
    "[1]",
    "{}",
    "a\\b",
    "*",
    "|",
    "<&>\"'`^",
    "日本",
    ".h",
]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest_asyncio.fixture(params=["local", "s3"])
async def content(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Content]:
    if request.param == "local":
        address = str(tmp_path / "registry")
    else:
        server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        address = f"s3://{server.bucket()}/some/prefix"
    opened = await open_content(address)
    yield opened
    await opened.close()


def is_local(content: Content) -> bool:
    return content.local_root is not None


async def begun(content: Content) -> Incoming:
    incoming = content.incoming(str(uuid.uuid4()))
    assert not await incoming.prepare()
    return incoming


async def published(content: Content, files: dict[str, bytes], folder: str = FOLDER) -> None:
    incoming = await begun(content)
    await incoming.put([*files.items(), ("..summary", SUMMARY)])
    assert not await incoming.publish(folder)


async def whole(content: Content, folder: str) -> dict[str, bytes]:
    """Everything in a folder but ours."""
    keys = [
        found.path
        async for found in content.walk(folder)
        if found.kind is Kind.FILE and not found.path.startswith("..")
    ]
    return dict(zip(keys, await content.read_small([f"{folder}/{key}" for key in keys]), strict=True))


async def collected(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


def hashes_of(content: bytes) -> tuple[int, bytes, bytes]:
    return len(content), hashlib.md5(content).digest(), hashlib.sha256(content).digest()


def digests(hashes: Hashes) -> tuple[int, bytes, bytes]:
    return hashes.size, hashes.md5.digest(), hashes.sha256.digest()


async def test_a_version_is_there_when_it_is_published_and_not_before(content: Content) -> None:
    incoming = await begun(content)
    files = {"a": b"one", "empty": b"", "deep/er/b": b"two" * 1000}
    await incoming.put(list(files.items()))
    await incoming.write_document("..summary", SUMMARY)
    await incoming.empty_directory("hollow/dir")
    assert not await content.exists(FOLDER)
    assert not await incoming.published(FOLDER)
    assert not await incoming.publish(FOLDER)
    assert await incoming.published(FOLDER)
    assert await whole(content, FOLDER) == files
    assert await content.read_small([f"{FOLDER}/..summary"]) == [SUMMARY]
    assert await content.incoming_ids() == []
    assert await content.exists("proj")
    assert not await content.exists("proj/ass")


async def test_publishing_again_does_no_harm(content: Content) -> None:
    incoming = await begun(content)
    await incoming.put([("a", b"one"), ("..summary", SUMMARY)])
    assert not await incoming.publish(FOLDER)
    assert await incoming.publish(FOLDER)
    assert await incoming.publish(FOLDER)
    assert await whole(content, FOLDER) == {"a": b"one"}


async def test_two_at_a_time_publish_once(content: Content) -> None:
    upload = str(uuid.uuid4())
    incoming = content.incoming(upload)
    await incoming.prepare()
    await incoming.put([(f"f{number}", b"x" * number) for number in range(20)])
    await incoming.write_document("..summary", SUMMARY)
    tries = [content.incoming(upload).publish(FOLDER) for _ in range(4)]
    outcomes = await asyncio.gather(*tries)
    assert False in outcomes
    if is_local(content):
        assert sorted(outcomes) == [False, True, True, True]
    assert len(await whole(content, FOLDER)) == 20
    assert await content.incoming_ids() == []


async def test_nothing_to_publish_and_a_place_that_is_taken(content: Content) -> None:
    with pytest.raises(ContentLost):
        await content.incoming(str(uuid.uuid4())).publish(FOLDER)
    await published(content, {"a": b"first"})
    other = await begun(content)
    await other.put([("a", b"second"), ("..summary", SUMMARY)])
    with pytest.raises(FolderTaken):
        await other.publish(FOLDER)
    assert await whole(content, FOLDER) == {"a": b"first"}
    await other.discard()
    assert await content.incoming_ids() == []
    assert await whole(content, FOLDER) == {"a": b"first"}


async def test_what_was_never_prepared_or_is_gone_takes_nothing(content: Content) -> None:
    never = content.incoming(str(uuid.uuid4()))
    gone = await begun(content)
    await gone.put([("a", b"1")])
    await gone.discard()
    await gone.discard()
    done = await begun(content)
    await done.put([("a", b"1"), ("..summary", SUMMARY)])
    await done.publish(FOLDER)
    for incoming in (never, gone, done):
        with pytest.raises(ContentLost):
            await incoming.put([("b", b"2")])
        with pytest.raises(ContentLost):
            await incoming.append(0, 0, b"2")
        with pytest.raises(ContentLost):
            await incoming.link("b", "a")
        with pytest.raises(ContentLost):
            await incoming.state([(0, "b", 1)])
    assert await content.incoming_ids() == []
    assert await whole(content, FOLDER) == {"a": b"1"}


async def test_upload_ids_and_paths_cannot_lead_elsewhere(content: Content, tmp_path: Path) -> None:
    for name in ("", "..", "../../x", "a/b", "0" * 31):
        with pytest.raises(ValueError, match="hexadecimal"):
            content.incoming(name)
    incoming = await begun(content)
    for path in ("", "..", "../x", "a/../../b", "/etc/x", "a//b", "a/.", "./a"):
        with pytest.raises(ValueError, match="path"):
            await incoming.put([(path, b"1")])
        with pytest.raises(ValueError, match="path"):
            await collected(content.read(path, 0, 1))
    for folder in ("", "..", "..incoming", "../x", "a/../.."):
        with pytest.raises(ValueError, match=r"path|folder"):
            await content.remove(folder)
    assert not (tmp_path / "x").exists()


async def test_odd_names_come_back_as_they_were(content: Content) -> None:
    files = {f"{name}/{name}": name.encode() for name in ODD_NAMES}
    await published(content, {**files, **{f"x{name}": b"" for name in ODD_NAMES}})
    keys = [f"{FOLDER}/{path}" for path in files]
    assert await content.read_small(keys) == list(files.values())
    walked = {found.path async for found in content.walk(FOLDER) if found.kind is Kind.FILE}
    assert walked == {*files, *(f"x{name}" for name in ODD_NAMES), "..summary"}
    assert {found.path for found in await content.listing(f"{FOLDER}/a b")} == {"a b"}
    await content.remove("proj")
    assert await content.listing("") == [found for found in await content.listing("") if found.path.startswith("..")]


async def test_a_big_file_comes_in_pieces_and_goes_on_after_a_break(content: Content) -> None:
    whole_file = os.urandom(20 * MIB + 12345)
    upload = str(uuid.uuid4())
    first = content.incoming(upload)
    await first.prepare()
    files = [(3, "big/one", len(whole_file)), (4, "other", 5)]
    assert await first.state(files) == {}
    for begin in range(0, 18 * MIB, MIB):
        await first.append(3, begin, whole_file[begin : begin + MIB])
    await first.flush()

    second = content.incoming(upload)
    assert await second.prepare()
    assert await second.state(files) == {3: 18 * MIB}
    hashes = await second.part_hashes(3, 18 * MIB)
    assert digests(hashes) == hashes_of(whole_file[: 18 * MIB])
    for begin in range(18 * MIB, len(whole_file), MIB):
        piece = whole_file[begin : begin + MIB]
        await second.append(3, begin, piece)
        hashes.update(piece)
    assert digests(hashes) == hashes_of(whole_file)
    await second.complete(3, "big/one")
    await second.complete(3, "big/one")
    assert digests(await second.file_hashes("big/one")) == hashes_of(whole_file)

    third = content.incoming(upload)
    assert await third.prepare()
    assert await third.state(files) == {3: len(whole_file)}
    await third.put([("other", b"12345"), ("..summary", SUMMARY)])
    assert await third.publish(FOLDER) is False
    assert await collected(content.read(f"{FOLDER}/big/one", 0, len(whole_file))) == whole_file
    assert digests(await content.hashes(f"{FOLDER}/big/one")) == hashes_of(whole_file)
    assert await content.incoming_ids() == []


async def test_pieces_may_begin_earlier_again_but_not_leave_a_gap(content: Content) -> None:
    incoming = await begun(content)
    for begin in range(0, 18 * MIB, 3 * MIB):
        await incoming.append(0, begin, b"a" * (3 * MIB))
    with pytest.raises(ContentLost):
        await incoming.append(0, 18 * MIB + 1, b"x")
    await incoming.append(0, 17 * MIB, b"b" * MIB)
    await incoming.append(0, 9 * MIB + 5, b"c" * MIB)
    assert digests(await incoming.part_hashes(0, 10 * MIB)) == hashes_of(b"a" * (9 * MIB + 5) + b"c" * (MIB - 5))
    with pytest.raises(ContentLost):
        await incoming.part_hashes(0, 10 * MIB + 6)
    await incoming.complete(0, "f")
    await incoming.append(1, 0, b"")
    await incoming.complete(1, "empty")
    with pytest.raises(ContentLost):
        await incoming.complete(2, "nothing")
    await incoming.publish(FOLDER)
    assert await whole(content, FOLDER) == {"empty": b"", "f": b"a" * (9 * MIB + 5) + b"c" * MIB}


async def test_state_keeps_what_is_expected_and_removes_the_rest(content: Content) -> None:
    upload = str(uuid.uuid4())
    incoming = content.incoming(upload)
    await incoming.prepare()
    await incoming.put([("same", b"1234"), ("grown", b"1"), ("dropped", b"1"), ("gone/deep/x", b"1"), ("zero", b"")])
    await incoming.link("link", "same")
    await incoming.empty_directory("hollow")
    await incoming.append(6, 0, b"x" * 100)
    await incoming.append(7, 0, b"x" * 100)
    await incoming.append(8, 0, b"x" * 100)
    await incoming.flush()
    again = content.incoming(upload)
    assert await again.prepare()
    files = [(0, "same", 4), (1, "grown", 2), (2, "zero", 0), (3, "new", 7), (6, "part", 1000), (7, "full part", 100)]
    # of a part that has all its bytes but was not completed, one is wanted
    assert await again.state(files) == {0: 4, 2: 0, 6: 100, 7: 99}
    assert await again.state(files) == {0: 4, 2: 0, 6: 100, 7: 99}
    await again.append(7, 99, b"y")
    await again.complete(7, "full part")
    await again.publish(FOLDER)
    assert await whole(content, FOLDER) == {"same": b"1234", "zero": b"", "full part": b"x" * 99 + b"y"}
    assert {found.kind async for found in content.walk(FOLDER)} == {Kind.FILE}


async def test_uploads_at_the_same_time_do_not_meet(content: Content) -> None:
    async def upload(number: int) -> None:
        incoming = await begun(content)
        batches = [
            [(f"d{batch}/f{file}", f"{number} {batch} {file}".encode()) for file in range(10)] for batch in range(4)
        ]
        await asyncio.gather(*(incoming.put(batch) for batch in batches), incoming.append(0, 0, b"p" * 1000))
        await incoming.complete(0, "part")
        await incoming.write_document("..summary", SUMMARY)
        await incoming.publish(f"proj/asset{number % 3}/v{number}")

    await asyncio.gather(*(upload(number) for number in range(8)))
    for number in range(8):
        files = await whole(content, f"proj/asset{number % 3}/v{number}")
        assert len(files) == 41
        assert files["d3/f7"] == f"{number} 3 7".encode()
    assert await content.incoming_ids() == []


async def test_a_cancelled_put_leaves_nothing_at_work(content: Content) -> None:
    incoming = await begun(content)
    files = [(f"f{number}", b"x" * 10_000) for number in range(200)]
    task = asyncio.create_task(incoming.put(files))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await incoming.discard()
    assert await content.incoming_ids() == []
    await content.empty_trash()


async def test_reading_ranges_and_what_is_not_there(content: Content) -> None:
    data = os.urandom(9 * MIB)
    await published(content, {"f": data, "empty": b""})
    for offset, length in ((0, 9 * MIB), (0, 0), (5, 7), (MIB - 1, 2), (8 * MIB - 1, MIB + 1), (9 * MIB, 0)):
        assert await collected(content.read(f"{FOLDER}/f", offset, length)) == data[offset : offset + length]
    assert await collected(content.read(f"{FOLDER}/empty", 0, 0)) == b""
    for offset, length in ((0, 9 * MIB + 1), (9 * MIB, 1), (50 * MIB, 1)):
        with pytest.raises(ContentLost):
            await collected(content.read(f"{FOLDER}/f", offset, length))
    blocks = content.read(f"{FOLDER}/f", 0, 9 * MIB)
    assert (await anext(blocks))[:10] == data[:10]
    await blocks.aclose()  # type: ignore[attr-defined]
    for key in (f"{FOLDER}/nothing", "no/such/version/f"):
        with pytest.raises(ContentLost):
            await collected(content.read(key, 0, 1))
        with pytest.raises(ContentLost):
            await collected(content.read(key, 0, 0))
        with pytest.raises(ContentLost):
            await content.read_small([f"{FOLDER}/empty", key])
        with pytest.raises(ContentLost):
            await content.hashes(key)
    with pytest.raises(ContentLost):
        await content.read_small([f"{FOLDER}/empty", f"{FOLDER}/f"], [0, 9 * MIB - 1])
    with pytest.raises(ContentLost):
        await collected(content.read(FOLDER, 0, 1))


async def test_documents_are_replaced_and_removed(content: Content) -> None:
    await content.make_folder("proj/asset")
    await content.make_folder("proj/asset")
    await content.write_document("proj/..usage", b"1")
    await content.write_documents(
        {"proj/..usage": b"2", "proj/..quota": b"3", "proj/asset/..latest": b"4", "proj/x": b""}
    )
    keys = ["proj/..usage", "proj/..quota", "proj/asset/..latest", "proj/x"]
    assert await content.read_small(keys) == [b"2", b"3", b"4", b""]
    assert Found("..usage", Kind.FILE, 1) in await content.listing("proj")
    await asyncio.gather(*(content.write_document("proj/..usage", str(n).encode()) for n in range(20)))
    assert int((await content.read_small(["proj/..usage"]))[0]) in range(20)
    await content.remove_document("proj/..usage")
    await content.remove_document("proj/..usage")
    await content.remove_document("nowhere/at/all")
    with pytest.raises(ContentLost):
        await content.read_small(["proj/..usage"])


async def test_copies_and_links_take_the_place_of_links(content: Content) -> None:
    await published(content, {"f": b"content"})
    incoming = await begun(content)
    await incoming.links([("l", "../v1/f"), ("deep/m", "../../v1/f")])
    await incoming.write_document("..summary", SUMMARY)
    await incoming.publish("proj/asset/v2")
    if is_local(content):
        assert await content.read_small(["proj/asset/v2/l", "proj/asset/v2/deep/m"]) == [b"content"] * 2
    await content.copy(f"{FOLDER}/f", "proj/asset/v2/l")
    await content.relink("proj/asset/v2/deep/m", "../l")
    await content.remove(FOLDER)
    assert await content.read_small(["proj/asset/v2/l"]) == [b"content"]
    if is_local(content):
        assert await content.read_small(["proj/asset/v2/deep/m"]) == [b"content"]
    await content.copy("proj/asset/v2/l", "proj/asset/v2/copy")
    await content.relink("proj/asset/v2/copy", "l")
    with pytest.raises(ContentLost):
        await content.copy("proj/asset/v2/nothing", "proj/asset/v2/l")
    assert await content.read_small(["proj/asset/v2/l"]) == [b"content"]
    assert {found.path async for found in content.walk("proj/asset/v2") if found.kind is Kind.FILE} == {
        "..summary",
        "l",
    }


async def test_removing_takes_a_folder_and_nothing_beside_it(content: Content) -> None:
    for folder in ("proj/asset/v1", "proj/asset/v10", "proj/asset2/v1"):
        await published(content, {"a/b/c": b"1", "d": b"2"}, folder)
    await content.remove("proj/asset/v1")
    await content.remove("proj/asset/v1")
    assert not await content.exists("proj/asset/v1")
    assert len(await whole(content, "proj/asset/v10")) == 2
    await content.remove("proj/asset")
    assert not await content.exists("proj/asset")
    assert len(await whole(content, "proj/asset2/v1")) == 2
    await asyncio.gather(content.remove("proj"), content.remove("proj"))
    assert not await content.exists("proj")
    with pytest.raises(ContentLost):
        await content.listing("proj")
    with pytest.raises(ContentLost):
        await anext(content.walk("proj"))
    await published(content, {"a": b"3"})
    assert await whole(content, FOLDER) == {"a": b"3"}


async def test_walking_goes_by_name(content: Content) -> None:
    await published(content, dict.fromkeys(("b", "a/z", "a/c/x", "a-b", "d"), b"12"))
    found = [item.path async for item in content.walk(FOLDER) if item.kind is Kind.FILE]
    assert sorted(found) == sorted(["..summary", "a-b", "a/c/x", "a/z", "b", "d"])
    assert [(item.path, item.kind) for item in await content.listing(FOLDER)] == [
        ("..summary", Kind.FILE),
        ("a", Kind.DIRECTORY),
        ("a-b", Kind.FILE),
        ("b", Kind.FILE),
        ("d", Kind.FILE),
    ]
    assert [item.path for item in await content.listing("") if not item.path.startswith("..")] == ["proj"]


async def test_a_file_is_taken_from_another_folder(content: Content, tmp_path: Path) -> None:
    source = tmp_path / "staging" / "dir" / "f"
    source.parent.mkdir(parents=True)
    data = os.urandom(9 * MIB)
    source.write_bytes(data)
    source.with_name("empty").write_bytes(b"")
    incoming = await begun(content)
    adopted = await incoming.adopt("x/f", source, consume=False)
    assert adopted is not None
    assert (adopted.size, adopted.md5, adopted.sha256) == hashes_of(data)
    assert not adopted.linked
    assert await incoming.adopt("empty", source.with_name("empty"), consume=False, within=tmp_path) is not None
    known = source.stat()
    again = await incoming.adopt("y", source, consume=True, within=tmp_path / "staging", known=known)
    assert (again is None) == is_local(content)
    other = await incoming.adopt("z", source, consume=True)
    assert other is not None
    assert (other.size, other.md5, other.sha256) == hashes_of(data)
    assert source.read_bytes() == data
    source.with_name("link").symlink_to(source)
    (tmp_path / "staging" / "dirlink").symlink_to(source.parent)
    os.mkfifo(source.with_name("pipe"))
    for name in ("link", "pipe", "nothing", "."):
        with pytest.raises(ContentLost):
            await incoming.adopt("w", source.parent / name, consume=True, within=tmp_path / "staging")
    with pytest.raises(ContentLost):
        await incoming.adopt("w", tmp_path / "staging/dirlink/f", consume=True, within=tmp_path / "staging")
    await incoming.write_document("..summary", SUMMARY)
    await incoming.publish(FOLDER)
    assert await whole(content, FOLDER) == {"x/f": data, "y": data, "z": data, "empty": b""}


async def test_presigned_urls(content: Content) -> None:
    await published(content, {"a b%c": b"content"})
    url = await content.presign(f"{FOLDER}/a b%c", 60)
    if is_local(content):
        assert url is None
    else:
        assert url is not None
        async with httpx.AsyncClient() as client:
            assert (await client.get(url)).content == b"content"
            assert (await client.get(url, headers={"Range": "bytes=3-4"})).content == b"te"


async def test_what_an_object_store_cannot_do_is_said(content: Content) -> None:
    if is_local(content):
        pytest.skip("only of an object store")
    incoming = await begun(content)
    with pytest.raises(ValueError, match="1024"):
        await incoming.put([("/".join(["x" * 200] * 6), b"1")])
    with pytest.raises(ContentError, match="object store"):
        await (await open_content("s3://no-such-bucket-here/x")).incoming(str(uuid.uuid4())).prepare()


async def test_addresses(tmp_path: Path) -> None:
    for address in ("s3:///x", "s3://b?x", "ftp://x/y", "https://bucket/x"):
        with pytest.raises(ValueError, match="s3://BUCKET/PREFIX"):
            await open_content(address)
    (tmp_path / "file").touch()
    with pytest.raises((OSError, ContentError)):
        await open_content(tmp_path / "file")


async def test_times(content: Content, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what many files of 4 KiB and one of 64 MiB cost. Says nothing about what they may cost."""
    said = []
    # the S3 server of these tests takes a few milliseconds for a request
    count = 2000 if is_local(content) else 200

    def say(what: str, begin: float) -> float:
        said.append(f"{what} {1e3 * (time.perf_counter() - begin):.0f} ms")
        return time.perf_counter()

    small = [(f"d{number % 20}/f{number}", os.urandom(4096)) for number in range(count)]
    mark = time.perf_counter()
    incoming = await begun(content)
    for begin in range(0, count, 500):
        await incoming.put(small[begin : begin + 500])
    mark = say(f"{count} files put", mark)
    await incoming.write_document("..summary", SUMMARY)
    await incoming.publish(FOLDER)
    mark = say("published", mark)
    keys = [f"{FOLDER}/{path}" for path, _ in small]
    assert await content.read_small(keys, [4096] * count) == [data for _, data in small]
    mark = say("read", mark)
    await content.remove(FOLDER)
    mark = say("removed", mark)

    big = os.urandom(64 * MIB)
    mark = time.perf_counter()
    incoming = await begun(content)
    for begin in range(0, len(big), MIB):
        await incoming.append(0, begin, big[begin : begin + MIB])
    await incoming.complete(0, "big")
    mark = say("64 MiB appended", mark)
    await incoming.write_document("..summary", SUMMARY)
    await incoming.publish(FOLDER)
    mark = say("published", mark)
    size = 0
    async for block in content.read(f"{FOLDER}/big", 0, len(big)):
        size += len(block)
    assert size == len(big)
    mark = say("read", mark)
    await content.hashes(f"{FOLDER}/big")
    mark = say("hashed", mark)
    incoming = await begun(content)
    await incoming.put([("f", b"x" * 4096), ("..summary", SUMMARY), ("..manifest", SUMMARY)])
    await incoming.publish("proj/asset/small")
    say("one small version", mark)
    with capsys.disabled():
        print(f"\n{'local' if is_local(content) else 's3'}: {', '.join(said)}")
