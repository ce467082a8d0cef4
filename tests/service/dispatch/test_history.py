"""What happened to projects and handles: all of it, in order, in pages, and not for ever."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio

from drayman.client import DispatchClient, File, Handle, HandleEvent, NotFoundError, Project, Report
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import project_pb2, project_service_pb2, project_service_pb2_grpc
from drayman.server.dispatch.store import HERE, SQL, Store
from drayman.server.platform.database import migrate, open_pool
from drayman.testing import LocalStack

MakeProject = Callable[..., Awaitable[Project]]


class Raw:
    """Calls that the client has no method for."""

    def __init__(self, stack: LocalStack, user: str, channel: grpc.aio.Channel) -> None:
        self._stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        self._metadata = bearer(stack.token(user))

    async def cancel(self, project_id: int, code: str, message: str) -> None:
        request = project_service_pb2.CancelProjectRequest(project_id=project_id, code=code, message=message)
        await self._stub.CancelProject(request, metadata=self._metadata, timeout=20)

    async def add(self, project_id: int, *names: str) -> None:
        request = project_service_pb2.AddFilesRequest
        files = [project_pb2.File(did=project_pb2.Did(namespace="ns", name=name)) for name in names]
        parts = [
            request(begin={"project_id": project_id, "request_id": str(uuid4())}),
            request(files={"files": files}),
            request(end={"file_count": len(files)}),
        ]
        await self._stub.AddFiles(iter(parts), metadata=self._metadata, timeout=20)


@pytest.fixture(scope="module")
def raw(stack: LocalStack, user: str, dispatch: DispatchClient) -> Raw:
    return Raw(stack, user, dispatch._channel)


async def take(dispatch: DispatchClient, project_id: int, worker: str) -> Handle:
    found = await dispatch.next_file(project_id, worker, cpu_site="FNAL", timeout=10)
    assert isinstance(found, Handle)
    return found


async def events(dispatch: DispatchClient, project_id: int, **options: Any) -> list[HandleEvent]:
    return [event async for event in dispatch.handle_events(project_id, **options)]


def brief(event: HandleEvent) -> tuple[object, ...]:
    reason = event.reason
    who = (reason.worker_id, reason.site, reason.code, reason.message) if reason else None
    return event.event, event.old_state, event.state, event.attempt, who


async def test_a_handles_life(dispatch: DispatchClient, make: MakeProject) -> None:
    project_id = (await make(1, worker_timeout=3600)).project_id
    await dispatch.failed(await take(dispatch, project_id, "w1"), code="exit 3", message="no luck")
    await dispatch.release(await take(dispatch, project_id, "w2"))
    await dispatch.done(await take(dispatch, project_id, "w3"))
    await dispatch.restart_handles(project_id, states=["done"])
    await take(dispatch, project_id, "w4")
    await dispatch.restart_handles(project_id, states=["reserved"])
    await dispatch.failed(await take(dispatch, project_id, "w5"), retry=False)

    found = await events(dispatch, project_id)
    assert [brief(event) for event in found] == [
        ("create", None, "initial", 0, None),
        ("reserve", "initial", "reserved", 1, ("w1", "FNAL", "", "")),
        ("failed", "reserved", "initial", 1, ("w1", "FNAL", "exit 3", "no luck")),
        ("reserve", "initial", "reserved", 2, ("w2", "FNAL", "", "")),
        ("released", "reserved", "initial", 2, ("w2", "FNAL", "", "")),
        ("reserve", "initial", "reserved", 2, ("w3", "FNAL", "", "")),
        ("done", "reserved", "done", 2, ("w3", "FNAL", "", "")),
        ("reset", "done", "initial", 2, None),
        ("reserve", "initial", "reserved", 3, ("w4", "FNAL", "", "")),
        ("reset", "reserved", "initial", 3, ("w4", "", "", "")),
        ("reserve", "initial", "reserved", 4, ("w5", "FNAL", "", "")),
        ("failed", "reserved", "failed", 4, ("w5", "FNAL", "", "")),
    ]
    assert {(event.did, event.handle_id) for event in found} == {("ns:f000000", 1)}
    assert found == sorted(found, key=lambda event: event.time)

    assert await events(dispatch, project_id, handle_id=1) == found
    assert await events(dispatch, project_id, file=File("ns", "f000000")) == found
    assert await events(dispatch, project_id, since=found[5].time) == found[5:]
    assert await events(dispatch, project_id, handle_id=1, since=found[5].time) == found[5:]
    for options in ({"event": "reset"}, {"event": "reset", "handle_id": 1}):
        assert await events(dispatch, project_id, **options) == [found[7], found[9]]
    for options in ({"reason_code": "exit 3"}, {"reason_code": "exit 3", "handle_id": 1}):
        assert await events(dispatch, project_id, **options) == [found[2]]


async def test_batches_are_taken_apart(dispatch: DispatchClient, make: MakeProject, raw: Raw) -> None:
    project_id = (await make(6)).project_id
    files = await dispatch.reserve(project_id, "w", 4, timeout=10)
    assert isinstance(files, list)
    outcomes = ["done", "failed_final", "failed_retry", "done"]
    codes = ["", "A", "B", ""]
    await dispatch.report([Report(f, o, c) for f, o, c in zip(files, outcomes, codes, strict=True)])  # type: ignore[arg-type]
    await raw.add(project_id, "new", "newer")

    found = await events(dispatch, project_id)
    by_event = {name: [event for event in found if event.event == name] for name in ("create", "reserve", "done")}
    assert [event.handle_id for event in by_event["create"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(event.handle_id for event in by_event["reserve"]) == [1, 2, 3, 4]
    assert sorted(event.handle_id for event in by_event["done"]) == [1, 4]
    assert [brief(event) for event in await events(dispatch, project_id, handle_id=3)] == [
        ("create", None, "initial", 0, None),
        ("reserve", "initial", "reserved", 1, ("w", "", "", "")),
        ("failed", "reserved", "initial", 1, ("w", "", "B", "")),
    ]
    assert [event.did for event in await events(dispatch, project_id, handle_id=8)] == ["ns:newer"]
    # a batch is searched for the code, and only the handles that have it are told
    assert [(e.handle_id, e.state) for e in await events(dispatch, project_id, reason_code="A")] == [(2, "failed")]
    assert [h.handle_id async for h in dispatch.handles(project_id, reason_code="B")] == [3]


async def test_a_time_out_is_told_with_its_worker(dispatch: DispatchClient, make: MakeProject) -> None:
    retried = (await make(1, worker_timeout=0.2)).project_id
    given_up = (await make(1, worker_timeout=0.2, attributes={"retry_on_timeout": False})).project_id
    for project_id in (retried, given_up):
        await take(dispatch, project_id, "slow")
    await take(dispatch, retried, "next")  # waits until the first one lost it
    await until_state(dispatch, given_up, "failed")
    assert brief((await events(dispatch, retried))[2]) == (
        "worker_timeout",
        "reserved",
        "initial",
        1,
        ("slow", "FNAL", "WORKER_TIMEOUT", ""),
    )
    assert brief((await events(dispatch, given_up))[2])[:3] == ("worker_timeout", "reserved", "failed")
    handle = await dispatch.get_handle(given_up, "ns", "f000000")
    assert handle.reason is not None
    assert (handle.reason.code, handle.reason.worker_id, handle.reason.site) == ("WORKER_TIMEOUT", "slow", "FNAL")
    assert await story(dispatch, given_up) == [("create", "active"), ("release", "failed")]


async def story(dispatch: DispatchClient, project_id: int) -> list[tuple[str, str]]:
    return [(event.event, event.state) async for event in dispatch.project_events(project_id)]


async def until_state(dispatch: DispatchClient, project_id: int, state: str) -> None:
    end = time.monotonic() + 10
    while (await dispatch.get_project(project_id)).state != state:
        assert time.monotonic() < end, f"the project did not become {state}"
        await asyncio.sleep(0.02)


async def test_a_projects_life(dispatch: DispatchClient, make: MakeProject, raw: Raw, user: str) -> None:
    original = (await make(1)).project_id
    project_id = (await dispatch.copy_project(original)).project_id
    await raw.cancel(project_id, "BAD_DATA", "calibration is wrong")
    cancelled = await dispatch.get_project(project_id)
    assert cancelled.reason is not None
    assert (cancelled.reason.code, cancelled.reason.username) == ("BAD_DATA", user)
    await dispatch.activate_project(project_id)
    await raw.add(project_id, "second")
    for worker in ("a", "b"):
        await dispatch.done(await take(dispatch, project_id, worker))
    await dispatch.restart_handles(project_id, states=["done"])

    found = [event async for event in dispatch.project_events(project_id)]
    assert [(event.event, event.state, event.username, event.data) for event in found] == [
        ("create", "active", user, {"files": 1}),
        ("copied", "active", user, {"source": original}),
        ("cancel", "cancelled", user, {"code": "BAD_DATA", "message": "calibration is wrong"}),
        ("activate", "active", user, {}),
        ("add", "active", user, {"files": 1, "skipped": 0}),
        ("release", "done", None, {}),
        ("restart", "active", user, {"handles_reset": 2}),
    ]
    assert found == sorted(found, key=lambda event: event.time)


async def test_an_abandonment_is_told(dispatch: DispatchClient, make: MakeProject) -> None:
    project_id = (await make(1, idle_timeout=0.2)).project_id
    await until_state(dispatch, project_id, "abandoned")
    await dispatch.failed(await take(dispatch, project_id, "w"), retry=False)
    told = await story(dispatch, project_id)
    assert told[:3] == [("create", "active"), ("abandon", "abandoned"), ("activate", "active")]
    assert told[-1] == ("release", "failed")


async def test_what_is_not_there_is_refused(dispatch: DispatchClient, make: MakeProject) -> None:
    with pytest.raises(NotFoundError) as refused:
        await story(dispatch, 2**62)
    assert refused.value.reason == "PROJECT_NOT_FOUND"
    with pytest.raises(NotFoundError):
        await events(dispatch, 2**62)
    project_id = (await make(1)).project_id
    for options in ({"handle_id": 2}, {"file": File("ns", "none")}):
        with pytest.raises(NotFoundError) as refused:
            await events(dispatch, project_id, **options)
        assert refused.value.reason == "HANDLE_NOT_FOUND"
    await dispatch.delete_project(project_id)
    with pytest.raises(NotFoundError):
        await events(dispatch, project_id)


async def test_a_large_project_is_told_in_pages(dispatch: DispatchClient, make: MakeProject, stack: LocalStack) -> None:
    count = 20_000
    project_id = (await make(count)).project_id
    taken: list[int] = []
    while len(taken) < 12_000:
        files = await dispatch.reserve(project_id, "w", 1000, timeout=10)
        assert isinstance(files, list)
        taken += [file.handle_id for file in files]
        assert await dispatch.report([Report(file, "done") for file in files]) == [None] * len(files)
    connection = await asyncpg.connect(stack.dsn)
    rows = await connection.fetchval("SELECT count(*) FROM dispatch.handle_log WHERE project_id = $1", project_id)
    await connection.close()
    assert rows < 200

    told: dict[str, list[int]] = {"create": [], "reserve": [], "done": []}
    last = datetime.min.replace(tzinfo=UTC)
    async for event in dispatch.handle_events(project_id):
        told[event.event].append(event.handle_id)
        assert event.did == f"ns:f{event.handle_id - 1:06d}"
        assert event.time >= last
        last = event.time
    assert told["create"] == list(range(1, count + 1))
    assert sorted(told["reserve"]) == sorted(told["done"]) == sorted(taken)

    # who reads on slowly, or not at all, is nobody's burden
    async for _ in dispatch.handle_events(project_id):
        break


# --- on a database of their own --------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def hot(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, "dispatch", HERE / "migrations")
    pool = await open_pool(database_url, 1, hot=True)
    yield pool
    await pool.close()


async def test_the_history_ends_where_the_retention_says(hot: asyncpg.Pool) -> None:
    store = Store(hot, hot)
    monday = datetime(2030, 1, 7, tzinfo=UTC)
    weeks = [monday + timedelta(weeks=week) for week in range(3)]
    await store.keep_partitions([week.date() for week in weeks], monday.date())
    await hot.execute("INSERT INTO dispatch.project (owner) VALUES ('o')")
    for week in weeks:
        await hot.execute(
            "INSERT INTO dispatch.handle_log (project_id, at, event, state, low, high) VALUES (1, $1, 'create', 'initial', 1, 1)",
            week,
        )
        await hot.execute(
            "INSERT INTO dispatch.project_log (project_id, at, event, state) VALUES (1, $1, 'activate', 'active')", week
        )
    await store.keep_partitions([weeks[2].date()], (weeks[1] + timedelta(days=6)).date())
    assert await times(hot) == [weeks[1:]] * 2  # a week that has days to keep is kept
    await store.keep_partitions([weeks[2].date()], weeks[2].date())
    assert await times(hot) == [weeks[2:]] * 2


async def test_making_a_partition_waits_for_nobody_and_nobody_for_it(hot: asyncpg.Pool, database_url: str) -> None:
    monday = datetime(2030, 1, 7, tzinfo=UTC)
    insert = "INSERT INTO dispatch.handle_log (project_id, at, event, state, low, high) VALUES (1, $1, 'create', 'initial', 1, 1)"
    store = Store(hot, hot)
    await store.keep_partitions([monday.date()], monday.date())
    busy = await asyncpg.connect(database_url)
    try:
        async with busy.transaction(), asyncio.timeout(10):
            await busy.execute(insert, monday)  # a long list on its way in: not committed yet
            await store.keep_partitions([(monday + timedelta(weeks=1)).date()], monday.date())
            await hot.execute(insert, monday + timedelta(weeks=1))
    finally:
        await busy.close()


async def times(pool: asyncpg.Pool) -> list[list[datetime]]:
    return [
        [row["at"] for row in await pool.fetch(f"SELECT at FROM dispatch.{table} ORDER BY at")]
        for table in ("handle_log", "project_log")
    ]


_FILL = """
INSERT INTO dispatch.handle_log (project_id, at, event, old_state, state, low, high, handle_ids, attempts, worker_ids)
SELECT p, $1::timestamptz + n * interval '1 second', 'done', 'reserved', 'done', n * 50 + 1, n * 50 + 50,
       ARRAY(SELECT generate_series(n * 50 + 1, n * 50 + 50)), array_fill(1, ARRAY[50]), array_fill('w'::text, ARRAY[50])
  FROM generate_series(1, $2::int) p, generate_series(0, $3::int - 1) n
