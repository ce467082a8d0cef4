"""The registry's tables on a real PostgreSQL: reading, governance, maintenance, the log of changes, and how the statements are planned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.pages import Place
from drayman.server.registry.permissions import Permissions, Uploader, changed
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Asset, Change, Project
from drayman.server.registry.rerouting import Doomed, plan
from drayman.server.registry.store import HERE
from drayman.server.registry.sweeping import LogSweeper, Presence, ProbationSweeper
from registry_rig import FILES, QUOTA, Rig, anybody, file, link, rig


@pytest_asyncio.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database_url, tmp_path / "registry") as opened:
        yield opened


async def refusal(work: Any) -> str:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value.reason


async def test_projects(registry: Rig) -> None:
    store = registry.registry.store
    owned = Permissions(("me",), (Uploader("you", asset="a", until="2030-01-01T00:00:00Z", trusted=True),), True)
    for name in ("b", "é", "A", "a b"):
        await store.create_project(name, owned, QUOTA)
    assert await refusal(store.create_project("b", Permissions(), QUOTA)) == "REGISTRY_PROJECT_EXISTS"
    assert await store.projects("", 3) == ["A", "a b", "b"]
    assert await store.projects("b", 3) == ["é"]
    project = await store.project("a b")
    assert (project.permissions, project.quota, project.usage) == (owned, QUOTA, 0)
    for name in ("nothing", "\x00"):
        assert await refusal(store.project(name)) == "REGISTRY_PROJECT_NOT_FOUND"
        assert await refusal(store.asset("b", name)) == "ASSET_NOT_FOUND"
    assert await refusal(store.version(VersionAddress("b", "a", "v"))) == "ASSET_NOT_FOUND"


async def test_versions_and_entries(registry: Rig) -> None:
    await registry.project("p")
    files = {f"d/{n:03}": b"%d" % n for n in range(20)} | {"d0": b"", "e/\U0010ffff": b"x", "z%_": b"y"}
    await registry.upload("p/a/v2", files)
    await registry.upload("p/a/v1", {})
    store = registry.registry.store
    versions = await store.versions("p", "a", "", 10)
    assert [version.address.version for version in versions] == ["v1", "v2"]
    assert [version.latest for version in versions] == [True, False]
    assert [v.address.version for v in await store.versions("p", "a", "v1", 10)] == ["v2"]
    assert versions[1] == await store.version(VersionAddress("p", "a", "v2"))
    entries = await store.entries(versions[1].version_id)
    assert entries == [file(path, files[path]) for path in sorted(files)]
    for prefix in ("d/", "d", "d/01", "e/", "e/\U0010ffff", "z%", "nothing", "\x00"):
        found = await store.entries(versions[1].version_id, prefix)
        assert [entry.path for entry in found] == sorted(path for path in files if path.startswith(prefix)), prefix
    assert await store.entry(versions[1].version_id, "d/001") == file("d/001", b"1")
    assert await store.entry(versions[1].version_id, "d/\x00") is None
    assert await refusal(store.version(VersionAddress("p", "a", "v3"))) == "VERSION_NOT_FOUND"


async def test_pages_of_what_waits(registry: Rig) -> None:
    for project in ("p", "q"):
        await registry.project(project)
        for n in range(3):
            await registry.upload(f"{project}/a/v{n}", {}, on_probation=True)
    await registry.pool.execute("UPDATE registry.version SET upload_finish = '2026-01-01Z' WHERE name < 'v2'")
    store = registry.registry.store
    found: list[str] = []
    place = None
    while page := await store.probation(None, place, 2):
        found += [version.address.folder for version in page]
        place = Place(page[-1].upload_finish, page[-1].version_id)
    assert found == ["p/a/v0", "p/a/v1", "q/a/v0", "q/a/v1", "p/a/v2", "q/a/v2"]
    assert [v.address.folder for v in await store.probation("q", None, 2)] == ["q/a/v0", "q/a/v1"]


async def test_of_simultaneous_changes_of_permissions_none_is_lost(registry: Rig) -> None:
    project_id = await registry.project("p")
    store, documenter = registry.registry.store, registry.registry.documenter

    async def append(n: int, asset: str | None) -> None:
        def change(project: Project, found: Asset | None) -> Permissions:
            current = project.permissions if asset is None else (found and found.permissions) or Permissions()
            return changed(current, add_owners=[f"o{n}"], add_uploaders=[Uploader(f"u{n}")], of_asset=asset is not None)

        await store.set_permissions("p", asset, change)
        await documenter.project(project_id)

    await asyncio.gather(*(append(n, asset) for n in range(20) for asset in (None, "a")))
    everybody = {f"o{n}" for n in range(20)}
    assert set((await store.project("p")).permissions.owners) == everybody | {"owner"}
    own = (await store.asset("p", "a")).permissions
    assert own is not None
    assert set(own.owners) == everybody
    for key, more in (("p/..permissions", {"owner"}), ("p/a/..permissions", set())):
        document = registry.document(key)
        assert document is not None
        assert set(document["owners"]) == everybody | more
        assert {uploader["id"] for uploader in document["uploaders"]} == {f"u{n}" for n in range(20)}
    assert await registry.check() == {"p/a": []}


async def test_a_change_that_is_refused_changes_nothing(registry: Rig) -> None:
    await registry.project("p")

    def change(_project: Project, asset: Asset | None) -> Permissions:
        assert asset is None
        raise Refusal("NOT_REGISTRY_OWNER", "no")

    store = registry.registry.store
    assert await refusal(store.set_permissions("p", "new", change)) == "NOT_REGISTRY_OWNER"
    assert await refusal(store.set_permissions("nothing", None, change)) == "REGISTRY_PROJECT_NOT_FOUND"
    assert await registry.check() == {}


async def test_quota(registry: Rig) -> None:
    project_id = await registry.project("p")
    store = registry.registry.store
    changed_project = await store.set_quota("p", lambda quota: Quota(5, quota.growth_rate, quota.year))
    assert changed_project.quota == Quota(5, 0, 2000) == (await store.project("p")).quota
    await registry.registry.documenter.project(project_id)
    assert registry.document("p/..quota") == {"baseline": 5, "growth_rate": 0, "year": 2000}
    assert await refusal(registry.upload("p/a/v", {"f": b"123456"})) == "QUOTA_EXCEEDED"
    await registry.recover()
    await registry.upload("p/a/v", {"f": b"12345"})
    assert await registry.check() == {"p/a": ["v"]}


async def test_refreshing(registry: Rig) -> None:
    project_id = await registry.project("p")
    store = registry.registry.store
    for name in ("b", "a", "c"):
        await registry.upload(f"p/x/{name}", FILES)
    await registry.upload("p/x/waits", FILES, on_probation=True)
    await registry.pool.execute("UPDATE registry.version SET upload_finish = '2026-01-01Z'")
    assert (await store.asset("p", "x")).latest == "c"
    assert await store.refresh_latest("p", "x") == "a"
    await registry.pool.execute("UPDATE registry.version SET usage = 1 WHERE name = 'b'")
    await registry.pool.execute("UPDATE registry.project SET usage = 5")
    size = sum(map(len, FILES.values()))
    assert await store.refresh_usage("p") == 4 * size
    await registry.registry.documenter.project(project_id)
    await registry.check()
    assert await refusal(store.refresh_latest("p", "y")) == "ASSET_NOT_FOUND"


async def test_what_is_left_is_swept(registry: Rig, tmp_path: Path) -> None:
    await registry.project("p")
    publisher, content = registry.registry.publisher, registry.registry.content
    upload = await publisher.begin(VersionAddress("p", "a", "v"), uuid4(), "owner", admin=False, on_probation=False)
    await content.incoming(str(upload.upload_id)).prepare()
    await content.incoming(str(uuid4())).prepare()  # of nobody
    await registry.recover()
    assert await content.incoming_ids() == [str(upload.upload_id)]  # it can be resumed
    await registry.pool.execute("UPDATE registry.version SET resumable_until = now() - interval '1 second'")
    await registry.registry.recovery.recover()
    assert await content.incoming_ids() == []
    assert await registry.pool.fetchval("SELECT count(*) FROM registry.version") == 0
    assert await registry.check() == {}


async def test_who_is_not_alone_leaves_uploads_alone(registry: Rig) -> None:
    await registry.project("p")
    publisher, versions = registry.registry.publisher, registry.registry.versions
    first, second = Presence(registry.dsn, versions), Presence(registry.dsn, versions)
    await first.start()
    upload = await publisher.begin(VersionAddress("p", "a", "v"), uuid4(), "owner", admin=False, on_probation=False)
    await second.start()
    await versions.renew(upload)
    await first.stop()
    await second.stop()
    await second.stop()
    third = Presence(registry.dsn, versions)
    await third.start()
    other = await publisher.begin(VersionAddress("p", "a", "v"), uuid4(), "owner", admin=False, on_probation=False)
    assert other.displaced == upload.upload_id
    await third.stop()


async def test_parts_that_repeat(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/v1", FILES, on_probation=True)
    await registry.upload("p/a/v2", FILES)
    logs = registry.root / "..logs"
    (logs / "2020-01-01T00:00:00Z_123456").write_bytes(b"{}")
    (logs / "what is this").write_bytes(b"")
    assert await LogSweeper(registry.registry.content).sweep() > 0
    assert sorted(path.name for path in logs.iterdir())[1:] == ["what is this"]
    await registry.pool.execute(
        "UPDATE registry.version SET upload_finish = now() - interval '2 days' WHERE on_probation"
    )
    await ProbationSweeper(registry.registry.remover, 0).sweep()
    assert await registry.check() == {"p/a": ["v1", "v2"]}
    await ProbationSweeper(registry.registry.remover, 1).sweep()
    assert await registry.check() == {"p/a": ["v2"]}


async def test_approval_by_time_of_upload(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/early", {}, on_probation=True)
    await registry.pool.execute("UPDATE registry.version SET upload_finish = '2026-01-01Z'")
    await registry.upload("p/a/late", {})
    approved = await registry.registry.remover.approve(VersionAddress("p", "a", "early"), anybody)
    assert not approved.latest
    assert [row["latest"] for row in await registry.pool.fetch("SELECT latest FROM registry.change")] == [True, False]
    await registry.check()


async def test_entries_are_replaced(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/v1", FILES)
    await registry.upload("p/a/v2", {"d/n": b"n"}, links=(link("d/l", b"first", "p/a/v1/a"),))
    folder = registry.root / "p/a/v2/d"
    (folder / "l").unlink()
    (folder / "l").write_bytes(b"first")
    repairs, documenter = registry.registry.repairs, registry.registry.documenter
    version = await repairs.replace_entries(VersionAddress("p", "a", "v2"), [file("d/n", b"n"), file("d/l", b"first")])
    assert version.usage == 6
    await documenter.version(version.version_id)
    await documenter.project(version.project_id)
    assert not (folder / "..links").exists()
    await registry.check()
    (registry.root / "p/a/v2/d/empty").mkdir()
    entries = [file("d/n", b"n"), Entry("d/empty", 0, None)]
    assert (await repairs.replace_entries(VersionAddress("p", "a", "v2"), entries)).entries == 2


async def test_links_are_rerouted(registry: Rig) -> None:
    await registry.project("p")
    await registry.upload("p/a/v1", FILES)
    await registry.upload("p/a/v2", {}, links=(link("l", b"first", "p/a/v1/a"),))
    await registry.upload("p/a/v3", {}, links=(link("l", b"first", "p/a/v2/l", "p/a/v1/a"),))
    repairs = registry.registry.repairs
    doomed = [Doomed("p", "a", "v1")]
    await repairs.check_doomed(doomed)
    assert await refusal(repairs.check_doomed([Doomed("p", "x")])) == "ASSET_NOT_FOUND"
    links = await repairs.links_around(doomed)
    assert {found.address.key for found in links} == {"p/a/v2/l", "p/a/v3/l"}
    assert await repairs.missing([FileAddress.parse("p/a/v1/a"), FileAddress.parse("p/a/v1/no")]) == {
        FileAddress.parse("p/a/v1/no")
    }
    changes = plan(doomed, links)
    content = registry.registry.content
    for change in changes:
        if change.copy:
            await content.copy(change.content.key, change.address.key)
        ids = await repairs.reroute(change.address.version_address, [change])
        assert ids is not None
        await registry.registry.documenter.attempt(*ids)
    (registry.root / "p/a/v3/l").unlink()
    (registry.root / "p/a/v3/l").symlink_to("../v2/l")
    assert await registry.registry.remover.delete(Doomed("p", "a", "v1"), force=False)
    assert await registry.check() == {"p/a": ["v2", "v3"]}
    assert (await registry.registry.store.project("p")).usage == 5


async def test_adoption(registry: Rig) -> None:
    repairs, store = registry.registry.repairs, registry.registry.store
    project_id, new = await repairs.adopt_project("p", Permissions(("me",)), QUOTA)
    assert new
    assert await repairs.adopt_project("p", Permissions(("you",)), QUOTA) == (project_id, False)
    asset_id, new = await repairs.adopt_asset(project_id, "a", None)
    assert new
    assert await repairs.adopt_asset(project_id, "a", None) == (asset_id, False)
    at = datetime(2025, 1, 1, tzinfo=UTC)
    for name in ("v1", "v2"):
        values = (project_id, asset_id, name, "me", at, at, False, [file("f", b"content")])
        assert await repairs.adopt_version(*values)
        assert not await repairs.adopt_version(*values)
    assert (await store.project("p")).usage == 14
    assert await repairs.adopt_latest(asset_id, "v2") == "v2" == (await store.asset("p", "a")).latest
    assert await repairs.adopt_latest(asset_id, None) == "v1" == (await store.asset("p", "a")).latest
    assert await repairs.adopt_latest(asset_id, "nothing") == "v1"


async def test_changes_are_followed_in_order_and_completely(registry: Rig) -> None:
    feed, pool = registry.registry.feed, registry.pool
    insert = (
        "INSERT INTO registry.change (type, project, written) VALUES ('delete-project', $1, true) RETURNING change_id"
    )
    await pool.execute(insert, "p0")
    seen: asyncio.Queue[Change] = asyncio.Queue()

    async def follow(project: str, since: datetime | None) -> None:
        async with aclosing(feed.follow(0, since, project, asyncio.sleep)) as pages:
            async for page in pages:
                for change in page:
                    seen.put_nowait(change)

    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        early = await slow.fetchval(insert, "slow")
        late = await pool.fetchval(insert, "fast")
        assert early < late
        following = asyncio.create_task(follow("", None))
        await asyncio.sleep(0.1)
        await transaction.commit()
        feed.hear("changes")
    names = [(await asyncio.wait_for(seen.get(), 10)).project for _ in range(3)]
    assert names == ["p0", "slow", "fast"]
    await pool.execute(insert, "p4")
    feed.hear("changes")
    assert (await asyncio.wait_for(seen.get(), 10)).project == "p4"
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following

    async def read(after: int, since: datetime | None, project: str) -> list[str]:
        return [change.project async for page in feed.changes(after, since, project) for change in page]

    assert await read(0, None, "") == ["p0", "slow", "fast", "p4"]
    assert await read(early, None, "") == ["fast", "p4"]
    assert await read(0, None, "slow") == ["slow"]
    assert await read(0, datetime.now(UTC) + timedelta(hours=1), "") == []
    assert await read(0, datetime.now(UTC) - timedelta(hours=1), "") == ["p0", "slow", "fast", "p4"]


_STATEMENTS = {
    f"{path.stem}: {name}": text
    for path in sorted(HERE.glob("*queries.sql"))
    if path.name != "place_queries.sql"  # its table has one row, which the start of a process locks and reads
    for name, text in load_queries(path).items()
}


async def test_no_statement_walks_a_table(registry: Rig) -> None:
    async with registry.pool.acquire() as connection:
        await connection.execute(_PLAN)
        for name, text in _STATEMENTS.items():
            found = json.loads(await connection.fetchval("SELECT pg_temp.plan($1)", text))
            for node in _nodes(found[0]["Plan"]):
                assert node["Node Type"] != "Seq Scan", name
                if (
                    "Relation Name" in node
                    and "Scan" in node["Node Type"]
                    and not node["Relation Name"].startswith("pg_")
                ):
                    assert "Index Cond" in node or name.partition(": ")[2] in _OF_LITTLE, (name, node)


#: Statements that walk along an index that only has what they look for.
_OF_LITTLE = {
    "newest",
    "unwritten_projects",
    "unwritten_versions",
    "unwritten_changes",
    "unwritten_changes_of",
    "removals",
    "claim",
    "abandon_all",
}
_PLAN = """
CREATE FUNCTION pg_temp.plan(query text) RETURNS json LANGUAGE plpgsql AS $f$
DECLARE found json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || query INTO found;
    RETURN found;
END $f$
"""


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
