"""Uploads and downloads where the registry is an object store."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from drayman.client.registry import RegistryClient
from s3_server import s3_server
from service.registry import trees
from service.registry.cuttable import cuttable
from service.registry.house import House, house
from service.registry.raw_upload import announce, raw_upload

MIB = 1 << 20
FILES = {"a": b"alpha", "d/b": b"beta" * 1000, "big": os.urandom(13 * MIB + 5), "empty": b"", "d/e/f": b"f" * 300_000}


def fetch(url: str) -> bytes:
    """Fetch from the store, without any of our own services."""
    return httpx.get(url).raise_for_status().content


@pytest_asyncio.fixture(scope="module")
async def objects(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("objects")
    with s3_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        async with house(module_database, folder, registry=f"s3://{server.bucket()}/prefix") as running:
            yield running


@pytest_asyncio.fixture(scope="module")
async def ann(objects: House) -> AsyncIterator[RegistryClient]:
    async with objects.client("ann", admin=True) as client:
        await client.create_project("p")
        yield client


async def test_there_and_back(ann: RegistryClient, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", FILES)
    first = await ann.upload("p", "asset", "v1", source)
    again = await ann.upload("p", "asset", "v2", source)
    assert (first.version.usage, again.version.usage) == (sum(map(len, FILES.values())), 0)
    assert (again.bytes_sent, again.deduplicated) == (0, len(FILES))
    # no object of the second one holds a content: the rows say where it is
    await ann.download("p", "asset", "v2", tmp_path / "copy")
    assert trees.contents(tmp_path / "copy") == FILES
    part = [block async for block in ann.read("p", "asset", "v2", "big", offset=5 * MIB, length=3)]
    assert b"".join(part) == FILES["big"][5 * MIB : 5 * MIB + 3]


async def test_urls(ann: RegistryClient, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", FILES)
    await ann.upload("p", "urls", "v1", source)
    await ann.upload("p", "urls", "v2", source)
    urls = await ann.presign("p", "urls", "v2")
    assert urls.keys() == FILES.keys()
    for path, url in (await ann.presign("p", "urls", "v2", ["d/b", "a"], lifetime=60)).items():
        assert await asyncio.to_thread(fetch, url) == FILES[path]


async def test_a_connection_that_is_cut(objects: House, ann: RegistryClient, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", FILES)
    async with cuttable(objects.url) as passing, objects.client("ann", admin=True, url=passing.url) as client:
        passing.cuts_after = [9 * MIB]
        done = await client.upload("p", "cut", "v1", source)
        assert passing.cuts == 1
    assert done.version.latest
    await ann.download("p", "cut", "v1", tmp_path / "copy")
    assert trees.contents(tmp_path / "copy") == FILES


async def test_what_has_arrived_is_not_wanted_again(objects: House, ann: RegistryClient) -> None:
    token, upload_id, content = objects.issuer.token("ann", admin=True), str(uuid4()), FILES["big"]
    files = [announce("a", b"aa"), announce("b", content)]
    async with raw_upload(objects.url, token) as stream:
        await stream.begin("p/resumed/v1", upload_id)
        await stream.manifest(*files)
        await stream.wanted()
        await stream.piece(0, b"aa")
        for offset in range(0, 8 * MIB, MIB):
            await stream.piece(1, content[offset : offset + MIB], offset)
    async with raw_upload(objects.url, token) as stream:
        await stream.begin("p/resumed/v1", upload_id)
        await stream.manifest(*files)
        for number, offset in await stream.wanted():
            await stream.piece(number, (b"aa", content)[number][offset:], offset)
        await stream.finish()
    assert [block async for block in ann.read("p", "resumed", "v1", "a")] == [b"aa"]
    assert b"".join([block async for block in ann.read("p", "resumed", "v1", "b")]) == content
