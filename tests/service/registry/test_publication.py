"""Publication, approval, rejection and deletion on a real database and a real folder: races, and the end of everything at every point."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import ContentDamaged, StorageFull
from drayman.server.registry.entries import Entry
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import PUBLISHING, UPLOADING, Project, Version
from drayman.server.registry.rerouting import Doomed
from drayman.server.registry.version_store import UploadLost
from registry_rig import FILES, Crash, Points, Rig, anybody, do, file, link, rig

SIZE = sum(map(len, FILES.values()))
#: Of the points at which a process could die, those at which one really does: each costs more than a second.
STEP = 4


@pytest_asyncio.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database_url, tmp_path / "registry") as opened:
        yield opened


async def refusal(work: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value.reason


async def test_a_version_is_published_with_its_documents(registry: Rig) -> None:
    await registry.project("p")
    first = await registry.upload("p/a/v1", FILES)
    assert (first.latest, first.usage, first.entries) == (True, SIZE, 2)
    second = await registry.upload("p/a/v2", {"new": b"x"}, links=(link("d/a", b"first", "p/a/v1/a"),))
    third = await registry.upload("p/a/v3", {}, links=(link("a", b"first", "p/a/v2/d/a", "p/a/v1/a"),))
    assert (second.usage, third.usage) == (1, 0)
    assert str((registry.root / "p/a/v2/d/a").readlink()) == "../../v1/a"
    assert str((registry.root / "p/a/v3/a").readlink()) == "../v1/a"
    assert registry.document("p/a/v2/d/..links") is not None
    assert await registry.check() == {"p/a": ["v1", "v2", "v3"]}
    logged = [registry.document(f"..logs/{path.name}") for path in sorted((registry.root / "..logs").iterdir())]
    assert sorted(entry["version"] for entry in logged if entry) == ["v1", "v2", "v3"]


async def test_many_entries(registry: Rig) -> None:
    await registry.project("p")
    files = {f"d{n % 7}/{n:04}": b"%d" % n for n in range(2500)}
    version = await registry.upload("p/a/v", files)
    assert version.entries == 2500
    await registry.check()


async def test_nothing_is_to_be_seen_before(registry: Rig) -> None:
    await registry.project("p")
    address = VersionAddress("p", "a", "v")
    publisher, store = registry.registry.publisher, registry.registry.store
    upload = await publisher.begin(address, uuid4(), "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(upload.upload_id))
    await incoming.prepare()
    await incoming.put(list(FILES.items()))
    entries = [file(path, content) for path, content in FILES.items()]
    for step in range(2):
        assert await store.assets("p", "", 10) == []
        assert await refusal(store.asset("p", "a")) == "ASSET_NOT_FOUND"
        assert await refusal(store.version(address)) == "ASSET_NOT_FOUND"
        assert (await store.project("p")).usage == 0
        assert not (registry.root / "p/a").exists()
        if step == 0:
            await registry.registry.versions.to_publishing(upload, entries)
    await publisher.finish(upload)
    assert await registry.check() == {"p/a": ["v"]}


async def test_an_upload_that_is_given_up_leaves_nothing(registry: Rig) -> None:
    await registry.project("p", global_write=True)
    publisher = registry.registry.publisher
    address = VersionAddress("p", "a", "v")
    upload = await publisher.begin(address, uuid4(), "anybody", admin=False, on_probation=False)
    await registry.registry.content.incoming(str(upload.upload_id)).prepare()
    assert await refusal(publisher.begin(address, uuid4(), "other", admin=True, on_probation=False)) == "VERSION_EXISTS"
    await publisher.give_up(upload)
    assert await registry.registry.content.incoming_ids() == []
    assert await registry.pool.fetchval("SELECT count(*) FROM registry.asset") == 0
    await registry.upload("p/a/v", FILES, user="other")
    assert (await registry.registry.store.asset("p", "a")).permissions == Permissions(("other",))
    assert registry.document("p/a/..permissions") == {"owners": ["other"], "uploaders": []}
    assert await registry.check() == {"p/a": ["v"]}


async def test_of_many_publishers_of_a_version_one_wins(registry: Rig) -> None:
    await registry.project("p")
    ends = await asyncio.gather(
        *(registry.upload("p/a/v", {"f": b"%d" % n}) for n in range(12)), return_exceptions=True
    )
    assert sum(isinstance(end, Version) for end in ends) == 1
    assert {end.reason for end in ends if isinstance(end, Refusal)} == {"VERSION_EXISTS"}
    assert await registry.check() == {"p/a": ["v"]}


async def test_uploads_at_the_same_time_keep_usage_exact(registry: Rig) -> None:
    await registry.project("p")
    ends = await asyncio.gather(*(registry.upload(f"p/a{n % 4}/v{n}", {"f": b"x" * n}) for n in range(1, 21)))
    assert sum(version.usage for version in ends) == 210 == (await registry.registry.store.project("p")).usage
    await registry.check()


async def test_the_quota_holds_for_all_at_once(registry: Rig) -> None:
    await registry.project("p", quota=Quota(1000, 0, 2000))
    ends = await asyncio.gather(
        *(registry.upload(f"p/a/v{n}", {"f": b"%d" % n * 300}) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(end, Version) for end in ends) == 3
    refused = [end for end in ends if isinstance(end, Refusal)]
    assert {end.reason for end in refused} == {"QUOTA_EXCEEDED"}
    assert "1,000" in refused[0].message
    # an upload that broke off does not count
    await asyncio.gather(*(registry.registry.versions.abandon_all() for _ in range(2)))
    await registry.upload("p/a/last", {"f": b"x" * 100})
    assert (await registry.registry.store.project("p")).usage == 1000


async def test_resuming_takes_over(registry: Rig) -> None:
    await registry.project("p")
    publisher, versions = registry.registry.publisher, registry.registry.versions
    address, upload_id = VersionAddress("p", "a", "v"), uuid4()
    first = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    assert not first.resumed
    second = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=True)
    assert (second.resumed, second.on_probation, second.version_id) == (True, False, first.version_id)
    for late in (versions.renew(first), versions.announce(first, 1), versions.to_publishing(first, [])):
        with pytest.raises(UploadLost):
            await late
    await publisher.give_up(first)  # which is not his any more
    await versions.renew(second)
    other = VersionAddress("p", "a", "w")
    assert await refusal(publisher.begin(other, upload_id, "owner", admin=False, on_probation=False)) == "INVALID_FIELD"
    assert await refusal(publisher.begin(address, upload_id, "root", admin=True, on_probation=False)) == "INVALID_FIELD"


async def test_a_broken_upload_gives_way(registry: Rig) -> None:
    await registry.project("p")
    publisher = registry.registry.publisher
    address = VersionAddress("p", "a", "v")
    broken = await publisher.begin(address, uuid4(), "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(broken.upload_id))
    await incoming.prepare()
    await incoming.put([("left", b"over")])
    await publisher.release(broken)
    await registry.upload("p/a/v", FILES, user="root", admin=True)
    assert await registry.registry.content.incoming_ids() == []
    with pytest.raises(UploadLost):
        await registry.registry.versions.renew(broken)
    assert await registry.check() == {"p/a": ["v"]}


async def test_two_who_finish_the_same_publication(registry: Rig) -> None:
    await registry.project("p")
    publisher = registry.registry.publisher
    address, upload_id = VersionAddress("p", "a", "v"), uuid4()
    upload = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(upload_id))
    await incoming.prepare()
    await incoming.put(list(FILES.items()))
    await registry.registry.versions.to_publishing(upload, [file(path, content) for path, content in FILES.items()])
    other = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    assert other.state == PUBLISHING
    waiting = asyncio.create_task(publisher.finish(other))
    done = await publisher.finish(upload)
    assert (await waiting).address == done.address
    assert await registry.pool.fetchval("SELECT count(*) FROM registry.change") == 1
    await registry.check()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


#: What a loss of power can leave of a file whose bytes, and whose name, had not come to the disk; and worse.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "other bytes": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: os.truncate(path, 3),
    "gone": lambda path: path.unlink(),
    "its folder gone": lambda path: shutil.rmtree(path.parent),
    "a folder": _to_folder,
    "a link": _to_link,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("found_by", ["recovery", "its client"])
async def test_what_a_loss_of_power_has_damaged_is_not_published(registry: Rig, damage: str, found_by: str) -> None:
    await registry.project("p")
    await registry.upload("p/a/v0", FILES)
    publisher, versions = registry.registry.publisher, registry.registry.versions
    address, upload_id = VersionAddress("p", "a", "v"), uuid4()
    upload = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(upload_id))
    await incoming.prepare()
    await incoming.put(list(FILES.items()))
    entries = [*(file(*each) for each in FILES.items()), link("l", b"first", "p/a/v0/a"), Entry("e", 0, None)]
    await versions.to_publishing(upload, entries)
    # the machine ends here
    DAMAGES[damage](registry.root / f"..incoming/{upload_id}/files/b/c")

    if found_by == "recovery":
        await registry.recover()
    else:
        await versions.abandon_all()
        with pytest.raises(ContentDamaged, match="b/c"):
            await publisher.finish(await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False))
        await versions.abandon_all()
    assert await registry.check() == {"p/a": ["v0"]}

    # all that was damaged is wanted again; all that is not wanted was looked at
    resumed = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    assert (resumed.state, resumed.resumed) == (UPLOADING, True)
    there = await incoming.state([(0, "a", len(FILES["a"])), (1, "b/c", len(FILES["b/c"]))])
    assert there.keys() == ({0, 1} if damage == "other bytes" else {0})
    await incoming.put([("b/c", FILES["b/c"])])
    await publisher.publish(resumed, entries)
    assert await registry.check() == {"p/a": ["v", "v0"]}


async def test_who_waits_for_a_publication_that_is_taken_back_is_told(registry: Rig) -> None:
    await registry.project("p")
    publisher, address, upload_id = registry.registry.publisher, VersionAddress("p", "a", "v"), uuid4()
    upload = await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(upload_id))
    await incoming.prepare()
    await incoming.put(list(FILES.items()))
    await registry.registry.versions.to_publishing(upload, [file(*each) for each in FILES.items()])
    _flip(registry.root / f"..incoming/{upload_id}/files/a")
    # two come back; one of them finds the damage
    ends = [await publisher.begin(address, upload_id, "owner", admin=False, on_probation=False) for _ in range(2)]
    await registry.registry.versions.abandon_all()
    async with asyncio.timeout(30):
        found = await asyncio.gather(*(publisher.finish(end) for end in ends), return_exceptions=True)
    assert {type(end) for end in found} <= {ContentDamaged, UploadLost}
    assert await registry.check() == {}


async def test_what_is_damaged_and_not_resumed_is_swept(registry: Rig) -> None:
    await registry.project("p")
    publisher, upload_id = registry.registry.publisher, uuid4()
    upload = await publisher.begin(VersionAddress("p", "a", "v"), upload_id, "owner", admin=False, on_probation=False)
    incoming = registry.registry.content.incoming(str(upload_id))
    await incoming.prepare()
    await incoming.put(list(FILES.items()))
    await registry.registry.versions.to_publishing(upload, [file(*each) for each in FILES.items()])
    _flip(registry.root / f"..incoming/{upload_id}/files/a")
    await registry.recover()
    assert await registry.registry.content.incoming_ids() == [str(upload_id)]
    await registry.pool.execute("UPDATE registry.version SET resumable_until = now() - interval '1 minute'")
    await registry.recover()
    assert await registry.registry.content.incoming_ids() == []
    assert await registry.check() == {}
    await registry.upload("p/a/v", FILES)


async def test_a_folder_that_nobody_knows_is_left_alone(registry: Rig) -> None:
    await registry.project("p")
    (registry.root / "p/a/v").mkdir(parents=True)
    assert await refusal(registry.upload("p/a/v", FILES)) == "VERSION_EXISTS"
    assert list((registry.root / "p/a/v").iterdir()) == []
    assert await registry.registry.content.incoming_ids() == []


async def test_probation(registry: Rig) -> None:
    await registry.project("p")
    remover, store = registry.registry.remover, registry.registry.store
    await registry.upload("p/a/v1", FILES, on_probation=True)
    await registry.upload("p/a/v2", FILES, on_probation=True)
    assert [v.address.version for v in await store.probation("p", None, 10)] == ["v1", "v2"]
    assert await store.latest("p", "a") is None
    assert await registry.pool.fetchval("SELECT count(*) FROM registry.change") == 0

    def nobody(_project: Project, _version: Version) -> None:
        raise Refusal("NOT_REGISTRY_OWNER", "no")

    address = VersionAddress("p", "a", "v1")
    assert await refusal(remover.approve(address, nobody)) == "NOT_REGISTRY_OWNER"
    approved = await remover.approve(address, anybody)
    assert (approved.latest, approved.on_probation) == (True, False)
    assert await refusal(remover.approve(address, anybody)) == "NOT_ON_PROBATION"
    assert await refusal(remover.reject(address, anybody)) == "NOT_ON_PROBATION"
    await remover.reject(VersionAddress("p", "a", "v2"), anybody)
    assert await registry.check() == {"p/a": ["v1"]}
    await registry.upload("p/a/v2", FILES)
    assert await registry.check() == {"p/a": ["v1", "v2"]}


async def test_approval_and_rejection_race(registry: Rig) -> None:
    await registry.project("p")
    for n in range(6):
        address = VersionAddress("p", "a", f"v{n}")
        await registry.upload(address.folder, FILES, on_probation=True)
        remover = registry.registry.remover
        ends = await asyncio.gather(
            remover.approve(address, anybody),
            remover.reject(address, anybody),
            remover.delete(Doomed("p", "a", address.version), force=True),
            return_exceptions=True,
        )
        assert all(not isinstance(end, BaseException) or isinstance(end, Refusal) for end in ends)
        await registry.check()
    assert (await registry.registry.store.project("p")).usage == 0


async def test_probation_runs_out(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/old", FILES, on_probation=True)
    await registry.pool.execute("UPDATE registry.version SET upload_finish = now() - interval '3 days'")
    await registry.upload("p/a/new", FILES, on_probation=True)
    await registry.upload("p/a/approved", FILES)
    assert await registry.registry.remover.expire(2) == 1
    assert await registry.check() == {"p/a": ["approved", "new"]}


async def test_deletion(registry: Rig) -> None:
    await registry.project("p")
    await registry.project("q")
    remover = registry.registry.remover
    await registry.upload("p/a/v1", FILES)
    await registry.upload("p/a/v2", {"n": b"n"}, links=(link("l", b"first", "p/a/v1/a"),))
    await registry.upload("q/b/w", {}, links=(link("l", b"first", "p/a/v2/l", "p/a/v1/a"),))
    for doomed in (Doomed("p", "a", "v1"), Doomed("p", "a", "v2"), Doomed("p", "a"), Doomed("p")):
        with pytest.raises(Refusal) as caught:
            await remover.delete(doomed, force=False)
        assert caught.value.reason == "LINKED_TO"
    assert "q/b/w/l" in caught.value.message
    assert await remover.delete(Doomed("q", "b", "w"), force=False)
    assert not await remover.delete(Doomed("q", "b", "w"), force=False)
    assert not await remover.delete(Doomed("nobody"), force=False)
    assert not await remover.delete(Doomed("p", "nothing", "v"), force=False)
    assert await remover.delete(Doomed("p", "a", "v2"), force=False)
    assert await registry.check() == {"p/a": ["v1"], "q/b": []}
    assert await remover.delete(Doomed("p", "a"), force=False)
    assert await remover.delete(Doomed("q"), force=False)
    assert await registry.check() == {}
    types = await registry.pool.fetch("SELECT type FROM registry.change ORDER BY change_id")
    assert [row["type"] for row in types][3:] == ["delete-version", "delete-version", "delete-asset", "delete-project"]
    await registry.upload("p/a/v1", FILES)
    await registry.project("q")
    assert await registry.check() == {"p/a": ["v1"]}


async def test_a_dead_link_keeps_nothing(registry: Rig) -> None:
    await registry.project("p")
    await registry.project("q")
    remover = registry.registry.remover
    await registry.upload("p/a/v1", FILES)
    await registry.upload("p/a/v2", {}, links=(link("l", b"first", "p/a/v1/a"),))
    await registry.upload(
        "q/b/w", {}, links=(link("one", b"first", "p/a/v1/a"), link("two", b"first", "p/a/v2/l", "p/a/v1/a"))
    )
    assert await remover.delete(Doomed("p", "a", "v1"), force=True)
    # v1 is another one now, which has not what the links lead to
    await registry.upload("p/a/v1", {"else": b"else"})
    assert await remover.delete(Doomed("p", "a", "v1"), force=False)
    # a link to a link is one as long as that is there
    for doomed in (Doomed("p", "a", "v2"), Doomed("p", "a"), Doomed("p")):
        assert await refusal(remover.delete(doomed, force=False)) == "LINKED_TO"
    assert await remover.delete(Doomed("p", "a", "v2"), force=True)
    await registry.upload("p/a/v1", {"else": b"else"})
    assert await remover.delete(Doomed("p", "a"), force=False)
    await registry.upload("p/a/v1", {"else": b"else"})
    assert await remover.delete(Doomed("p"), force=False)


async def test_a_link_to_what_is_deleted_meanwhile_is_refused(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/v1", FILES)
    await registry.upload("p/a/w", FILES, on_probation=True)
    for key in ("p/a/w/a", "p/a/gone/a"):
        assert await refusal(registry.upload("p/a/v2", {}, links=(link("l", b"first", key),))) == "INVALID_FIELD"
        await registry.registry.versions.abandon_all()
    ends = await asyncio.gather(
        registry.upload("p/a/v2", {}, links=(link("l", b"first", "p/a/v1/a"),)),
        registry.registry.remover.delete(Doomed("p", "a", "v1"), force=False),
        return_exceptions=True,
    )
    assert {type(end) for end in ends} in ({Version, Refusal}, {Refusal, bool})
    await registry.recover()
    await registry.check()


async def test_deleting_what_is_being_uploaded(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/v1", FILES)
    remover, publisher = registry.registry.remover, registry.registry.publisher
    upload = await publisher.begin(VersionAddress("p", "a", "v2"), uuid4(), "owner", admin=False, on_probation=False)
    await registry.registry.content.incoming(str(upload.upload_id)).prepare()
    assert not await remover.delete(Doomed("p", "a", "v2"), force=False)
    assert await remover.delete(Doomed("p", "a"), force=False)
    with pytest.raises(UploadLost):
        await publisher.publish(upload, [])
    assert await registry.registry.content.incoming_ids() == []
    assert await registry.check() == {}


async def test_deletion_and_publication_race(registry: Rig) -> None:
    remover = registry.registry.remover
    for _ in range(8):
        await registry.project("p")
        ends = await asyncio.gather(
            *(registry.upload(f"p/a/v{n}", FILES) for n in range(3)),
            remover.delete(Doomed("p", "a"), force=True),
            remover.delete(Doomed("p"), force=True),
            return_exceptions=True,
        )
        allowed = (Refusal, UploadLost)
        assert all(not isinstance(end, BaseException) or isinstance(end, allowed) for end in ends), ends
        await registry.check()
        await remover.delete(Doomed("p"), force=True)
        assert await registry.check() == {}


async def test_a_full_disk(database_url: str, tmp_path: Path) -> None:
    def die() -> None:
        raise StorageFull("no room")

    points = Points(die)
    async with rig(database_url, tmp_path / "registry", content=points.wrap) as registry:
        await registry.project("p")
        publisher = registry.registry.publisher
        ends: list[str] = []
        while not ends or points.left == 0:
            name = f"v{len(ends)}"
            upload = await publisher.begin(
                VersionAddress("p", "a", name), uuid4(), "owner", admin=False, on_probation=False
            )
            incoming = registry.registry.content.incoming(str(upload.upload_id))
            await incoming.prepare()
            points.arm(len(ends) + 1)
            try:
                await publisher.publish(upload, [Entry("d", 0, None)])
                await registry.registry.documenter.settle()
                ends.append("published")
            except StorageFull:
                points.arm(0)
                await publisher.give_up(upload)
                ends.append("given up")
        assert {"published", "given up"} == set(ends)
        points.arm(0)
        # nothing is left of those; documents that could not be written are written later
        assert await registry.registry.content.incoming_ids() == []
        await registry.registry.recovery.recover()
        there = (await registry.check())["p/a"]
        assert len(there) >= ends.count("published")
        for n in range(len(ends)):
            if f"v{n}" not in there:
                await registry.upload(f"p/a/v{n}", FILES)


async def test_deadlines_and_many_documents(registry: Rig) -> None:
    project_id = await registry.project("p")
    documenter = registry.registry.documenter
    gone = asyncio.create_task(documenter.project(project_id))
    await asyncio.sleep(0)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    await asyncio.gather(*(registry.upload(f"p/a{n}/v", {}) for n in range(12)))
    await registry.check()


async def _nothing(_registry: Rig, _name: str) -> None:
    pass


async def _waiting(registry: Rig, name: str) -> None:
    await registry.upload(f"p/a/{name}", FILES, on_probation=True)


async def _approved(registry: Rig, name: str) -> None:
    await registry.upload(f"p/a/{name}", FILES)


async def _asset(registry: Rig, name: str) -> None:
    await registry.upload(f"p/{name}/v", FILES)
    await registry.upload(f"p/{name}/w", FILES, on_probation=True)


async def _project(registry: Rig, name: str) -> None:
    await registry.project(name)
    await registry.upload(f"{name}/a/v", FILES)


#: What is done -> what has to be there before.
ACTS = {
    "upload": _nothing,
    "first": _nothing,
    "approve": _waiting,
    "reject": _waiting,
    "delete_version": _approved,
    "delete_asset": _asset,
    "delete_project": _project,
}
#: A refusal of what is done again says that it was done before.
DONE = {"VERSION_EXISTS", "NOT_ON_PROBATION", "REGISTRY_PROJECT_NOT_FOUND", "ASSET_NOT_FOUND", "VERSION_NOT_FOUND"}


async def _do_again(registry: Rig, act: str, name: str) -> None:
    try:
        await do(registry, act, name)
    except Refusal as refusal:
        if refusal.reason not in DONE:
            raise
    after = await registry.check()
    there = {
        "upload": name in after["p/a"],
        "first": after.get(f"p/{name}") == ["v"],
        "approve": name in after["p/a"],
        "delete_asset": f"p/{name}" not in after,
        "delete_project": f"{name}/a" not in after,
    }
    assert there.get(act, name not in after["p/a"])


@pytest.mark.parametrize("act", ACTS)
async def test_a_failure_at_every_point(act: str, database_url: str, tmp_path: Path) -> None:
    def die() -> None:
        raise Crash

    points = Points(die)
    number = 0
    async with rig(database_url, tmp_path / "registry", content=points.wrap) as registry:
        await registry.project("p")
        await registry.upload("p/a/v0", FILES)
        with points.statements():
            while points.left == 0:
                number += 1
                name = f"x{number:03}"
                await ACTS[act](registry, name)
                points.arm(number)
                with suppress(Crash):
                    await do(registry, act, name)
                if points.left == 0:
                    await registry.recover()
                    await registry.check()
                    await _do_again(registry, act, name)
                    await _forget(registry, name)
    assert number > 10


async def _forget(registry: Rig, name: str) -> None:
    """Remove what was made: each check looks at everything that there is."""
    for doomed in (Doomed("p", "a", name), Doomed("p", name), Doomed(name)):
        with suppress(Refusal):
            await registry.registry.remover.delete(doomed, force=True)


@pytest.mark.parametrize("act", ["upload", "reject", "delete_asset"])
async def test_a_process_that_dies(act: str, database_url: str, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    async with rig(database_url, root) as registry:
        await registry.project("p")
        await registry.upload("p/a/v0", FILES)
        number, code = 1, -signal.SIGKILL
        while code:
            name = f"x{number:03}"
            await ACTS[act](registry, name)
            code = await _run(database_url, root, act, name, number)
            assert code in {0, -signal.SIGKILL}
            await registry.recover()
            await registry.check()
            await _do_again(registry, act, name)
            await _forget(registry, name)
            number += STEP
        assert number > 3 * STEP


async def _run(dsn: str, root: Path, act: str, name: str, number: int) -> int:
    script = str(Path(__file__).with_name("registry_crash.py"))
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, dsn, str(root), act, name, str(number), env=paths
    )
    return await process.wait()
