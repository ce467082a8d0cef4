"""Limits of login attempts, kept in a real PostgreSQL for several replicas."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from drayman.server.auth import login_limits, throttle
from drayman.server.auth.login_limits import SQL, LoginLimits
from drayman.server.auth.store import HERE
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal

HOME = "192.0.2.1"
#: Time passes for the limits when a test says so, and not while it runs: tokens come back by the database's clock.
CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.time AS SELECT clock_timestamp() AS now;
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now FROM clock.time';
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now FROM clock.time';
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog', current_database()); END $$;
"""


class WrongPasswordError(Exception):
    """What a proof that fails raises."""


@pytest_asyncio.fixture
async def pools(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[asyncpg.Pool]]:
    """Those of two replicas."""
    # crowds are let in one after the other, however slow the machine is
    monkeypatch.setattr(login_limits, "_PATIENCE", 90.0)
    await migrate(database_url, "auth", HERE / "migrations")
    connection = await asyncpg.connect(database_url)
    await connection.execute(CLOCK)
    await connection.close()
    opened = [await open_pool(database_url, 8) for _ in range(2)]
    await opened[0].execute("INSERT INTO auth.user (name) VALUES ('ann'), ('bob')")
    yield opened
    for pool in opened:
        await pool.close()


@pytest.fixture
def database(pools: list[asyncpg.Pool]) -> asyncpg.Pool:
    return pools[0]


@pytest.fixture
def limits(database: asyncpg.Pool) -> LoginLimits:
    return LoginLimits(database)


async def fail(limits: LoginLimits, username: str | None, peer: str = HOME, **about: str) -> float:
    """Attempt a login with a wrong password; returns the wait if that is not let in, else 0."""
    with pytest.raises((WrongPasswordError, Refusal)) as caught:
        async with limits.attempt(username, peer, **about):
            raise WrongPasswordError
    refusal = caught.value
    if not isinstance(refusal, Refusal):
        return 0.0
    assert (refusal.reason, refusal.metadata) == ("LOGIN_THROTTLED", {})
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= throttle.LONGEST_WAIT
    return refusal.retry_after


async def succeed(limits: LoginLimits, username: str, peer: str = HOME) -> None:
    async with limits.attempt(username, peer) as attempt:
        attempt.succeeded(username)


async def pass_time(database: asyncpg.Pool, seconds: float) -> None:
    """Let time pass."""
    await database.execute("UPDATE clock.time SET now = now + $1::float8 * interval '1 second'", seconds)


async def let_in(attempts: list[Any]) -> int:
    return (await asyncio.gather(*attempts)).count(0.0)


@pytest.mark.parametrize(
    ("username", "peers", "burst"),
    [("ann", 1, 10), ("nobody", 1, 10), ("ann", 100, 50), ("nobody", 100, 50)],
)
async def test_parallel_attempts_through_all_replicas_let_exactly_the_burst_through(
    pools: list[asyncpg.Pool], username: str, peers: int, burst: int
) -> None:
    replicas = [
        LoginLimits(pools[number % 2]) for number in range(10)
    ]  # so that many ask the database at the same time
    attempts = [fail(replicas[number % 10], username, f"192.0.2.{number % peers}") for number in range(100)]
    assert await let_in(attempts) == burst


async def test_an_address_is_limited_whomever_it_claims_to_be(pools: list[asyncpg.Pool]) -> None:
    replicas = [LoginLimits(pools[number % 2]) for number in range(10)]
    # a host owns all of its /64
    attempts = [fail(replicas[number % 10], f"u{number}", f"2001:db8::{number:x}") for number in range(150)]
    assert await let_in(attempts) == 100
    assert await fail(replicas[0], "ann", "2001:db8:0:1::1") == 0
    assert await fail(replicas[0], "ann", "2001:db8::1") > 0
    assert await fail(replicas[0], None, "2001:db8::1") == 0  # certificates and tokens have room of their own


async def test_what_cannot_be_guessed_is_limited_too(pools: list[asyncpg.Pool]) -> None:
    replicas = [LoginLimits(pools[number % 2]) for number in range(10)]
    assert await let_in([fail(replicas[number % 10], None) for number in range(300)]) == 200


