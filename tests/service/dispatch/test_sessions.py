"""The worker's session over a real channel and a real database, message by message."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman.client import DispatchClient, DraymanError, File, Handle, ProjectEnded, Replica, Rse, TimedOut
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.testing import LocalStack
from service.dispatch.raw_session import Office, report

# --- what is refused -------------------------------------------------------------------------------------------------

START: dict[str, Any] = {"worker_id": "w", "session_id": "8f3f1c4a-26a5-4f0c-9a51-6d4a4f0a7d10"}


@pytest.mark.parametrize(
    ("requests", "reason", "field"),
    [
        ([{}], "INVALID_FIELD", "start"),
        ([{"credits": 3}], "INVALID_FIELD", "start"),
        ([{"start": START | {"worker_id": ""}}], "INVALID_FIELD", "start.worker_id"),
        ([{"start": START | {"session_id": ""}}], "INVALID_FIELD", "start.session_id"),
        ([{"start": START | {"session_id": "no uuid"}}], "INVALID_FIELD", "start.session_id"),
        ([{"start": START | {"project_id": 2**60}}], "PROJECT_NOT_FOUND", ""),
        ([{"start": START}, {"start": START}], "INVALID_FIELD", "start"),
        ([{"start": START, "credits": 1001}], "INVALID_FIELD", "credits"),
        ([{"start": START, "credits": -1}], "INVALID_FIELD", "credits"),
        ([{"start": START}, {"credits": -1}], "INVALID_FIELD", "credits"),
        ([{"start": START}, {"credits": 600}, {"credits": 401}], "INVALID_FIELD", "credits"),
        ([{"start": START}, {"credits": 2**31 - 1}], "INVALID_FIELD", "credits"),
        ([{"start": START}, {"reports": [{"outcome": 1}]}], "INVALID_FIELD", "reports[0].handle_id"),
        ([{"start": START | {"cpu_site": "a\0b"}, "credits": 1}], "INVALID_FIELD", "start.cpu_site"),
        ([{"start": START}, {"reports": [{"handle_id": 1}]}], "INVALID_FIELD", "reports[0].outcome"),
        ([{"start": START}, {"reports": [{"handle_id": 1, "outcome": 77}]}], "INVALID_FIELD", "reports[0].outcome"),
        ([{"start": START}, {"reports": [{"handle_id": 1, "outcome": 2, "message": "a\0b"}]}], "INVALID_FIELD", None),
        ([{"start": START}, {"reports": [{"handle_id": 1, "outcome": 2, "code": "a\0b"}]}], "INVALID_FIELD", None),
        ([{"start": START}, {"reports": [{"handle_id": 1, "outcome": 1}] * 1001}], "INVALID_FIELD", "reports"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_stream_and_changes_nothing(
    office: Office, requests: list[dict[str, Any]], reason: str, field: str | None
) -> None:
    project_id = await office.create(0, open=True)

    async def attempt() -> DraymanError | None:
        session = office.session(project_id)
        for request in requests:
            message = pb.WorkRequest(**request)
            if message.HasField("start") and not message.start.project_id:
                message.start.project_id = project_id
            await session.send(message)
        return await session.ends()

    error = await _told(attempt)
    assert error.reason == reason
    assert field is None or error.field == field


async def _told(attempt: Callable[[], Awaitable[DraymanError | None]]) -> DraymanError:
    """Try until the reason is told: gRPC hides it from who is writing in the moment when the stream ends."""
    for _ in range(10):
        error = await attempt()
        assert error is not None
        if error.message != "Internal error from Core":
            return error
    raise AssertionError("the reason was never told")


async def test_a_stream_without_a_message_is_refused(office: Office) -> None:
    session = office.session(1)
    await session._call.done_writing()
    error = await session.ends()
    assert error is not None
    assert error.reason == "INVALID_FIELD"


async def test_who_may_not_work_is_told_so(stack: LocalStack, office: Office) -> None:
    project_id = await office.create(1)
    stranger = f"stranger-{uuid4().hex[:8]}"
    stack.add_user(stranger)
    brief = stack.token(stranger, lifetime=1)
    end = time.monotonic() + 2.2
    for metadata, reason in (
        (bearer(stack.token(stranger)), "NOT_A_WORKER"),
        (bearer("no token"), "TOKEN_INVALID"),
        ((), "TOKEN_MISSING"),
    ):
        assert await _refusal(office, metadata, project_id) == reason
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    assert await _refusal(office, bearer(brief), project_id) == "TOKEN_EXPIRED"
    assert await office.count(project_id, "initial") == 1


async def _refusal(office: Office, metadata: Sequence[tuple[str, str]], project_id: int) -> str:
    async def attempt() -> DraymanError | None:
        session = office.session(project_id, metadata=metadata)
        start = pb.StartWork(project_id=project_id, worker_id="w", session_id=session.session_id)
        await session.send(pb.WorkRequest(start=start, credits=1))
        return await session.ends()

    return (await _told(attempt)).reason


# --- credits and reports ---------------------------------------------------------------------------------------------


async def test_files_come_for_credits_in_order_and_no_more(office: Office) -> None:
    project_id = await office.create(7, attributes_json='{"n":  1}')
    session = await office.session(project_id).open(credits=3)
    assert [handle.did.name for handle in await session.has(3)] == ["f000000", "f000001", "f000002"]
    first = session.files[0]
    assert (first.attempts, first.attributes_json, first.worker_id) == (1, '{"n":  1}', "w")
    assert session.started is not None
    assert session.started.project_attributes_json == '{"virtual": true}'
    assert not session.started.HasField("renew_interval")
    await session.say(report(first))
    await session.until(lambda: session.acknowledged == 1)
    assert len(session.files) == 3
    await session.say(credits=100)
    await session.has(7)
    await session.until(lambda: session.progress)
    assert await office.count(project_id, "reserved") == 6
    await session.close()
    assert sorted((await office.rows(project_id)).values()) == sorted(
        [("done", 1, None), *[("initial", 0, "SESSION_CLOSED")] * 6]
    )
    await office.tally(project_id)


async def test_an_acknowledgement_is_on_disk(office: Office) -> None:
    project_id = await office.create(60, max_attempts=5)
    session = await office.session(project_id).open(credits=60)
    outcomes = {
        pb.OUTCOME_DONE: ("done", 1),
        pb.OUTCOME_FAILED_RETRY: ("initial", 1),
        pb.OUTCOME_FAILED_FINAL: ("failed", 1),
        pb.OUTCOME_RELEASED: ("initial", 0),
    }
    said = [(handle, list(outcomes)[number % 4]) for number, handle in enumerate(await session.has(60))]

    async def speak() -> None:
        for begin in range(0, 60, 3):
            await session.say(*(report(handle, outcome) for handle, outcome in said[begin : begin + 3]))

    speaking = asyncio.create_task(speak())
    while session.acknowledged < 60:
        known = session.acknowledged
        await session.until(lambda: session.acknowledged > known)  # noqa: B023 - called in this round only
        known = session.acknowledged
        rows = await office.rows(project_id)
        for handle, outcome in said[:known]:
            assert rows[handle.handle_id][:2] == outcomes[outcome]
    await speaking
    assert session.acknowledged == 60
    assert not session.refused
    await session.close()
    assert await office.tally(project_id) == (60, 15, 15)


async def test_a_refused_report_is_told_and_the_session_goes_on(office: Office) -> None:
    project_id = await office.create(4)
    other = await office.session(project_id, "other").open(credits=1)
    (others,) = await other.has(1)
    session = await office.session(project_id).open(credits=2)
    mine, again = await session.has(2)
    await session.say(report(again, pb.OUTCOME_FAILED_RETRY), report(again, handle_id=99))
    await session.say(credits=1)
    await session.has(3)
    await session.say(report(others), report(mine, attempt=4), report(again, attempt=0), report(mine, handle_id=-3))
    await session.say(report(session.files[2]))
    await session.until(lambda: session.acknowledged == 7)
    assert [(one.handle_id, one.attempt, one.refusal) for one in session.refused] == [
        (99, 1, "HANDLE_NOT_FOUND"),
        (others.handle_id, 1, "WRONG_WORKER"),
        (mine.handle_id, 4, "STALE_ATTEMPT"),
        (again.handle_id, 0, "NOT_RESERVED"),
        (-3, 1, "HANDLE_NOT_FOUND"),
    ]
    assert all(one.refusal_message for one in session.refused)
    await session.close()
    # a report on another attempt is no word about the file in hand, which is given back
    assert (await office.rows(project_id))[mine.handle_id] == ("initial", 0, "SESSION_CLOSED")
    await other.close()


async def test_what_contradicts_an_accepted_report_is_refused(office: Office) -> None:
    project_id = await office.create(2)
    session = await office.session(project_id).open(credits=2)
    one, two = await session.has(2)
    await session.say(report(one, pb.OUTCOME_FAILED_RETRY), report(two, pb.OUTCOME_RELEASED))
    await session.until(lambda: session.acknowledged == 2)
    await session.say(report(one), report(two), report(one, pb.OUTCOME_FAILED_RETRY))
    await session.until(lambda: session.acknowledged == 5)
    assert [(refused.handle_id, refused.refusal) for refused in session.refused] == [
        (one.handle_id, "NOT_RESERVED"),
        (two.handle_id, "NOT_RESERVED"),
    ]
    await session.close()
    assert await office.tally(project_id) == (2, 0, 0)


async def test_one_workers_bad_text_does_not_harm_the_others(office: Office) -> None:
    project_id = await office.create(40)
    sessions = [await office.session(project_id, f"w{number}").open(credits=4) for number in range(10)]
    for session in sessions:
        await session.has(4)
    bad = sessions[4]
    await asyncio.gather(
        *(
            session.say(*(report(handle, message="\0" if session is bad else "fine") for handle in session.files))
            for session in sessions
        )
    )
    error = await bad.ends()
    assert error is not None
    assert error.reason == "INVALID_FIELD"
    for session in sessions:
        if session is not bad:
            await session.until(lambda: session.acknowledged == 4)  # noqa: B023 - called in this round only
            await session.close()
    assert await office.tally(project_id) == (40, 36, 0)


# --- what is handed out ----------------------------------------------------------------------------------------------


async def test_who_gets_nothing_hears_what_stands_in_the_way(office: Office, admin: DispatchClient) -> None:
    project_id = await office.create(5, virtual=False)
    session = await office.session(project_id).open(credits=2)
    await session.until(lambda: session.progress)
    found = session.progress[-1]
    assert (found.counts.total, found.counts.initial) == (5, 5)
    # the names are shared by all tests' projects: some of the files may have had a replica
    assert found.hindrances.no_replica + found.hindrances.replica_unavailable == 5
    assert found.hindrances.ready == 0
    await session.close()
    virtual = await office.create(3, max_running=2)
    holder = await office.session(virtual, "holder").open(credits=3)
    await holder.has(2)
    await holder.until(lambda: holder.progress)
    found = holder.progress[-1]
    assert (found.hindrances.at_limit, found.hindrances.reserved, found.hindrances.oldest_worker_id) == (1, 2, "holder")
    assert found.hindrances.HasField("oldest_reserve_time")
    await holder.close()


async def test_replicas_come_with_every_file_nearest_first(
    office: Office, admin: DispatchClient, dispatch: DispatchClient
) -> None:
    names = [f"RSE_{uuid4().hex[:6]}" for _ in range(3)]
    site = f"site-{uuid4().hex[:6]}"
    for name, away in zip(names, (30, 10, 20), strict=True):
        await admin.create_rse(Rse(name))
        await admin.set_proximity(site, name, away)
    scope = uuid4().hex[:8]
    count = 400
    files = [File(scope, f"{number:04d}") for number in range(count)]
    await admin.update_replicas([Replica(scope, file.name, name, ("u",)) for file in files for name in names])
    project = await dispatch.create_project(files)
    session = await office.session(project.project_id).open(credits=1, cpu_site=site)

    async def ask() -> None:  # in small portions, so that files are drawn while the replicas of others are looked up
        for _ in range(count - 1):
            await session.say(credits=1)

    await asyncio.gather(ask(), session.has(count))
    expected = [names[1], names[2], names[0]]
    assert [handle.handle_id for handle in session.files if [r.rse for r in handle.replicas] != expected] == []
    assert len({handle.handle_id for handle in session.files}) == count
    await session.close()
    assert await office.count(project.project_id, "reserved") == 0


async def test_files_that_are_added_reach_who_waits(office: Office, twin: Any) -> None:
    project_id = await office.create(0, open=True)
    near = await office.session(project_id, "near").open(credits=3)
    far = await office.session(project_id, "far", stub=twin).open(credits=3)
    for session in (near, far):
        await session.until(lambda: session.progress)  # noqa: B023 - called in this round only
        assert not session.ended
    await office.add(project_id, 6, still_open=True)
    await asyncio.gather(near.has(3), far.has(3))
    for session in (near, far):
        await session.say(*(report(handle) for handle in session.files))
    await office.comes_to(project_id, "done", 6)
    assert not near.ended
    await office.add(project_id, 0, still_open=False)
    for session in (near, far):
        await session.until(lambda: session.ended)  # noqa: B023 - called in this round only
        await session.close()


async def test_max_running_is_never_exceeded(office: Office, twin: Any) -> None:
    limit, files = 7, 200
    project_id = await office.create(files, max_running=limit)
    done = asyncio.Event()
    most = 0

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, await office.count(project_id, "reserved"))

    async def work(number: int) -> int:
        stub = twin if number % 2 else None
        session = await office.session(project_id, f"w{number}", stub=stub).open(credits=4)
        reported = 0
        while not session.ended:
            known = reported
            await session.until(lambda: session.ended or len(session.files) > known)  # noqa: B023 - this round only
            fresh = session.files[reported:]
            reported += len(fresh)
            await session.say(*(report(handle) for handle in fresh), credits=len(fresh))
        await session.close()
        return reported

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(30):
        counts = await asyncio.gather(*(work(number) for number in range(20)))
    done.set()
    await watching
    assert sum(counts) == files
    assert 0 < most <= limit
    assert await office.tally(project_id) == (files, files, 0)


async def test_every_file_once_whoever_asks_and_however(office: Office, dispatch: DispatchClient, twin: Any) -> None:
    files = 600
    project_id = await office.create(files)
    got: Counter[int] = Counter()

    async def by_session(number: int) -> None:
        stub = twin if number % 2 else None
        session = await office.session(project_id, f"s{number}", stub=stub).open(credits=10)
        seen = 0
        while not session.ended:
            known = seen
            await session.until(lambda: session.ended or len(session.files) > known)  # noqa: B023 - this round only
            fresh = session.files[seen:]
            seen += len(fresh)
            got.update(handle.handle_id for handle in fresh)
            await session.say(*(report(handle) for handle in fresh), credits=len(fresh))
        await session.close()
        assert session.acknowledged == seen
        assert not session.refused

    async def one_by_one(number: int) -> None:
        while isinstance(handle := await dispatch.next_file(project_id, f"n{number}"), Handle):
            got[handle.handle_id] += 1
            await dispatch.done(handle)

    async def by_batch(number: int) -> None:
        while not isinstance(batch := await dispatch.reserve(project_id, f"b{number}", 7), ProjectEnded):
            assert not isinstance(batch, TimedOut)
            for handle in batch:
                got[handle.handle_id] += 1
                await dispatch.done(handle)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(number) for work in (by_session, one_by_one, by_batch) for number in range(4)))
    assert len(got) == files
    assert set(got.values()) == {1}
    assert await office.tally(project_id) == (files, files, 0)


# --- slow and greedy workers -----------------------------------------------------------------------------------------


def resident(pid: int) -> float:
    """Memory of a process in MiB."""
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


async def test_large_attributes_come_in_messages_of_a_bearable_size(office: Office) -> None:
    project_id = await office.create(600, attributes_json='{"x": "' + "x" * 10_000 + '"}')
    session = await office.session(project_id).open(credits=600)
    await session.has(600)
    assert session.largest < 3_000_000
    await session.close()


async def test_a_worker_that_never_reads_costs_no_more_than_its_credits(
    stack: LocalStack, office: Office, dispatch: DispatchClient
) -> None:
    size = 20_000
    project_id = await office.create(3000, attributes_json='{"x": "' + "x" * size + '"}')
    quick_project = await office.create(1000)
    before = resident(stack.pid)
    slow = await office.session(project_id, "slow").open(credits=1000, reading=False)
    await office.comes_to(project_id, "reserved", 1000)
    for _ in range(3):  # more than it may: what it has not taken yet is still on credit
        await slow.send(pb.WorkRequest(credits=900))
    quick = await office.session(quick_project, "quick").open(credits=50)
    begin = time.monotonic()
    taken = 0
    while not quick.ended:
        known = taken
        await quick.until(lambda: quick.ended or len(quick.files) > known)  # noqa: B023 - called in this round only
        fresh = quick.files[taken:]
        taken += len(fresh)
        await quick.say(*(report(handle) for handle in fresh), credits=len(fresh))
    assert time.monotonic() - begin < 5
    assert taken == 1000
    await quick.close()
    assert await office.count(project_id, "reserved") <= 1000
    assert resident(stack.pid) - before < 1000 * size * 4 / 2**20
    await slow.break_off()


async def test_a_worker_that_reports_without_reading_is_made_to_wait(office: Office) -> None:
    project_id = await office.create(1)
    holder = await office.session(project_id, "holder").open(credits=1)
    await holder.has(1)
    session = await office.session(project_id, "w" * 1000).open(reading=False)  # the name is in every refusal
    number = 40
    nonsense = [report(holder.files[0], message="m" * 1000)] * 1000

    async def flood() -> None:
        for _ in range(number):
            await session.say(*nonsense)

    flooding = asyncio.create_task(flood())
    await asyncio.wait([flooding], timeout=1.5)
    assert not flooding.done()
    session.read()
    await session.until(lambda: session.acknowledged == number * 1000)
    await flooding
    assert len(session.refused) == number * 1000
    assert session.largest < 4_000_000
    await session.close()
    await holder.close()
