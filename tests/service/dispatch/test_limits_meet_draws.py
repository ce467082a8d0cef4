"""Limits of RSEs that are set while files are drawn and reported: by replicas that have not heard of them, or in the very moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from drayman.server.dispatch.lifecycle import Outcome
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import HERE, Store
from drayman.server.dispatch.wishes import Given, Wish
from drayman.server.platform.database import migrate, open_pool

PATIENCE = 20.0

_FILL = """
WITH l AS (
    INSERT INTO dispatch.location (rse_ids) SELECT ARRAY[rse_id] FROM dispatch.rse WHERE name = 'near'
    ON CONFLICT (rse_ids) DO UPDATE SET rse_ids = excluded.rse_ids RETURNING location_id
), p AS (
    INSERT INTO dispatch.project (owner) VALUES ('o') RETURNING project_id
), f AS (
    INSERT INTO dispatch.file (project_id, handle_id, namespace, name)
    SELECT project_id, n, 'ns', 'f' || n FROM p, generate_series(1, 10) n
), t AS (
    INSERT INTO dispatch.tally (project_id, files) SELECT project_id, 10 FROM p
), g AS (
    INSERT INTO dispatch.ready_group (project_id, attempts, location_id, ready, low) SELECT project_id, 0, location_id, 10, 1 FROM p, l
), h AS (
    INSERT INTO dispatch.handle (project_id, handle_id, location_id) SELECT project_id, n, location_id FROM p, l, generate_series(1, 10) n
)
SELECT project_id FROM p
"""


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, "dispatch", HERE / "migrations")
    async with await open_pool(database_url, 6) as pool:
        await pool.execute("CREATE TABLE dispatch.handle_log_ever PARTITION OF dispatch.handle_log DEFAULT")
        yield pool


@pytest_asyncio.fixture
async def store(pool: asyncpg.Pool, database_url: str) -> AsyncIterator[Store]:
    async with await open_pool(database_url, 4, hot=True) as hot:
        store = Store(pool, hot)
        for name in ("near", "far"):
            await store.insert_rse(name, "", True, True, False, *[None] * 5, 0, None, 0)
        yield store


async def replica(store: Store) -> Reserver:
    """A replica that hears nothing of what others do, as it knows the storage now."""
    reserver = Reserver(store, lambda _word: None, 3600.0)
    await reserver.renew_storage()
    return reserver


async def limit(store: Store, rse: str, max_running: int) -> None:
    assert await store.update_rse(rse, *[None] * 11, max_running) is not None


async def take(reserver: Reserver, project_id: int, count: int = 10) -> int:
    """Take as many files as there are, `count` at most; returns how many."""
    wish = Wish("w", "site", count, None, now_or_never=True)
    reserver.queue(project_id).add(wish)
    async with asyncio.timeout(PATIENCE):
        while wish.result is None:
            await wish.change()
    if isinstance(wish.result, Exception):
        raise wish.result
    return len(wish.result.rows) if isinstance(wish.result, Given) else 0


async def running(pool: asyncpg.Pool) -> int:
    """How many files count as reserved at the RSE."""
    sql = "SELECT running FROM dispatch.rse_load JOIN dispatch.rse USING (rse_id) WHERE name = 'near'"
    count: int = await pool.fetchval(sql)
    return count


async def stuck(pool: asyncpg.Pool, task: asyncio.Task[Any], waiting: int = 1) -> None:
    """Return when so many statements wait for locks, a task's last of all, or that task is done."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(PATIENCE):
        while not task.done() and await pool.fetchval(sql) < waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), 0.01)


@pytest.mark.parametrize("others", [0, 5], ids=["first", "another"])
async def test_a_limit_holds_where_nobody_heard_of_it(pool: asyncpg.Pool, store: Store, others: int) -> None:
    await limit(store, "far", others)
    projects = [await pool.fetchval(_FILL) for _ in range(3)]
    reserver = await replica(store)
    await limit(store, "near", 3)
    taken = await asyncio.gather(*(take(reserver, project_id) for project_id in projects))
    assert sum(taken) == 3
    assert await running(pool) == 3


async def test_a_limit_that_went_stops_nobody(pool: asyncpg.Pool, store: Store) -> None:
    project_id = await pool.fetchval(_FILL)
    await limit(store, "near", 3)
    reserver = await replica(store)
    assert await take(reserver, project_id) == 3
    await limit(store, "near", 0)
    assert await take(reserver, project_id) == 7