async def test_tokens_come_back_with_time(limits: LoginLimits, database: asyncpg.Pool) -> None:
    assert await let_in([fail(limits, "ann") for _ in range(12)]) == 10
    wait = await fail(limits, "ann")
    assert 9 < wait <= 10
    await pass_time(database, 5)
    assert await fail(limits, "ann") == pytest.approx(wait - 5, abs=1)
    await pass_time(database, 5)
    assert await fail(limits, "ann") == 0
    assert await fail(limits, "ann") > 0
    await pass_time(database, 1000)
    assert await let_in([fail(limits, "ann") for _ in range(12)]) == 10


async def test_what_succeeds_costs_nothing(limits: LoginLimits, database: asyncpg.Pool) -> None:
    for _ in range(120):
        await succeed(limits, "ann")
    for _ in range(9):
        assert await fail(limits, "ann") == 0
    # one that is in progress holds its token, and one that fails in the end keeps it
    with suppress(WrongPasswordError):
        async with limits.attempt("ann", HOME) as attempt:
            assert await fail(limits, "ann") > 0
            attempt.succeeded("ann")
            raise WrongPasswordError
    assert await fail(limits, "ann") > 0
    async with limits.attempt(None, HOME) as attempt:
        before = await levels(database)
        attempt.succeeded("")
    after = await levels(database)
    assert sum(after.values()) == pytest.approx(sum(before.values()) + 1)


async def test_who_has_proved_who_they_are_has_not_been_guessing(limits: LoginLimits) -> None:
    """Passwords that LDAP refuses and that are right here do not add up; other users at that address go on failing."""
    for _ in range(30):
        assert await fail(limits, "ann") == 0
        await succeed(limits, "ann")
    assert await let_in([fail(limits, "bob") for _ in range(12)]) == 10


async def levels(database: asyncpg.Pool) -> dict[bytes, float]:
    return {bytes(row["key"]): row["level"] for row in await database.fetch("SELECT key, level FROM auth.attempt")}


async def test_what_cannot_be_looked_at_costs_nothing(limits: LoginLimits, database: asyncpg.Pool) -> None:
    for _ in range(30):
        with suppress(WrongPasswordError):
            async with limits.attempt("ann", HOME) as attempt:
                attempt.void()
                raise WrongPasswordError
        async with limits.attempt("ann", HOME) as attempt:
            attempt.void()
    assert await database.fetchval("SELECT count(*) FROM auth.familiar_peer") == 0
    assert await let_in([fail(limits, "ann") for _ in range(20)]) == 10


async def test_a_login_that_forgets_to_say_that_it_succeeded_pays(limits: LoginLimits) -> None:
    for _ in range(10):
        async with limits.attempt("ann", HOME):
            pass
    assert await fail(limits, "ann") > 0


async def test_a_victim_gets_in_from_where_they_were_before(pools: list[asyncpg.Pool]) -> None:
    ours, theirs = map(LoginLimits, pools)
    database = pools[0]
    await succeed(ours, "ann")
    for _ in range(3):
        attack = [fail(theirs, "ann", f"198.51.100.{number % 50}") for number in range(100)]
        assert await let_in(attack) <= 60
        assert await fail(theirs, "ann", "203.0.113.9") > 0  # strangers, and the user elsewhere, share what is left
        await succeed(ours, "ann")
        assert await fail(ours, "bob", "203.0.113.9") == 0
    # elsewhere the user waits for seconds, not for ever
    wait = await fail(ours, "ann", "203.0.113.9")
    assert wait <= 1
    await pass_time(database, wait)
    await succeed(ours, "ann", "203.0.113.9")
    await let_in([fail(theirs, "ann", f"198.51.100.{number % 50}") for number in range(100)])
    await succeed(ours, "ann", "203.0.113.9")
    # strangers at a familiar address of somebody else are strangers
    assert await fail(ours, "bob") == 0
    await let_in([fail(theirs, "bob", f"198.51.100.{number % 50}") for number in range(100)])
    assert await fail(ours, "bob") > 0
    # from home guesses are limited as well
    assert await let_in([fail(ours, "ann") for _ in range(20)]) == 10
    await pass_time(database, 31 * 86_400)
    await let_in([fail(theirs, "ann", f"198.51.100.{number % 50}") for number in range(100)])
    assert await fail(ours, "ann") > 0


