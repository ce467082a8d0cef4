"""Uploads over a real channel: what becomes of files, what does not travel twice, and what is refused."""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.client import AlreadyExistsError, ForbiddenError, InvalidRequestError, NotFoundError, OverloadedError
from drayman.client.registry import RegistryClient
from drayman.client.registry_progress import Progress
from drayman.client.registry_tree import TreeError
from drayman.client.registry_values import FileAddress
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import version_pb2
from service.registry import trees
from service.registry.house import House
from service.registry.raw_upload import announce, raw_upload, upload_all

MIB = 1 << 20
FILES = {
    "a": b"alpha",
    "d/b": b"beta" * 1000,
    "d/e/c": bytes(range(256)) * 2000,
    "empty": b"",
    "big": b"B" * (3 * MIB + 5),
}


async def entries(client: RegistryClient, project: str, asset: str, version: str) -> dict[str, str]:
    """Paths, and what links lead to."""
    return {
        entry.path: "" if entry.link is None else entry.link.target.key
        async for entry in client.entries(project, asset, version)
    }


async def test_a_folder_becomes_a_version(owner: RegistryClient, registry: House, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", FILES | {"hollow/deep": None})
    seen: list[Progress] = []
    done = await owner.upload(project, "asset", "v1", source, progress=seen.append)
    assert (done.version.upload_user, done.version.latest, done.version.on_probation) == ("ann", True, False)
    assert done.version.entries == len(FILES) + 1
    assert done.version.usage == sum(map(len, FILES.values()))
    assert done.deduplicated == 0
    assert done.bytes_sent == done.version.usage
    place = registry.root / project / "asset" / "v1"
    trees.check_version(place, FILES)
    assert (place / "hollow/deep").is_dir()
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()} == {0o644}
    assert {progress.stage for progress in seen} >= {"reading", "sending"}
    reading = [progress for progress in seen if progress.stage == "reading"][-1]
    # the big one is read once, while it is sent
    before = done.bytes_sent - len(FILES["big"])
    assert (reading.files, reading.bytes) == (reading.files_total, reading.bytes_total) == (4, before)
    # every hash is known
    known = {entry.path: entry async for entry in owner.entries(project, "asset", "v1")}
    assert all(known[path].sha256 == hashlib.sha256(content).hexdigest() for path, content in FILES.items())
    assert trees.leftovers(registry.root) == []


