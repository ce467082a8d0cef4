"""The registry's bytes when the process dies at every point of an upload, a publication and a removal, and what is done is done again."""

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from drayman.server.registry.content import Content, ContentLost, Kind
from drayman.server.registry.content_stores import open_content
from s3_server import S3Server, s3_server
from service.registry.content_crash import BIG, FILES, FOLDER

WHOLE = {**FILES, "big": BIG}
EXPECTED = [(0, "a", 5000), (1, "b/c", 5000), (2, "b/d", 0), (7, "big", len(BIG))]
#: Points that are tried at a time: each needs a process.
WIDTH = 4


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


class Place:
    """A store of its own for each crash."""

    def __init__(self, folder: Path, server: S3Server | None) -> None:
        self._folder = folder
        self._server = server

    @property
    def local(self) -> bool:
        return self._server is None

    def new(self) -> str:
        return f"s3://{self._server.bucket()}/r" if self._server else str(self._folder / uuid.uuid4().hex)


@pytest_asyncio.fixture(params=["local", "s3"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if request.param == "local":
        yield Place(tmp_path, None)
        return
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield Place(tmp_path, server)


async def dies(address: str, upload: str, point: int, action: str) -> bool:
    """Run the action in a process that dies there. Returns whether it did, and had not come to its end."""
    script = str(Path(__file__).with_name("content_crash.py"))
    process = await asyncio.create_subprocess_exec(sys.executable, script, address, upload, str(point), action)
    code = await process.wait()
    assert code in {0, -signal.SIGKILL}
    return code != 0


async def uploaded(content: Content, upload: str) -> None:
    """Upload everything, or what lacks of it."""
    incoming = content.incoming(upload)
    await incoming.prepare()
    arrived = await incoming.state(EXPECTED)
    sizes = {path: (number, size) for number, path, size in EXPECTED}
    await incoming.put(
        [
            (path, data)
            for path, data in FILES.items()
            if path not in sizes or arrived.get(sizes[path][0]) != sizes[path][1]
        ]
    )
    offset = arrived.get(7, 0)
    if offset < len(BIG):
        for begin in range(offset, len(BIG), 1 << 20):
            await incoming.append(7, begin, BIG[begin : begin + (1 << 20)])
        await incoming.complete(7, "big")
    await incoming.link("l", "a")


async def everything(content: Content, folder: str = FOLDER) -> dict[str, bytes]:
    keys = [found.path async for found in content.walk(folder) if found.kind is Kind.FILE]
    return dict(zip(keys, await content.read_small([f"{folder}/{key}" for key in keys]), strict=True))


async def at_every_point(check: Callable[[int], Awaitable[bool]]) -> int:
    """Let the action die at its 1st, 2nd, ... change until it comes to its end. Returns how many points there are."""
    point = 0
    while True:
        points = range(point + 1, point + 1 + WIDTH)
        deaths = await asyncio.gather(*(check(number) for number in points))
        if not all(deaths):
            return point + sum(deaths)
        point += WIDTH


async def test_an_upload_goes_on_after_a_crash(place: Place) -> None:
    async def check(point: int) -> bool:
        address, upload = place.new(), str(uuid.uuid4())
        died = await dies(address, upload, point, "upload")
        content = await open_content(address)
        await uploaded(content, upload)
        assert not await content.exists("proj")
        assert not await content.incoming(upload).publish(FOLDER)
        assert await everything(content) == WHOLE
        assert await content.incoming_ids() == []
        await content.close()
        return died

    assert await at_every_point(check) >= 8


async def test_a_publication_goes_on_after_a_crash(place: Place) -> None:
    async def check(point: int) -> bool:
        address, upload = place.new(), str(uuid.uuid4())
        content = await open_content(address)
        await uploaded(content, upload)
        died = await dies(address, upload, point, "publish")
        if place.local and await content.exists(FOLDER):
            # one step: it is there, or nothing of it
            assert await everything(content) == WHOLE
        incoming = content.incoming(upload)
        if await incoming.published(FOLDER):
            assert await everything(content) == WHOLE
            with pytest.raises(ContentLost):
                await incoming.write_document("..summary", b"t")
        else:
            # whoever goes on writes the documents again
            await incoming.write_document("..summary", FILES["..summary"])
        await incoming.publish(FOLDER)
        assert await everything(content) == WHOLE
        assert await content.incoming(upload).publish(FOLDER)
        assert await content.incoming_ids() == []
        await content.close()
        return died

    assert await at_every_point(check) >= 6


async def test_a_discarded_upload_is_gone_after_a_crash(place: Place) -> None:
    async def check(point: int) -> bool:
        address, upload = place.new(), str(uuid.uuid4())
        content = await open_content(address)
        await uploaded(content, upload)
        died = await dies(address, upload, point, "discard")
        for left in await content.incoming_ids():
            assert left == upload
            await content.incoming(left).discard()
        await content.empty_trash()
        assert await content.incoming_ids() == []
        assert not await content.incoming(upload).prepare()
        assert await content.incoming(upload).state(EXPECTED) == {}
        if content.local_root is not None:
            assert list((content.local_root / "..trash").iterdir()) == []
        await content.close()
        return died

    assert await at_every_point(check) >= 3


async def test_a_removal_goes_on_after_a_crash(place: Place) -> None:
    async def check(point: int) -> bool:
        address, upload = place.new(), str(uuid.uuid4())
        content = await open_content(address)
        await uploaded(content, upload)
        await content.incoming(upload).publish(FOLDER)
        died = await dies(address, upload, point, "remove")
        if place.local and await content.exists(FOLDER):
            assert await everything(content) == WHOLE
        await content.remove(FOLDER)
        await content.empty_trash()
        assert not await content.exists(FOLDER)
        if content.local_root is not None:
            assert list((content.local_root / "..trash").iterdir()) == []
            assert list((content.local_root / "proj/asset").iterdir()) == []
        await content.close()
        return died

    assert await at_every_point(check) >= 2


async def test_documents_are_old_or_new_after_a_crash(place: Place) -> None:
    keys = [f"proj/..{name}" for name in "xyz"]

    async def check(point: int) -> bool:
        address = place.new()
        content = await open_content(address)
        await content.make_folder("proj")
        await content.write_documents(dict.fromkeys(keys, b"old"))
        died = await dies(address, str(uuid.uuid4()), point, "documents")
        assert set(await content.read_small(keys)) <= {b"old", b"new" * 1000}
        assert {found.path for found in await content.listing("proj")} == {"..x", "..y", "..z"}
        await content.write_documents(dict.fromkeys(keys, b"newer"))
        assert set(await content.read_small(keys)) == {b"newer"}
        await content.close()
        return died

    assert await at_every_point(check) >= 3
