"""A registry that Gobbler made is taken over in place: whole, twice, and after a crash."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DraymanError
from drayman.client.registry_values import Adopted, FileAddress, Link, Permissions, Quota, Uploader
from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.assembly import Registry
from drayman.testing import local_stack
from service.registry.bare_registry import adopt, bare_registry
from service.registry.gobbler_registry import GobblerRegistry, To, snapshot, write
from service.registry.people import People, listed


@pytest.fixture
def gobbler(tmp_path: Path) -> GobblerRegistry:
    """A registry with a bit of everything."""
    registry = GobblerRegistry(tmp_path / "registry")
    registry.project("p", ["ann"], [{"id": "bob", "until": "2999-01-01T00:00:00.5+01:00", "trusted": True}], True)
    registry.asset("p", "a")
    registry.version("p", "a", "v1", {"foo": b"foo", "sub/bar": b"bar", "empty": None, "é/zero": b""})
    v1 = To("p", "a", "v1", "foo")
    v2 = To("p", "a", "v2", "foo", v1)
    registry.version("p", "a", "v2", {"foo": v1, "local": b"x"}, finish="2025-03-02T10:00:00Z")
    registry.version("p", "a", "v3", {"foo": v2, "sub/foo": v2}, finish="2025-03-03T10:00:00-05:00")
    registry.version("p", "a", "w", {"foo": b"waits"}, user="bob", finish="2025-03-04T10:00:00Z", probation=True)
    registry.asset("p", "written by all", {"owners": ["eve"], "uploaders": None})  # as Gobbler leaves it
    registry.version("p", "written by all", "v", {"registry": To("p", "a", "v1", "sub/bar")}, user="eve")
    registry.asset("p", "nothing yet", {"owners": [], "uploaders": [{"id": "bob"}]})
    registry.project("q", [])
    return registry


@pytest_asyncio.fixture
async def bare(gobbler: GobblerRegistry, database_url: str) -> AsyncIterator[Registry]:
    async with bare_registry(database_url, gobbler.root) as opened:
        yield opened


@pytest_asyncio.fixture
async def people(gobbler: GobblerRegistry) -> AsyncIterator[People]:
    with local_stack(registry=gobbler.root) as stack:
        everybody = People(stack)
        yield everybody
        await everybody.close()
        print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")


ALL = [
    "p/a/v1",
    "p/a/v2",
    "p/a/v3",
    "p/a/w",
    "p/a",
    "p/nothing yet",
    "p/written by all/v",
    "p/written by all",
    "p",
    "q",
]


def theirs(root: Path) -> dict[str, tuple[str, bytes | str]]:
    """Everything but what is our own."""
    ours = ("..incoming", "..trash", "..registry-id")
    return {path: what for path, what in snapshot(root).items() if not path.startswith(ours)}


async def test_everything_is_taken_over_and_nothing_is_touched(people: People, gobbler: GobblerRegistry) -> None:
    admin = people.admin
    before = theirs(gobbler.root)
    assert await listed(admin.projects()) == []
    told = await listed(admin.adopt(dry_run=True, verify=True))
    assert told == [Adopted(path, adopted=True) for path in ALL]
    assert await listed(admin.projects()) == []
    assert await listed(admin.adopt()) == told
    assert await listed(admin.adopt()) == told  # twice
    assert theirs(gobbler.root) == before

    project = await admin.get_project("p")
    bob = Uploader("bob", until="2999-01-01T00:00:00.5+01:00", trusted=True)
    assert project.permissions == Permissions(("ann",), (bob,), global_write=True)
    assert project.quota == Quota(10**9, 10**9, 2025)
    assert project.usage == gobbler.usage["p"] == await admin.refresh_usage("p")
    assert await admin.permissions("p", "written by all") == Permissions(("eve",))
    assert await admin.permissions("p", "nothing yet") == Permissions((), (Uploader("bob"),))
    assert await admin.permissions("p", "a") == Permissions()
    latest = await admin.latest("p", "a")
    assert latest is not None
    assert (latest.version, latest.upload_user, latest.entries) == ("v3", "ann", 2)
    assert latest.upload_finish.isoformat() == "2025-03-03T15:00:00+00:00"
    assert await admin.latest("p", "nothing yet") is None
    assert [each.version for each in await listed(admin.probation("p"))] == ["w"]
    entries = {entry.path: entry for entry in await listed(admin.entries("p", "a", "v3"))}
    assert entries["sub/foo"].link == Link(FileAddress("p", "a", "v2", "foo"), FileAddress("p", "a", "v1", "foo"))
    assert entries["sub/foo"].sha256 == ""
    for version in ("v1", "v2", "v3", "w"):
        assert await admin.validate_version("p", "a", version) == []
    assert await admin.validate_version("p", "written by all", "v") == []


async def test_life_goes_on_in_it(people: People, gobbler: GobblerRegistry) -> None:
    admin = people.admin
    await listed(admin.adopt())
    assert people["ann"]
    # what is the same as in the adopted latest version becomes a link
    uploaded = await people.upload("ann", "p/a/v4", {"foo": b"foo", "more": b"more"})
    assert (uploaded.latest, uploaded.usage) == (True, 4)
    assert str((gobbler.root / "p/a/v4/foo").readlink()) == "../v1/foo"
    assert people.document("p", "a", "..latest") == {"version": "v4"}
    assert people.document("p", "..usage") == {"total": gobbler.usage["p"] + 4}
    assert not (await people["ann"].approve_probation("p", "a", "w")).on_probation
    assert "on_probation" not in people.document("p", "a", "w", "..summary")
    await people["eve"].set_permissions("p", "written by all", add_uploaders=[Uploader("bob")])
    assert people.document("p", "written by all", "..permissions") == {"owners": ["eve"], "uploaders": [{"id": "bob"}]}
    # anybody may add an asset of a project that everybody writes to
    await people.upload("zoe", "p/zoes/v", {"f": b"f"})
    assert (await admin.permissions("p", "zoes")).owners == ("zoe",)
    for version in ("v1", "v2", "v3", "v4", "w"):
        assert await admin.validate_version("p", "a", version) == []
    assert await admin.delete_project("p")
    assert not (gobbler.root / "p").exists()


async def test_verifying_hashes_everything(bare: Registry) -> None:
    await adopt(bare, verify=True)
    for version in ("v1", "v2", "v3", "w"):
        found = await bare.store.version(VersionAddress("p", "a", version))
        for entry in await bare.store.entries(found.version_id):
            assert (entry.sha256 is None) is entry.is_directory


def damage(root: Path) -> dict[str, str]:
    """Break a registry as Gobbler and people do; returns what is to be said of each path."""
    a = root / "p" / "a"
    # killed during an upload: neither manifest nor summary
    (a / "unfinished").mkdir()
    (a / "unfinished" / "half").write_bytes(b"ha")
    # deleted without rerouting: what linked to it dangles
    (a / "v1" / "foo").unlink()
    (a / "v2" / ".temp123.json").write_text("{")
    (a / "v3" / "stray").write_bytes(b"stray")
    write(a / "..latest", {"version": "unfinished"})
    write(root / "p" / "..usage", {"total": 999_999})
    for name in ("no permissions", "bad\nname"):
        (root / name).mkdir()
    (root / "a file").write_bytes(b"")
    (root / "q" / "..permissions").write_text('{"owners": "ann"')
    (root / "p" / "loop").symlink_to("loop")
    return {
        "p/a/unfinished": "unfinished",
        "p/a/v1": "foo: is in the manifest, and missing",
        "p/a/v2": "which is not there",
        "p/a/v3": "which is not there",
        "p/a": "..latest",
        "p": "..usage: says 999,999",
        "q": "..permissions",
        "no permissions": "..permissions: is missing",
        "bad\\nname": "no control characters",
        "a file": "is a file",
        "p/loop": "is a symbolic link",
    }


async def test_what_is_broken_is_told_and_left_alone(bare: Registry, gobbler: GobblerRegistry) -> None:
    store = bare.store
    expected = damage(gobbler.root)
    before = theirs(gobbler.root)
    told = await adopt(bare)
    for path, text in expected.items():
        assert any(text in problem for problem in told[path].problems), (path, told[path])
    left = {path for path, each in told.items() if not each.adopted}
    assert left == {*expected} - {"p/a", "p"}
    assert theirs(gobbler.root) == before
    assert await store.projects("", 10) == ["p"]
    assert [each.address.version for each in await store.versions("p", "a", "", 10)] == ["w"]
    # a name under which something else stands is not given out
    with pytest.raises(Refusal) as caught:
        await bare.publisher.begin(
            VersionAddress("p", "a", "unfinished"), uuid4(), "ann", admin=False, on_probation=False
        )
    assert caught.value.reason == "VERSION_EXISTS"
    assert (gobbler.root / "p/a/unfinished/half").read_bytes() == b"ha"
    # repaired, it is taken over by the next call
    (gobbler.root / "p/a/v1/foo").write_bytes(b"foo")
    again = await adopt(bare)
    assert all(again[f"p/a/{version}"].adopted for version in ("v1", "v2", "v3"))
    latest = await store.latest("p", "a")
    assert latest is not None
    assert latest.address.version == "v3"


async def test_verifying_finds_what_was_altered(bare: Registry, gobbler: GobblerRegistry) -> None:
    (gobbler.root / "p/a/v1/foo").write_bytes(b"fop")  # of the same size
    told = await adopt(bare, verify=True, dry_run=True)
    assert {path for path, each in told.items() if not each.adopted} == {"p/a/v1", "p/a/v2", "p/a/v3"}
    assert all("MD5" in told[f"p/a/{version}"].problems[0] for version in ("v1", "v2", "v3"))
    assert await bare.store.projects("", 10) == []


async def kill_after(people: People, outcomes: int) -> None:
    told = 0
    async for _ in people.admin.adopt():
        told += 1
        if told == outcomes:
            await asyncio.to_thread(people.stack.kill)


async def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    gobbler = GobblerRegistry(tmp_path / "registry")
    versions = 40
    for project in ("p", "q", "r"):
        gobbler.project(project, ["ann"])
        gobbler.asset(project, "a")
        for number in range(versions):
            files = {f"f{each}": b"%d %d" % (number, each) for each in range(20)}
            gobbler.version(project, "a", f"v{number:03d}", files, finish=f"2025-03-01T10:{number:02d}:00Z")
    before = theirs(gobbler.root)
    with local_stack(registry=gobbler.root) as stack:
        people = People(stack)
        for after in (30, 70):
            with pytest.raises(DraymanError):
                await kill_after(people, after)
            await people.restart()
        told_last = await listed(people.admin.adopt())
        assert len(told_last) == 3 * (versions + 2)
        assert all(each.adopted for each in told_last)
        assert theirs(gobbler.root) == before
        for project in ("p", "q", "r"):
            found = await listed(people.admin.versions(project, "a"))
            assert [each.version for each in found] == [f"v{number:03d}" for number in range(versions)]
            assert {each.entries for each in found} == {20}
            latest = await people.admin.latest(project, "a")
            assert latest is not None
            assert latest.version == "v039"
            usage = (await people.admin.get_project(project)).usage
            assert usage == gobbler.usage[project] == await people.admin.refresh_usage(project)
        await people.close()