async def test_what_is_there_does_not_travel(
    owner: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    source = trees.write(tmp_path / "source", FILES)
    await owner.upload(project, "asset", "v1", source)
    again = await owner.upload(project, "asset", "v2", source)
    assert (again.bytes_sent, again.deduplicated, again.version.usage) == (0, len(FILES), 0)
    (source / "a").rename(source / "renamed")
    (source / "d/b").write_bytes(b"something else")
    third = await owner.upload(project, "asset", "v3", source)
    assert third.bytes_sent == third.version.usage == len(b"something else")
    assert third.deduplicated == len(FILES) - 1
    assert await entries(owner, project, "asset", "v3") == {
        "renamed": f"{project}/asset/v2/a",
        "big": f"{project}/asset/v2/big",
        "d/b": "",
        "d/e/c": f"{project}/asset/v2/d/e/c",
        "empty": f"{project}/asset/v2/empty",
    }
    place = registry.root / project / "asset"
    assert trees.leads(place / "v3/renamed") == "../v1/a"
    assert trees.leads(place / "v3/d/e/c") == "../../../v1/d/e/c"
    link = trees.document(place / "v3/..manifest")["renamed"]["link"]
    assert (link["version"], link["ancestor"]["version"]) == ("v2", "v1")
    trees.check_version(place / "v3", trees.contents(source))


async def test_equal_files_of_one_upload_are_both_stored(owner: RegistryClient, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", {"a": b"same", "b": b"same"})
    done = await owner.upload(project, "asset", "v1", source)
    assert done.version.usage == 8


async def test_a_link_to_content_that_is_gone_is_not_made(
    owner: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    source = trees.write(tmp_path / "source", {"a": b"alpha", "b": b"beta"})
    await owner.upload(project, "asset", "v1", source)
    (registry.root / project / "asset/v1/a").unlink()
    done = await owner.upload(project, "asset", "v2", source)
    assert (done.deduplicated, done.version.usage) == (1, 5)
    assert (registry.root / project / "asset/v2/a").read_bytes() == b"alpha"


async def test_links_of_the_source(owner: RegistryClient, registry: House, project: str, tmp_path: Path) -> None:
    await owner.upload(project, "base", "v1", trees.write(tmp_path / "base", {"x/y": b"far away"}))
    source = trees.write(tmp_path / "source", {"real": b"content", "d/f": b"f", "d/g/h": b"h"})
    (source / "near").symlink_to("real")
    (source / "d/chain").symlink_to("../near")
    (source / "absolute").symlink_to(source / "d/f")
    (source / "folder").symlink_to("d")
    (source / "far").symlink_to(registry.root / project / "base/v1/x/y")
    done = await owner.upload(project, "asset", "v1", source, registry=registry.root)
    assert done.version.usage == len(b"contentfh")
    here = f"{project}/asset/v1"
    assert await entries(owner, project, "asset", "v1") == {
        "real": "",
        "d/f": "",
        "d/g/h": "",
        "near": f"{here}/real",
        "d/chain": f"{here}/near",
        "absolute": f"{here}/d/f",
        "folder/f": f"{here}/d/f",
        "folder/g/h": f"{here}/d/g/h",
        "folder/chain": f"{here}/near",
        "far": f"{project}/base/v1/x/y",
    }
    place = registry.root / here
    assert trees.leads(place / "d/chain") == "../real"
    assert trees.leads(place / "far") == "../../base/v1/x/y"
    expected = trees.contents(source)
    trees.check_version(place, expected | {f"folder/{name}": expected[f"d/{name}"] for name in ("f", "g/h", "chain")})


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("pipe", os.mkfifo, "FIFO"),
        ("dangling", lambda path: path.symlink_to("nowhere"), "cannot be reached"),
        ("circle", lambda path: path.symlink_to("circle"), "in a circle"),
        ("out", lambda path: path.symlink_to("/etc/passwd"), "neither in the folder nor in the registry"),
        ("out", lambda path: path.symlink_to("/etc"), "not in the folder"),
        ("up", lambda path: path.symlink_to("."), "in which it lies itself"),
        ("caf\udce9", lambda path: path.write_bytes(b""), "UTF-8"),
        ("hidden", lambda path: path.symlink_to("..left-out"), "left out"),
    ],
)
async def test_what_cannot_be_uploaded_is_refused(
    owner: RegistryClient, project: str, tmp_path: Path, name: str, make: object, problem: str
) -> None:
    source = trees.write(tmp_path / "source", {"fine": b"fine", "..left-out": b"ours"})
    (source / "d").mkdir()
    make(source / "d" / name if name != "hidden" else source / name)  # type: ignore[operator]
    with pytest.raises(TreeError, match=problem):
        await owner.upload(project, "asset", "v1", source)
    with pytest.raises(NotFoundError):
        await owner.get_version(project, "asset", "v1")


async def test_names_of_our_own_are_left_out(owner: RegistryClient, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / ".source", {"a": b"a", "..b": b"b", "..c/d": b"d", ".e": b"e", "f/..g": b"g"})
    await owner.upload(project, "asset", "v1", source)
    assert (await entries(owner, project, "asset", "v1")).keys() == {"a", ".e", "f"}
    await owner.upload(project, "asset", "v2", source, ignore_dot=True)
    assert (await entries(owner, project, "asset", "v2")).keys() == {"a", "f"}


async def test_no_folder(owner: RegistryClient, project: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await owner.upload(project, "asset", "v1", tmp_path / "nothing")
    with pytest.raises(NotADirectoryError):
        await owner.upload(project, "asset", "v1", trees.write(tmp_path, {"file": b""}) / "file")


async def test_a_folder_with_nothing_in_it(
    owner: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    done = await owner.upload(project, "asset", "v1", trees.write(tmp_path / "source", {}))
    assert (done.version.entries, done.version.usage) == (0, 0)
    assert trees.document(registry.root / project / "asset/v1/..manifest") == {}


async def test_a_file_that_changes_while_it_is_sent(
    owner: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    source = trees.write(tmp_path / "source", {"a": b"a" * MIB, "b": b"b" * 4 * MIB})

    def spoil(progress: Progress) -> None:
        if progress.stage == "sending":
            (source / "b").write_bytes(b"c" * 4 * MIB)

    with pytest.raises(TreeError, match="'b': it changes while it is read"):
        await owner.upload(project, "asset", "v1", source, progress=spoil)
    assert trees.leftovers(registry.root) == []
    done = await owner.upload(project, "asset", "v1", source)
    assert done.version.latest


async def test_who_may_not(registry: House, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", {"a": b"a"})
    async with registry.client("bob") as bob:
        with pytest.raises(ForbiddenError) as refused:
            await bob.upload(project, "asset", "v1", source)
        assert refused.value.reason == "NOT_AN_UPLOADER"
        with pytest.raises(ForbiddenError) as refused:
            await bob.upload(project, "asset", "v1", source, spoof="ann")
        assert refused.value.reason == "SPOOFING_REFUSED"
        with pytest.raises(NotFoundError):
            await bob.upload("no-such-project", "asset", "v1", source)


async def test_a_name_that_is_taken(owner: RegistryClient, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", {"a": b"a"})
    await owner.upload(project, "asset", "v1", source)
    with pytest.raises(AlreadyExistsError) as refused:
        await owner.upload(project, "asset", "v1", source)
    assert refused.value.reason == "VERSION_EXISTS"


async def test_the_quota_is_checked_before_bytes_travel(
    administrator: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    await administrator.set_quota(project, baseline=2 * MIB, growth_rate=0)
    token = registry.issuer.token("ann")
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"", size=2 * MIB + 1))
        with pytest.raises(OverloadedError) as refused:
            await stream.wanted()
    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert f"{2 * MIB:,}" in refused.value.message
    await upload_all(registry.url, token, f"{project}/asset/v1", {"a": b"x" * 2 * MIB})
    with pytest.raises(OverloadedError):
        await upload_all(registry.url, token, f"{project}/asset/v2", {"a": b"y"})
    # what is there already needs no room
    await upload_all(registry.url, token, f"{project}/asset/v2", {"a": b"x" * 2 * MIB})
    assert (await administrator.get_project(project)).usage == 2 * MIB


LIES = {
    "a size that is too small": (announce("a", b"hello", size=4), b"hello"),
    "a size that is too large": (announce("a", b"hello", size=6), b"hello"),
    "another MD5": (announce("a", b"hello", md5="0" * 32), b"hello"),
    "another SHA-256": (announce("a", b"hello", sha256="0" * 64), b"hello"),
    "another content": (announce("a", b"hello"), b"world"),
    "another MD5 of much": (announce("a", b"h" * 3 * MIB, md5="0" * 32), b"h" * 3 * MIB),
    "another SHA-256 of much": (announce("a", b"h" * 3 * MIB, sha256="0" * 64), b"h" * 3 * MIB),
    "an empty file that is none": (announce("a", b"", md5="0" * 32), b""),
}


@pytest.mark.parametrize("lie", LIES)
async def test_bytes_that_are_not_what_was_announced(registry: House, project: str, lie: str) -> None:
    announced, content = LIES[lie]
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        with pytest.raises(InvalidRequestError) as refused:
            await stream.rest([announce("fine", b"fine"), announced], [b"fine", content])
    assert refused.value.reason == "CONTENT_MISMATCH"
    assert "'a'" in refused.value.message
    assert trees.leftovers(registry.root) == []
    await upload_all(registry.url, registry.issuer.token("ann"), f"{project}/asset/v1", {"a": b"hello"})


LINK = pb.UploadLink(local="a")
ODD = {
    "a path twice": [announce("a", b"1"), announce("a", b"2")],
    "a path below a file": [announce("a", b"1"), announce("a/b", b"2")],
    "a path that leads out": [announce("../a", b"1")],
    "an absolute path": [announce("/a", b"1")],
    "a name of our own": [announce("d/..manifest", b"1")],
    "an empty part": [announce("a//b", b"1")],
    "a dot": [announce("./a", b"1")],
    "a control character": [announce("a\nb", b"1")],
    "NUL": [announce("a\0b", b"1")],
    "no path": [announce("", b"1")],
    "a part that is too long": [announce("n" * 256, b"1")],
    "a path that is too long": [announce("/".join(["n" * 200] * 21), b"1")],
    "a negative size": [announce("a", b"1", size=-1)],
    "an MD5 in capitals": [announce("a", b"1", md5="A" * 32)],
    "no SHA-256": [announce("a", b"1", sha256="")],
    "neither hash": [announce("a", b"1", md5="", sha256="")],
    "digests that are there and follow": [announce("a", b"1", digests_follow=True)],
    "digests that follow an empty file": [pb.UploadFile(path="a", digests_follow=True)],
    "digests that follow a link": [announce("a", b"1"), pb.UploadFile(path="l", link=LINK, digests_follow=True)],
    "a link with a size": [announce("a", b"1"), pb.UploadFile(path="l", size=1, link=LINK)],
    "a link to nothing": [pb.UploadFile(path="l", link=LINK)],
    "a link to itself": [pb.UploadFile(path="a", link=LINK)],
    "a link to a directory": [announce("a/b", b"1"), pb.UploadFile(path="l", link=LINK)],
    "a link without target": [pb.UploadFile(path="l", link=pb.UploadLink())],
    "a link out of the registry": [
        pb.UploadFile(
            path="l",
            link=pb.UploadLink(registry=version_pb2.FileAddress(project="..", asset="a", version="v", path="p")),
        )
    ],
    "a link to a version that is not there": [
        pb.UploadFile(
            path="l",
            link=pb.UploadLink(registry=version_pb2.FileAddress(project="p", asset="a", version="v", path="p")),
        )
    ],
    "an empty directory with a hash": [pb.UploadFile(path="d", md5="0" * 32, empty_directory=True)],
}


@pytest.mark.parametrize("oddity", ODD)
async def test_manifests_that_cannot_be(registry: House, project: str, oddity: str) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        with pytest.raises(InvalidRequestError) as refused:
            await stream.announce(*ODD[oddity])
    assert refused.value.reason == "INVALID_FIELD"
    assert refused.value.field.startswith("manifest")
    assert trees.leftovers(registry.root) == []
    assert not (registry.root / project / "asset").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "..x", "a/b", "a\\b", "a\nb", "n" * 256])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_names_that_cannot_be(registry: House, project: str, name: str, place: int) -> None:
    begin = dict(zip(("project", "asset", "version"), [project, "asset", "v1"], strict=True))
    begin[("project", "asset", "version")[place]] = name
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.send(begin=pb.UploadBegin(upload_id=str(uuid4()), **begin))
        with pytest.raises(InvalidRequestError):
            await stream.read()


async def test_messages_out_of_turn(registry: House, project: str) -> None:
    token = registry.issuer.token("ann")
    async with raw_upload(registry.url, token) as stream:
        await stream.send(finish=pb.UploadFinish())
        with pytest.raises(InvalidRequestError, match="finish came where begin or whole was to come"):
            await stream.read()
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1", upload_id="no uuid")
        with pytest.raises(InvalidRequestError, match="expected a UUID"):
            await stream.read()
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"a"), count=2)
        with pytest.raises(InvalidRequestError, match="2 files were announced, 1 came"):
            await stream.read()
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"abc"))
        await stream.wanted()
        with pytest.raises(InvalidRequestError, match="where that at 0 is next"):
            await stream.last_piece(0, b"c", 2)
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"abc"))
        await stream.wanted()
        with pytest.raises(InvalidRequestError, match="of file 1"):
            await stream.last_piece(1, b"c")
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"abc"))
        await stream.wanted()
        await stream.call.done_writing()
        with pytest.raises(InvalidRequestError, match="the stream ended"):
            await stream.read()
    # none of them has kept the name
    await upload_all(registry.url, token, f"{project}/asset/v1", {"a": b"abc"})
    assert trees.leftovers(registry.root) == []