async def test_what_is_just_being_drawn_counts(pool: asyncpg.Pool, store: Store) -> None:
    await limit(store, "far", 5)
    project_id, other = [await pool.fetchval(_FILL) for _ in range(2)]
    async with pool.acquire() as connection:
        drawing = await replica(Store(pool, connection))
        transaction = connection.transaction()
        await transaction.start()
        assert await take(drawing, project_id, 2) == 2
        limiting = asyncio.create_task(limit(store, "near", 3))
        await stuck(pool, limiting)
        late = asyncio.create_task(take(await replica(store), other))
        await transaction.commit()
        await limiting
    assert await late == 1
    assert await running(pool) == 3


async def test_setting_a_limit_does_not_halt_the_fleet_for_long(pool: asyncpg.Pool, store: Store) -> None:
    await limit(store, "far", 5)
    project_id, other = [await pool.fetchval(_FILL) for _ in range(2)]
    async with pool.acquire() as connection:
        drawing = await replica(Store(pool, connection))
        transaction = connection.transaction()
        await transaction.start()
        assert await take(drawing, project_id, 2) == 2
        limiting = asyncio.create_task(limit(store, "near", 3))
        await stuck(pool, limiting)
        assert (
            await take(await replica(store), other, 4) == 4
        )  # behind it in the queue, and not for as long as the transaction lasts
        assert not limiting.done()
        await transaction.commit()
        async with asyncio.timeout(PATIENCE):
            await limiting
    assert await running(pool) == 6


async def test_what_is_just_being_reported_does_not_count(pool: asyncpg.Pool, store: Store) -> None:
    await limit(store, "far", 5)
    project_id = await pool.fetchval(_FILL)
    assert await take(await replica(store), project_id, 4) == 4
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        said = [(handle_id, 1, 1, "w", Outcome.DONE, None, "", "") for handle_id in (1, 2, 3)]
        assert len(await Store(pool, connection).settle(project_id, said)) == 3
        limiting = asyncio.create_task(limit(store, "near", 3))
        await stuck(pool, limiting)
        await transaction.commit()
        await limiting
    assert await running(pool) == 1


async def test_a_lower_limit_holds_as_soon_as_it_is_set(pool: asyncpg.Pool, store: Store) -> None:
    """A draw that began under the old limit is over when the new one is there."""
    await limit(store, "near", 5)
    first, second = [await pool.fetchval(_FILL) for _ in range(2)]
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await take(await replica(Store(pool, connection)), first, 1) == 1
        waiting = asyncio.create_task(take(await replica(store), second))
        await stuck(pool, waiting)
        limiting = asyncio.create_task(limit(store, "near", 2))
        await stuck(pool, limiting, 2)
        set_before = limiting.done()
        await transaction.commit()
        await limiting
    assert not set_before
    assert await waiting == 4
    assert await take(await replica(store), second) == 0


async def test_a_deleted_project_takes_back_what_is_just_being_drawn(pool: asyncpg.Pool, store: Store) -> None:
    await limit(store, "near", 3)
    project_id, other = [await pool.fetchval(_FILL) for _ in range(2)]
    async with pool.acquire() as connection:
        drawing = await replica(Store(pool, connection))
        transaction = connection.transaction()
        await transaction.start()
        assert await take(drawing, project_id, 2) == 2
        deleting = asyncio.create_task(store.delete_project(project_id))
        await stuck(pool, deleting)
        await transaction.commit()
        assert await deleting
    assert await running(pool) == 0
    await limit(store, "near", 4)  # counts anew: what is left of a deleted project does not count
    assert await running(pool) == 0
    assert await take(await replica(store), other) == 4


async def test_an_older_look_at_the_storage_never_replaces_a_newer_one(pool: asyncpg.Pool, store: Store) -> None:
    reserver = await replica(store)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE dispatch.proximity")
        older = asyncio.create_task(reserver.renew_storage())
        await stuck(pool, older)
        await limit(store, "near", 3)
        newer = [asyncio.create_task(reserver.renew_storage()) for _ in range(3)]
        await asyncio.sleep(0)
        newer.pop().cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(older, *newer)
    assert reserver.storage.limited
