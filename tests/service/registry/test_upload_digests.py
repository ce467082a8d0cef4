"""Files whose digests follow their bytes: nothing is believed before they are there, and what the registry may have does not travel."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from drayman.client import InvalidRequestError
from drayman.client.registry import RegistryClient
from drayman.registry.v1 import content_service_pb2 as pb
from service.registry import trees
from service.registry.house import House, house
from service.registry.raw_upload import RawUpload, announce, raw_upload

MIB = 1 << 20
CONTENT = os.urandom(2 * MIB + 17)
SAME_SIZE = os.urandom(len(CONTENT))
LATER = pb.UploadFile(path="big", size=len(CONTENT), digests_follow=True)


def digests(content: bytes, file: int = 0, **fields: str) -> pb.UploadDigests:
    """Digests of a file; `fields` replace what is true."""
    true = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
    return pb.UploadDigests(files=[pb.FileDigests(file=file, **(true | fields))])


async def send(stream: RawUpload, content: bytes, begin: int = 0, number: int = 0) -> None:
    """Send a content from an offset on."""
    for offset in range(begin, len(content), MIB):
        await stream.piece(number, content[offset : offset + MIB], offset)


async def say(stream: RawUpload, *said: pb.UploadDigests, content: bytes = b"", begin: int = 0) -> None:
    """Send a content, then digests, and end; read the answer."""
    await send(stream, content, begin)
    for each in said:
        await stream.send(digests=each)
    await stream.finish()


async def asked(stream: RawUpload) -> list[tuple[int, bool]]:
    """Read which digests are wanted, and whether MD5 is."""
    found = []
    while (reply := await stream.read()).HasField("wanted"):
        assert all(file.digests for file in reply.wanted.files)
        found += [(file.file, file.md5) for file in reply.wanted.files]
    return found


async def check(client: RegistryClient, registry: House, at: tuple[str, str, str], files: dict[str, bytes]) -> None:
    """A version is there, and all of its hashes are known."""
    trees.check_version(registry.root.joinpath(*at), files)
    known = {entry.path: (entry.md5, entry.sha256) async for entry in client.entries(*at)}
    assert known == {
        path: (hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()) for path, content in files.items()
    }
    assert trees.leftovers(registry.root) == []


@pytest.mark.parametrize("when", ["before", "among", "after"])
@pytest.mark.parametrize("md5", [True, False], ids=["both", "SHA-256"])
async def test_digests_follow(owner: RegistryClient, registry: House, project: str, when: str, md5: bool) -> None:
    said = digests(CONTENT) if md5 else digests(CONTENT, md5="")
    links = [
        pb.UploadFile(path="link", link=pb.UploadLink(local="big")),
        pb.UploadFile(path="other", link=pb.UploadLink(local="link")),
    ]
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        assert await stream.announce(LATER, *links, announce("small", b"s", md5="")) == [(0, 0), (3, 0)]
        if when == "before":
            await stream.send(digests=said)
        await stream.piece(0, CONTENT[:MIB])
        if when == "among":
            await stream.send(digests=said)
        await send(stream, CONTENT, MIB)
        if when == "after":
            await stream.send(digests=said)
        done = await stream.last_piece(3, b"s")
    assert done.version.usage == len(CONTENT) + 1
    files = {"big": CONTENT, "link": CONTENT, "other": CONTENT, "small": b"s"}
    await check(owner, registry, (project, "asset", "v1"), files)


async def test_a_file_in_one_piece(owner: RegistryClient, registry: House, project: str) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.announce(pb.UploadFile(path="a", size=3, digests_follow=True))
        await stream.piece(0, b"abc")
        await stream.send(digests=digests(b"abc"))
        await stream.finish()
    await check(owner, registry, (project, "asset", "v1"), {"a": b"abc"})


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"md5": "0" * 32}], ids=["SHA-256", "MD5"])
async def test_wrong_digests(registry: House, project: str, when: str, wrong: dict[str, Any]) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.announce(LATER)
        said = [digests(CONTENT, **wrong)]
        if when == "before":
            await stream.send(digests=said.pop())
        with pytest.raises(InvalidRequestError) as refused:
            await say(stream, *said, content=CONTENT)
    assert (refused.value.reason, refused.value.metadata["path"]) == ("CONTENT_MISMATCH", "big")
    assert trees.leftovers(registry.root) == []
    assert not (registry.root / project / "asset").exists()


async def test_digests_that_do_not_follow(registry: House, project: str) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.announce(LATER)
        with pytest.raises(InvalidRequestError, match="did not follow") as refused:
            await say(stream, content=CONTENT)
    assert refused.value.reason == "CONTENT_MISMATCH"
    assert trees.leftovers(registry.root) == []
    assert not (registry.root / project / "asset").exists()


@pytest.mark.parametrize(
    "said",
    [
        digests(CONTENT, 1),
        digests(CONTENT, 2),
        digests(CONTENT, -1),
        digests(CONTENT, sha256=""),
        digests(CONTENT, md5="A" * 32),
        pb.UploadDigests(files=[*digests(CONTENT).files, *digests(CONTENT).files]),
    ],
    ids=["of another file", "beyond", "below", "no SHA-256", "an MD5 in capitals", "twice"],
)
async def test_digests_that_cannot_be(registry: House, project: str, said: pb.UploadDigests) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.announce(LATER, announce("known", b"k"))
        with pytest.raises(InvalidRequestError) as refused:
            await say(stream, said)
    assert (refused.value.reason, refused.value.field.split(".")[0]) == ("INVALID_FIELD", "digests")
    assert trees.leftovers(registry.root) == []


async def test_what_the_registry_has_does_not_travel(owner: RegistryClient, registry: House, project: str) -> None:
    token = registry.issuer.token("ann")
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.rest([announce("big", CONTENT)], [CONTENT])
    later = [LATER, pb.UploadFile(path="new", size=len(CONTENT), digests_follow=True)]
    unseen = pb.UploadFile(path="unseen", size=5, digests_follow=True)
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v2")
        await stream.manifest(*later, unseen)
        assert await asked(stream) == [(0, False), (1, False)]
        await stream.send(digests=digests(CONTENT, 0, md5=""))
        await stream.send(digests=digests(SAME_SIZE, 1, md5=""))
        assert await stream.wanted() == [(1, 0), (2, 0)]
        await send(stream, SAME_SIZE, number=1)
        await stream.piece(2, b"56789")
        await stream.send(digests=digests(b"56789", 2))
        done = await stream.finish()
    assert (done.deduplicated, done.bytes_received, done.version.usage) == (1, len(CONTENT) + 5, len(CONTENT) + 5)
    assert (registry.root / project / "asset/v2/big").is_symlink()
    files = {"big": CONTENT, "new": SAME_SIZE, "unseen": b"56789"}
    await check(owner, registry, (project, "asset", "v2"), files)


async def test_a_file_of_which_only_the_md5_is_known(database_url: str, tmp_path: Path) -> None:
    async with house(database_url, tmp_path) as registry, registry.client("ann", admin=True) as ann:
        await ann.create_project("p")
        token = registry.issuer.token("ann", admin=True)
        async with raw_upload(registry.url, token) as stream:
            await stream.begin("p/asset/v1")
            await stream.rest([announce("big", CONTENT)], [CONTENT])
        # as what was adopted without being hashed
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("UPDATE registry.entry SET sha256 = NULL WHERE size = $1", len(CONTENT))
        finally:
            await connection.close()
        async with raw_upload(registry.url, token) as stream:
            await stream.begin("p/asset/refused")
            await stream.manifest(LATER)
            await asked(stream)
            with pytest.raises(InvalidRequestError, match="MD5 is wanted"):
                await say(stream, digests(CONTENT, md5=""))
        async with raw_upload(registry.url, token) as stream:
            await stream.begin("p/asset/v2")
            await stream.manifest(LATER)
            assert await asked(stream) == [(0, True)]
            await stream.send(digests=digests(CONTENT))
            assert await stream.wanted() == []
            assert (await stream.finish()).deduplicated == 1


@pytest.mark.parametrize("arrived", [MIB, len(CONTENT)], ids=["half", "all but the digests"])
async def test_a_broken_connection(owner: RegistryClient, registry: House, project: str, arrived: int) -> None:
    token, upload_id = registry.issuer.token("ann"), str(uuid4())
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.announce(LATER)
        await send(stream, CONTENT[:arrived])
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(LATER)
        assert await asked(stream) == [(0, False)]
        await stream.send(digests=digests(CONTENT, md5=""))
        [(number, offset)] = await stream.wanted()
        assert (number, 0 <= offset <= min(arrived, len(CONTENT) - 1)) == (0, True)
        await send(stream, CONTENT, offset)
        await stream.finish()
    await check(owner, registry, (project, "asset", "v1"), {"big": CONTENT})


async def test_another_content_after_a_broken_connection(owner: RegistryClient, registry: House, project: str) -> None:
    """What an earlier connection sent is hashed with the rest: it is not taken for the beginning of something else."""
    token, upload_id = registry.issuer.token("ann"), str(uuid4())
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.announce(LATER)
        await send(stream, CONTENT)
        await stream.send(digests=digests(CONTENT))
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id)
        await stream.manifest(LATER)
        await asked(stream)
        await stream.send(digests=digests(SAME_SIZE))
        [(_, offset)] = await stream.wanted()
        if not offset:  # the other one had come to its end, and was another file
            await say(stream, content=SAME_SIZE)
            await check(owner, registry, (project, "asset", "v1"), {"big": SAME_SIZE})
            return
        with pytest.raises(InvalidRequestError) as refused:
            await say(stream, content=SAME_SIZE, begin=offset)
    assert refused.value.reason == "CONTENT_MISMATCH"
    assert not (registry.root / project / "asset").exists()