async def test_small_uploads_need_no_second_round(registry: House, project: str) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(announce("a", b"abc"), announce("b", b""))
        await stream.piece(0, b"abc")
        await stream.send(finish=pb.UploadFinish())
        assert await stream.wanted() == [(0, 0)]
        done = (await stream.read()).done
    assert done.bytes_received == 3
    trees.check_version(registry.root / project / "asset/v1", {"a": b"abc", "b": b""})


async def test_links_to_files_of_the_registry(registry: House, owner: RegistryClient, project: str) -> None:
    token = registry.issuer.token("ann")
    await upload_all(registry.url, token, f"{project}/base/v1", {"x": b"base"})
    await upload_all(registry.url, token, f"{project}/base/v2", {"x": b"base"})
    await upload_all(registry.url, token, f"{project}/wait/v1", {"x": b"waits"}, on_probation=True)

    def link(asset: str, version: str, path: str) -> pb.UploadFile:
        address = version_pb2.FileAddress(project=project, asset=asset, version=version, path=path)
        return pb.UploadFile(path="l", link=pb.UploadLink(registry=address))

    for asset, version, path, problem in (
        ("wait", "v1", "x", "waits for approval"),
        ("base", "v1", "y", "is not there"),
        ("base", "v3", "x", "is not there"),
        ("asset", "v1", "x", "in the version that is being uploaded"),
    ):
        async with raw_upload(registry.url, token) as stream:
            await stream.begin(f"{project}/asset/v1")
            with pytest.raises(InvalidRequestError, match=problem):
                await stream.announce(link(asset, version, path))
    async with raw_upload(registry.url, token) as stream:
        await stream.begin(f"{project}/asset/v1")
        await stream.manifest(link("base", "v2", "x"))
        assert await stream.wanted() == []
        await stream.finish()
    (entry,) = [entry async for entry in owner.entries(project, "asset", "v1")]
    assert entry.link is not None
    assert entry.link.target == FileAddress(project, "base", "v2", "x")
    assert entry.link.ancestor == FileAddress(project, "base", "v1", "x")
    assert (registry.root / project / "asset/v1/l").read_bytes() == b"base"