"""
_PLANNED = {
    "events_of_handle": (
        "bigint, bigint, timestamptz, tid, text, text, bigint",
        "1, 50000, '1970-01-01', '(0,0)', NULL, NULL, 1000",
        "handle_log_{day}_project_id_high_low_idx",
    ),
    "handle_batches": (
        "bigint, timestamptz, tid, int, bigint, text, text",
        "1, '1970-01-01', '(0,0)', 8, 5000, NULL, NULL",
        "handle_log_{day}_project_id_at_idx",
    ),
}


@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_look_up_reads_what_it_shows_and_not_the_log(hot: asyncpg.Pool, analyzed: bool) -> None:
    monday = datetime(2030, 1, 7, tzinfo=UTC)
    await Store(hot, hot).keep_partitions([monday.date()], monday.date())
    async with hot.acquire() as connection:
        for name, (types, _, _) in _PLANNED.items():
            await connection.execute(f"PREPARE {name} ({types}) AS {SQL[name]}")
            await connection.execute(f"EXECUTE {name} ({_PLANNED[name][1]})")  # planned while it was empty
        await connection.execute(_FILL, monday, 2, 2000)
        if analyzed:
            await connection.execute("VACUUM ANALYZE dispatch.handle_log")
        pages = await connection.fetchval("SELECT pg_relation_size('dispatch.handle_log_20300107') / 8192")
        for name, (_, values, index) in _PLANNED.items():
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name} ({values})")
            plan = json.loads(text)[0]["Plan"]
            used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node and node["Actual Rows"] > 0}
            assert used == {index.format(day="20300107")}, (name, text)
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages / 10, (name, pages, text)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]