async def test_peers_are_familiar_by_whatever_login_and_noted_once_a_day(
    limits: LoginLimits, database: asyncpg.Pool
) -> None:
    async def noted() -> list[tuple[str, str, str]]:
        rows = await database.fetch("SELECT username, peer, xmin::text FROM auth.familiar_peer ORDER BY username, peer")
        return [(row["username"], row["peer"], row["xmin"]) for row in rows]

    async with limits.attempt(None, "2001:db8::1") as attempt:
        attempt.succeeded("ann")
    await succeed(limits, "bob")
    first = await noted()
    assert [row[:2] for row in first] == [("ann", "2001:db8::/64"), ("bob", HOME)]
    await succeed(limits, "ann", "2001:db8::2")
    await succeed(limits, "nobody")
    await succeed(limits, "a\x00b:\ud800")
    assert await noted() == first
    await pass_time(database, 86_401)
    aged = await noted()
    await succeed(limits, "bob")
    again = await noted()
    assert (again[0], again[1][:2]) == (aged[0], aged[1][:2])
    assert again[1][2] != aged[1][2]
    assert await database.fetchval("SELECT now() - max(seen_at) < interval '1 minute' FROM auth.familiar_peer")


@pytest.mark.parametrize(
    "username", ["nobody", "", "a:b", "a\x00b", "\ud800", "x" * 100_000, "'; DROP TABLE auth.user"]
)
async def test_who_does_not_exist_is_limited_alike(limits: LoginLimits, database: asyncpg.Pool, username: str) -> None:
    for name in ("ann", username):
        assert await let_in([fail(limits, name, HOME if name == "ann" else "192.0.2.2") for _ in range(15)]) == 10
        await let_in([fail(limits, name, f"198.51.100.{number % 50}") for number in range(60)])
        assert 0 < await fail(limits, name, "203.0.113.1") <= 1
    assert await database.fetchval("SELECT count(*) FROM auth.familiar_peer") == 0


async def events(database: asyncpg.Pool) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await database.fetch("SELECT * FROM auth.audit_event ORDER BY event_id")
    return rows


async def test_the_audit_log_hears_of_an_empty_bucket_once_a_minute(
    pools: list[asyncpg.Pool], database: asyncpg.Pool
) -> None:
    replicas = [LoginLimits(pools[number % 2]) for number in range(10)]
    await let_in([fail(replicas[number % 10], "ann", client="probe/1", method="digest") for number in range(60)])
    [event] = await events(database)
    assert (event["action"], event["actor"], event["subject"]) == ("LOGIN_THROTTLED", "ann", "ann")
    assert (event["peer"], event["client"], event["method"]) == (HOME, "probe/1", "digest")
    assert (event["refused"], event["reason"]) == (True, "LOGIN_THROTTLED")
    detail = json.loads(event["detail"])
    assert detail["limit"] == "user at peer"
    assert 9 < detail["wait_seconds"] <= 10

    await let_in([fail(replicas[0], f"u{number}", "192.0.2.77") for number in range(110)])
    about_peer = (await events(database))[1:]
    assert [(event["subject"], json.loads(event["detail"])["limit"]) for event in about_peer] == [
        ("192.0.2.77", "peer")
    ]

    # after a minute, if it goes on
    await pass_time(database, 61)
    assert len(await events(database)) == 2
    assert await let_in([fail(replicas[number % 10], "ann") for number in range(60)]) == 6
    assert [event["subject"] for event in (await events(database))[2:]] == ["ann"]


async def test_a_refusal_leaves_no_trace_but_one_event(limits: LoginLimits, database: asyncpg.Pool) -> None:
    await let_in([fail(limits, f"user {number}") for number in range(101)])
    before = await levels(database)
    for number in range(20):
        assert await fail(limits, f"stranger {number}") > 0
    assert await levels(database) == before
    assert len(await events(database)) == 1


async def test_what_has_lost_its_meaning_is_swept(limits: LoginLimits, database: asyncpg.Pool) -> None:
    await succeed(limits, "ann")
    await let_in([fail(limits, "ann") for _ in range(11)])
    await limits.sweep()
    assert len(await levels(database)) == 3
    assert await fail(limits, "ann") > 0
    await pass_time(database, 50)
    await limits.sweep()
    assert await let_in([fail(limits, "ann") for _ in range(10)]) == 5
    await pass_time(database, 101)
    await limits.sweep()
    assert not await levels(database)
    assert await database.fetchval("SELECT count(*) FROM auth.familiar_peer") == 1
    await pass_time(database, 31 * 86_400)
    await limits.sweep()
    assert await database.fetchval("SELECT count(*) FROM auth.familiar_peer") == 0


