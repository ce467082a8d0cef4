"""The audit log: what is found in it, that nobody who follows it misses anything, and who may read it."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio

from drayman.auth.v1 import audit_service_pb2 as pb
from drayman.auth.v1 import audit_service_pb2_grpc
from drayman.client.audit import AuditClient, AuditEvent
from drayman.client.errors import from_rpc_error
from drayman.server.auth.audit import SQL, Author, Event, record
from drayman.server.auth.audit_servicer import AuditServicer
from drayman.server.auth.audit_store import PAGE, AuditStore, Filter, statement
from drayman.server.auth.store import HERE, Store
from drayman.server.platform.calls import Call
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal
from drayman.server.platform.trust import Caller
from drayman.testing import LocalStack

ALL = 10**6


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, "auth", HERE / "migrations")
    opened = await open_pool(database_url, 8)
    await opened.execute("INSERT INTO auth.user (name, admin) VALUES ('root', true), ('ann', false)")
    yield opened
    await opened.close()


@pytest.fixture
def audit(pool: asyncpg.Pool) -> AuditStore:
    return AuditStore(pool)


def event(action: str, actor: str = "root", subject: str = "ann", *, refused: bool = False, **more: Any) -> Event:
    return Event(action, Author(actor, "192.0.2.1", "test/1"), subject, refused=refused, **more)


async def found(audit: AuditStore, limit: int = ALL, **wanted: Any) -> list[str]:
    pages = [page async for page in audit.events(Filter(**wanted), limit)]
    assert all(pages)
    rows = [row for page in pages for row in page]
    assert [row["event_id"] for row in rows] == sorted((row["event_id"] for row in rows), reverse=True)
    return [row["action"] for row in rows]


async def test_events_are_found_newest_first_by_whatever_is_asked(audit: AuditStore, pool: asyncpg.Pool) -> None:
    await record(
        pool,
        event("USER_CREATED"),
        event("LOGIN", "ann", "ann", refused=True, reason="wrong password", method="digest"),
        event("LOGIN", "ann", "ann", method="digest"),
        event("USER_CREATED", subject="bob"),
        event("USER_DELETED", subject="ann"),
        event("LOGIN", "bob\n", "bob", refused=True),
    )
    assert await found(audit) == ["LOGIN", "USER_DELETED", "USER_CREATED", "LOGIN", "LOGIN", "USER_CREATED"]
    assert await found(audit, 2) == ["LOGIN", "USER_DELETED"]
    assert await found(audit, username="ann") == ["USER_DELETED", "LOGIN", "LOGIN", "USER_CREATED"]
    assert await found(audit, 3, username="ann") == ["USER_DELETED", "LOGIN", "LOGIN"]
    assert await found(audit, username="root") == ["USER_DELETED", "USER_CREATED", "USER_CREATED"]
    assert await found(audit, username="bob") == ["LOGIN", "USER_CREATED"]
    assert await found(audit, username="nobody") == []
    assert await found(audit, actions=("LOGIN", "USER_DELETED"), username="ann") == ["USER_DELETED", "LOGIN", "LOGIN"]
    assert await found(audit, refused_only=True) == ["LOGIN", "LOGIN"]
    assert await found(audit, refused_only=True, username="ann") == ["LOGIN"]
    assert await found(audit, actions=("KEY_ROTATED",)) == []


async def test_times_bound_what_is_found(audit: AuditStore, pool: asyncpg.Pool) -> None:
    begin = datetime(2024, 5, 31, tzinfo=UTC)
    await record(pool, *(event(f"E{number}") for number in range(10)))
    await pool.execute("UPDATE auth.audit_event SET at = $1::timestamptz + (event_id - 1) * interval '1 hour'", begin)
    for low in range(11):
        for high in range(11):
            hours = {"since": begin + timedelta(hours=low), "until": begin + timedelta(hours=high)}
            expected = [f"E{number}" for number in reversed(range(10)) if low <= number < high]
            assert await found(audit, **hours) == expected
            assert await found(audit, username="ann", **hours) == expected
    assert await found(audit, since=datetime(1, 1, 1, tzinfo=UTC), limit=1) == ["E9"]
    assert await found(audit, until=datetime(9999, 12, 31, tzinfo=UTC), limit=1) == ["E9"]
    assert await found(audit, until=begin) == []


async def test_a_clock_that_was_set_back_a_little_hides_nothing(audit: AuditStore, pool: asyncpg.Pool) -> None:
    begin = datetime(2024, 5, 31, tzinfo=UTC)
    await record(pool, *(event(f"E{number}") for number in range(10)))
    # a minute from one to the next, but after the fifth the clock goes back by half an hour
    await pool.execute(
        "UPDATE auth.audit_event SET at = $1::timestamptz + (event_id - CASE WHEN event_id > 5 THEN 30 ELSE 0 END)"
        " * interval '1 minute'",
        begin,
    )
    assert await found(audit, until=begin) == ["E9", "E8", "E7", "E6", "E5"]
    assert await found(audit, since=begin) == ["E4", "E3", "E2", "E1", "E0"]


async def test_more_than_a_page_is_found_to_the_last(audit: AuditStore, pool: asyncpg.Pool) -> None:
    count = 2 * PAGE + 10
    await pool.execute(
        "INSERT INTO auth.audit_event (action, actor, subject, refused, reason, method, peer, client, detail)"
        " SELECT 'E' || n, CASE WHEN n % 3 = 0 THEN 'ann' ELSE 'root' END, CASE WHEN n % 3 = 1 THEN 'root' ELSE 'ann' END,"
        " false, '', '', '', '', '{}' FROM generate_series(1, $1::int) n",
        count,
    )
    everything = [f"E{number}" for number in range(count, 0, -1)]
    assert await found(audit) == everything
    assert await found(audit, PAGE) == everything[:PAGE]
    assert await found(audit, PAGE + 1) == everything[: PAGE + 1]
    assert await found(audit, username="root") == [each for each in everything if int(each[1:]) % 3]
    assert await found(audit, username="ann") == [each for each in everything if int(each[1:]) % 3 != 1]
    after = await audit.after(0, Filter(username="ann"), 3)
    assert [row["action"] for row in after] == ["E2", "E3", "E5"]


async def test_old_events_are_swept(audit: AuditStore, pool: asyncpg.Pool) -> None:
    await record(pool, *(event(f"E{number}") for number in range(4)))
    await pool.execute("UPDATE auth.audit_event SET at = at - interval '10 days' WHERE event_id < 3")
    assert await audit.sweep(11) == 0
    assert await audit.sweep(9) == 2
    assert await found(audit) == ["E3", "E2"]


class Follower:
    """Somebody who follows, and what they were told."""

    def __init__(self, pages: AsyncGenerator[Any, None]) -> None:
        self.told: list[str] = []
        self._pages = pages
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(self._pages) as pages:
            async for page in pages:
                self.told += [row["action"] for row in page]
                self._more.set()

    async def has(self, count: int) -> list[str]:
        """Wait until they were told so much."""
        async with asyncio.timeout(20):
            while len(self.told) < count:
                self._more.clear()
                await self._more.wait()
        return self.told

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def following(audit: AuditStore, wanted: Filter) -> AsyncIterator[Follower]:
    follower = Follower(audit.follow(wanted, asyncio.sleep))
    try:
        yield follower
    finally:
        await follower.stop()


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def test_who_follows_is_told_all_in_order_though_commits_are_not(audit: AuditStore, pool: asyncpg.Pool) -> None:
    await record(pool, event("OLD"))
    async with following(audit, Filter(since=LONG_AGO)) as follower, pool.acquire() as late, pool.acquire() as undone:
        assert await follower.has(1) == ["OLD"]
        slow, lost = late.transaction(), undone.transaction()
        await slow.start()
        await lost.start()
        await record(late, event("SLOW"))
        await record(undone, event("LOST"))
        await record(pool, event("QUICK"))
        await asyncio.sleep(1.2)  # two looks: were it told of now, SLOW would be missed
        assert follower.told == ["OLD"]
        # who begins to write after that does not make it wait longer
        async with pool.acquire() as other, other.transaction():
            await record(other, event("LATER"))
            await lost.rollback()
            await slow.commit()
            assert await follower.has(3) == ["OLD", "SLOW", "QUICK"]
        assert await follower.has(4) == ["OLD", "SLOW", "QUICK", "LATER"]


async def test_nothing_is_missed_or_told_twice_while_many_write(audit: AuditStore, pool: asyncpg.Pool) -> None:
    async def write(number: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await record(connection, event(f"E{number}", actor="ann" if number % 2 else "root", subject=""))
            await asyncio.sleep(number % 7 * 0.03)

    async with (
        following(audit, Filter(since=LONG_AGO)) as follower,
        following(audit, Filter(since=LONG_AGO, username="ann")) as of_ann,
    ):
        await asyncio.gather(*(write(number) for number in range(200)))
        told = await follower.has(200)
        ordered = await pool.fetch("SELECT action FROM auth.audit_event ORDER BY event_id")
        assert told == [row["action"] for row in ordered]
        assert await of_ann.has(100) == [action for action in told if int(action[1:]) % 2]


async def test_without_a_beginning_one_follows_from_now(audit: AuditStore, pool: asyncpg.Pool) -> None:
    await record(pool, event("BEFORE"))
    begun = asyncio.Event()

    async def pause(seconds: float) -> None:
        begun.set()
        await asyncio.sleep(seconds)

    follower = Follower(audit.follow(Filter(refused_only=True), pause))
    await asyncio.wait_for(begun.wait(), 20)
    await record(pool, event("DONE"), event("REFUSED", refused=True))
    assert await follower.has(1) == ["REFUSED"]
    await follower.stop()


def ways_into(plan: dict[str, Any]) -> Iterator[str]:
    """Every index by which a plan reads the log, and `Seq Scan` if there is one."""
    if "Index Name" in plan or plan["Node Type"] == "Seq Scan":
        yield plan.get("Index Name", plan["Node Type"])
    for child in plan.get("Plans", ()):
        yield from ways_into(child)


USERS = {"audit_event_actor", "audit_event_subject"}
PARAMETERS = {
    "plain": (Filter(), {"audit_event_pkey"}),
    "refused": (Filter(refused_only=True), {"audit_event_refused"}),
    "user": (Filter(username="u7"), USERS),
    "refused_user": (Filter(username="u7", refused_only=True), USERS),
}


async def test_no_plan_scans_the_log(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO auth.audit_event (at, action, actor, subject, refused, reason, method, peer, client, detail)"
            " SELECT now() - n * interval '1 minute', 'LOGIN', u, u, n % 10 = 0, '', 'digest', '192.0.2.1', '', '{}'"
            " FROM (SELECT n, CASE WHEN n % 2 = 0 THEN 'busy' ELSE 'u' || n % 500 END AS u"
            "       FROM generate_series(1, 40000) n) AS made"
        )
        await connection.execute("VACUUM ANALYZE auth.audit_event")

        async def ways(name: str, types: str, text: str, values: str) -> set[str]:
            await connection.execute(f"PREPARE {name} {types} AS {text}")
            plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name} {values}"))
            return set(ways_into(plan[0]["Plan"]))

        for mode in ("force_generic_plan", "force_custom_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for name, (wanted, expected) in PARAMETERS.items():
                for ascending in (True, False):
                    types = f"(bigint, bigint, timestamptz, timestamptz, text[], int{', text' * bool(wanted.username)})"
                    for number, user in enumerate(("'u7'", "'nobody'") if wanted.username else ("",)):
                        values = f"(0, 9223372036854775807, NULL, NULL, NULL, 500{', ' * bool(user)}{user})"
                        used = await ways(
                            f"{mode}_{name}_{'up' if ascending else 'down'}{number}",
                            types,
                            statement(wanted, ascending=ascending),
                            values,
                        )
                        assert used == expected, (mode, name, ascending, user)
            used = await ways(f"{mode}_bounds", "(timestamptz, timestamptz)", SQL["bounds"], "(now(), now())")
            assert used == {"audit_event_at"}
            assert await ways(f"{mode}_newest", "", SQL["newest"], "") == {"audit_event_pkey"}
            used = await ways(f"{mode}_sweep", "(interval, int)", SQL["sweep_events"], "('1 day', 5000)")
            assert used == {"audit_event_at"}


# --- over a real channel ---------------------------------------------------------------------------------------------


class Door(grpc.GenericRpcHandler):
    """Lets everybody in, as the caller that the token names: what the real door does is tested elsewhere."""

    def __init__(self, servicer: AuditServicer) -> None:
        self._servicer = servicer

    def service(self, _details: Any) -> Any:
        async def run(request: Any, context: Any) -> None:
            [token] = [value for key, value in context.invocation_metadata() if key == "authorization"]
            name = token.removeprefix("Bearer ")
            caller = Caller(name, admin=True, roles=frozenset(), expires=4e9, token=token)
            try:
                await self._servicer.ListAuditEvents(request, Call(context, caller))
            except Refusal as refusal:
                await context.abort(
                    refusal.code, refusal.message, trailing_metadata=(("grpc-status-details-bin", refusal.details()),)
                )

        return grpc.unary_stream_rpc_method_handler(
            run, pb.ListAuditEventsRequest.FromString, pb.ListAuditEventsResponse.SerializeToString
        )


Serve = Callable[[], Awaitable[tuple[AuditServicer, grpc.aio.Server]]]


@pytest_asyncio.fixture
async def serve(pool: asyncpg.Pool, audit: AuditStore) -> AsyncIterator[tuple[str, Serve]]:
    """A URL, and what starts a server there, again and again."""
    servers: list[grpc.aio.Server] = []
    with socket.socket() as reserved:  # it only keeps others from the port while no server is there
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"

        async def start() -> tuple[AuditServicer, grpc.aio.Server]:
            servicer = AuditServicer(Store(pool), audit)
            server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
            server.add_generic_rpc_handlers((Door(servicer),))
            server.add_insecure_port(address)
            await server.start()
            servers.append(server)
            return servicer, server

        yield f"grpc://{address}", start
        for server in servers:
            await server.stop(None)


async def test_the_client_reads_what_was_recorded(serve: tuple[str, Serve], pool: asyncpg.Pool) -> None:
    url, start = serve
    await start()
    await record(
        pool,
        event("USER_CHANGED", detail={"admin": True}),
        event("LOGIN", "ann", "ann", refused=True, reason="wrong password", method="digest"),
    )
    async with AuditClient(url, "root") as client:
        login, change = [each async for each in client.events()]
        assert isinstance(login, AuditEvent)
        assert login.event_id > change.event_id
        assert datetime.now(UTC) - login.time < timedelta(minutes=5)
        assert (login.action, login.actor, login.subject) == ("LOGIN", "ann", "ann")
        assert (login.refused, login.reason, login.method) == (True, "wrong password", "digest")
        assert (login.peer, login.client, login.detail) == ("192.0.2.1", "test/1", {})
        assert (change.refused, change.detail) == (False, {"admin": True})
        assert [each.action async for each in client.events(username="ann", limit=1)] == ["LOGIN"]
        assert [each.action async for each in client.events(actions=["USER_CHANGED"])] == ["USER_CHANGED"]
        assert [each.action async for each in client.events(refused_only=True)] == ["LOGIN"]
        assert [each async for each in client.events(since=login.time, until=login.time)] == []
        assert [each.action async for each in client.events(until=login.time)] == ["USER_CHANGED"]


async def test_a_client_that_follows_goes_on_where_it_was(serve: tuple[str, Serve], pool: asyncpg.Pool) -> None:
    url, start = serve
    servicer, server = await start()
    await record(pool, event("BEFORE"))
    async with AuditClient(url, "root") as client, aclosing(client.events(follow=True)) as events:
        first = asyncio.ensure_future(anext(events))
        while not first.done():  # it follows from now, and now is not at once
            await record(pool, event("NOW"))
            await asyncio.wait([first], timeout=0.3)
        assert (await first).action == "NOW"
        await record(pool, event("ONE"))
        while (each := await anext(events)).action == "NOW":
            pass
        assert each.action == "ONE"

        # a server that drains ends the stream at once; what happens meanwhile is told by the next one
        following = asyncio.ensure_future(anext(events))
        await servicer.drain()
        await server.stop(5)
        await record(pool, event("MEANWHILE"))
        assert not following.done()
        await start()
        assert (await asyncio.wait_for(following, 30)).action == "MEANWHILE"
        await record(pool, event("AFTER"))
        assert (await asyncio.wait_for(anext(events), 30)).action == "AFTER"


async def test_a_limit_ends_what_follows(serve: tuple[str, Serve], pool: asyncpg.Pool) -> None:
    url, start = serve
    await start()
    await record(pool, *(event(f"E{number}") for number in range(5)))
    async with AuditClient(url, "root") as client:
        told = [each.action async for each in client.events(follow=True, since=LONG_AGO, limit=3)]
        assert told == ["E0", "E1", "E2"]
    async with grpc.aio.insecure_channel(url.removeprefix("grpc://")) as channel:
        stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        request = pb.ListAuditEventsRequest(follow=True, limit=3)
        request.since.FromDatetime(LONG_AGO)
        replies = [reply async for reply in stub.ListAuditEvents(request, metadata=(("authorization", "Bearer root"),))]
        assert not replies[0].events  # which says that it has begun
        assert [each.action for reply in replies for each in reply.events] == told


async def test_what_a_drain_says(serve: tuple[str, Serve]) -> None:
    url, start = serve
    servicer, server = await start()
    async with grpc.aio.insecure_channel(url.removeprefix("grpc://")) as channel:
        stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        call = stub.ListAuditEvents(
            pb.ListAuditEventsRequest(follow=True), metadata=(("authorization", "Bearer root"),)
        )
        await call.read()
        await servicer.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    refusal = from_rpc_error(caught.value)
    assert (refusal.reason, refusal.code) == ("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert refusal.retry_after is not None
    await asyncio.wait_for(server.stop(10), 5)


async def test_what_cannot_be_right_is_refused(serve: tuple[str, Serve]) -> None:
    url, start = serve
    await start()
    bad = pb.ListAuditEventsRequest()
    bad.until.seconds = 2**60
    async with grpc.aio.insecure_channel(url.removeprefix("grpc://")) as channel:
        stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        for request, name, reason, field in (
            (pb.ListAuditEventsRequest(limit=-1), "root", "INVALID_FIELD", "limit"),
            (bad, "root", "INVALID_FIELD", "until"),
            # a token may say that somebody is an administrator; auth knows better
            (pb.ListAuditEventsRequest(), "ann", "ADMIN_ONLY", ""),
            (pb.ListAuditEventsRequest(follow=True), "ann", "ADMIN_ONLY", ""),
            (pb.ListAuditEventsRequest(), "nobody", "TOKEN_INVALID", ""),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListAuditEvents(request, metadata=(("authorization", f"Bearer {name}"),)).read()
            refusal = from_rpc_error(caught.value)
            assert (refusal.reason, refusal.field) == (reason, field)


async def test_a_deployment_tells_its_administrator_of_logins(stack: LocalStack) -> None:
    name, password = stack.admin
    since = datetime.now(UTC) - timedelta(minutes=1)
    async with AuditClient(stack.url, stack.token(name)) as client:
        logins = [each async for each in client.events(username=name, actions=["LOGIN"], limit=5)]
        assert password
        assert all(each.action == "LOGIN" and name in (each.actor, each.subject) for each in logins)
        async with aclosing(client.events(since=since, follow=True)) as events, asyncio.timeout(20):
            stack.add_user("audited", password="x")
            while (each := await anext(events)).subject != "audited":
                pass
            assert each.action == "USER_CREATED"