async def test_many_uploads_at_once(owner: RegistryClient, registry: House, project: str, tmp_path: Path) -> None:
    sources = [
        trees.write(tmp_path / str(number), {"a": b"%d" % number, f"d/{number}": os.urandom(100_000)})
        for number in range(100)
    ]
    done = await asyncio.gather(
        *[owner.upload(project, f"asset{number}", "v1", source) for number, source in enumerate(sources)]
    )
    assert all(each.version.latest for each in done)
    for number, source in enumerate(sources):
        trees.check_version(registry.root / project / f"asset{number}/v1", trees.contents(source))
    assert (await owner.get_project(project)).usage == sum(each.version.usage for each in done)
    assert registry.contents._uploads.memory.used == 0
    assert trees.leftovers(registry.root) == []


async def test_one_name_many_uploads(owner: RegistryClient, registry: House, project: str, tmp_path: Path) -> None:
    source = trees.write(tmp_path / "source", FILES)
    results = await asyncio.gather(
        *[owner.upload(project, "asset", "v1", source) for _ in range(8)], return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert {type(result) for result in results if isinstance(result, BaseException)} == {AlreadyExistsError}
    trees.check_version(registry.root / project / "asset/v1", FILES)


async def test_a_large_manifest_keeps_nobody_waiting(owner: RegistryClient, registry: House, project: str) -> None:
    count = 30_000
    empty = announce("", b"")
    late = 0.0

    async def watch() -> None:
        nonlocal late
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(0.01)
            late = max(late, loop.time() - started)

    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.begin(f"{project}/asset/v1")
        files = [pb.UploadFile(path=f"d{n % 50}/{n}", md5=empty.md5, sha256=empty.sha256) for n in range(count)]
        watching = asyncio.create_task(watch())
        # all of it in one message
        await stream.manifest(*files)
        assert await stream.wanted() == []
        watching.cancel()
        version = (await stream.finish()).version
    assert version.entries == count
    assert late < 1.0


async def test_a_small_upload_says_all_digests_at_once(registry: House, project: str) -> None:
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        with pytest.raises(InvalidRequestError, match="nothing follows"):
            await stream.whole(
                f"{project}/asset/v1", str(uuid4()), {"a": b"aa"}, md5="", sha256="", digests_follow=True
            )
    # the registry finds out MD5 by itself, of small uploads as of big ones
    async with raw_upload(registry.url, registry.issuer.token("ann")) as stream:
        await stream.whole(f"{project}/asset/v1", str(uuid4()), {"a": b"aa"}, md5="")
    trees.check_version(registry.root / project / "asset/v1", {"a": b"aa"})


async def test_who_reads_the_documents_can_wait_for_them(
    registry: House, owner: RegistryClient, project: str, tmp_path: Path
) -> None:
    total = 0
    # one after the other: documents that nobody waits for are written for several of them
    for number in range(8):
        content = os.urandom(200_000 if number % 2 else 10)
        total += len(content)
        folder = trees.write(tmp_path / str(number), {"a": content})
        await owner.upload(project, "asset", f"v{number}", folder, with_documents=True)
        assert json.loads((registry.root / project / "asset/..latest").read_bytes()) == {"version": f"v{number}"}
        assert json.loads((registry.root / project / "..usage").read_bytes()) == {"total": total}