async def test_a_clock_that_is_set_back_locks_nobody_out(limits: LoginLimits, database: asyncpg.Pool) -> None:
    await let_in([fail(limits, "ann") for _ in range(11)])
    await pass_time(database, -3600)
    assert await fail(limits, "ann") == pytest.approx(10, abs=1)
    await limits.sweep()
    await pass_time(database, 10)  # and not an hour more
    assert await fail(limits, "ann") == 0


async def test_a_removed_user_is_not_remembered(limits: LoginLimits, database: asyncpg.Pool) -> None:
    async with database.acquire() as connection:
        async with limits.attempt("ann", HOME) as attempt:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("DELETE FROM auth.user WHERE name = 'ann'")
            attempt.succeeded("ann")
            removed = asyncio.create_task(_commit_soon(transaction))
        await removed  # the other one may hear of it first
        assert await connection.fetchval("SELECT count(*) FROM auth.familiar_peer") == 0


async def _commit_soon(transaction: Any) -> None:
    await asyncio.sleep(0.2)
    await transaction.commit()


async def test_a_peer_that_never_pauses_leaves_connections_to_others(pools: list[asyncpg.Pool]) -> None:
    limits, other = map(LoginLimits, pools)
    [bucket] = throttle.buckets(None, HOME)
    assert await fail(limits, None) == 0
    async with pools[1].acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM auth.attempt WHERE key = $1 FOR UPDATE", bucket.key)
        crowd = [asyncio.ensure_future(fail(limits, None)) for _ in range(50)]
        for _ in range(20):
            assert await asyncio.wait_for(fail(limits, None, "192.0.2.2"), 10) == 0
        assert not any(attempt.done() for attempt in crowd)
    assert await let_in(list(crowd)) == 50
    assert await fail(other, None) == 0


_TYPES = {
    "look": ("bytea[], double precision[], text, text", r"'{\\x00}', '{10}', 'u1', '192.0.2.1'"),
    "take": ("bytea[], double precision[], timestamptz[]", r"'{\\x00}', '{1}', '{now}'"),
    "tell": ("bytea[]", r"'{\\x00}'"),
    "give_back": ("bytea[], float8[]", r"'{\\x00}', '{1}'"),
    "remember": ("text, text", "'u1', '192.0.2.1'"),
    "sweep_attempts": ("interval, int", "'1 day', 1000"),
    "mend_clocks": ("int", "1000"),
    "sweep_familiar_peers": ("interval, int", "'30 days', 1000"),
}


async def test_no_statement_scans_a_table(database: asyncpg.Pool) -> None:
    assert _TYPES.keys() == SQL.keys()
    async with database.acquire() as connection:
        await connection.execute("INSERT INTO auth.user (name) SELECT 'u' || n FROM generate_series(1, 5000) n")
        await connection.execute(
            "INSERT INTO auth.attempt (key, level, at)"
            " SELECT sha256(n::text::bytea), 5, now() FROM generate_series(1, 20000) n"
        )
        await connection.execute(
            "INSERT INTO auth.familiar_peer (username, peer)"
            " SELECT 'u' || n, '192.0.2.' || p FROM generate_series(1, 5000) n, generate_series(1, 4) p"
        )
        await connection.execute("VACUUM ANALYZE auth.user, auth.attempt, auth.familiar_peer")
        for mode in ("force_generic_plan", "force_custom_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for name, (types, values) in _TYPES.items():
                await connection.execute(f"PREPARE {mode}_{name} ({types}) AS {SQL[name]}")
                plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {mode}_{name} ({values})"))
                for node in nodes(plan[0]["Plan"]):
                    assert node["Node Type"] != "Seq Scan", (mode, name, node)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_a_fleet_that_logs_in_as_one_user_at_one_moment_is_let_in(pools: list[asyncpg.Pool]) -> None:
    replicas = [LoginLimits(pool) for pool in pools]
    await asyncio.gather(*(succeed(replicas[number % 2], "ann") for number in range(200)))
