"""How a worker's session ends and goes on: closed, broken, taken up again, told to stop; and its leases."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from drayman.client import DispatchClient, File
from drayman.client.channel import open_channel
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2
from drayman.testing import LocalStack
from service.dispatch.raw_session import Office, leases, replica, report

# --- the end of a stream ---------------------------------------------------------------------------------------------


async def test_a_clean_end_gives_back_at_once_what_was_sent(office: Office) -> None:
    project_id = await office.create(500)
    for _ in range(10):
        session = await office.session(project_id).open(credits=500)
        await session.close()  # while files are drawn and sent
        assert await office.count(project_id, "reserved") == 0
    rows = await office.rows(project_id)
    assert {(state, attempts) for state, attempts, _ in rows.values()} == {("initial", 0)}
    await office.tally(project_id)


async def test_reports_before_a_clean_end_count(office: Office) -> None:
    project_id = await office.create(20)
    session = await office.session(project_id).open(credits=20)
    await session.has(20)
    for handle in session.files[:12]:
        await session.say(report(handle))
    await session.close()
    assert session.acknowledged == 12
    assert await office.tally(project_id) == (20, 12, 0)
    assert await office.count(project_id, "initial") == 8


async def test_a_broken_stream_keeps_its_leases(office: Office) -> None:
    project_id = await office.create(200)
    for number in range(20):  # whatever the server hears first: the end of the requests or that of the stream
        session = await office.session(project_id, f"w{number}").open(credits=5)
        await session.has(5)
        await session.break_off()
    witness = await office.session(project_id, "witness").open(credits=100)
    await witness.has(100)
    await witness.until(lambda: witness.progress or len(witness.files) == 100)
    assert await office.count(project_id, "reserved") == 200
    await witness.close()
    assert await office.count(project_id, "reserved") == 100


async def test_a_session_is_taken_up_with_what_it_holds(office: Office) -> None:
    project_id = await office.create(10)
    session = await office.session(project_id).open(credits=8)
    await session.has(8)
    kept, lost = session.files[:3], session.files[3]
    await session.say(report(lost, pb.OUTCOME_FAILED_RETRY))
    await session.until(lambda: session.acknowledged == 1)
    await session.break_off()
    nothing = (4711, 1)
    stale = (kept[0].handle_id, 7)
    resumed = office.session(project_id, session_id=session.session_id)
    await resumed.open([*leases(kept[1:]), *leases([lost]), nothing, stale])
    await resumed.until(lambda: len(resumed.lost) == 3)
    assert {(lease.handle_id, lease.attempt, lease.reason) for lease in resumed.lost} == {
        (lost.handle_id, 1, "NOT_RESERVED"),
        (*nothing, "HANDLE_NOT_FOUND"),
        (*stale, "STALE_ATTEMPT"),
    }
    rows = await office.rows(project_id)
    assert [rows[handle.handle_id][:2] for handle in kept[1:]] == [("reserved", 1)] * 2
    assert [rows[handle.handle_id] for handle in session.files[4:]] == [("initial", 0, "SESSION_RESUMED")] * 4
    await resumed.say(*(report(handle) for handle in kept[1:]))
    await resumed.until(lambda: resumed.acknowledged == 2)
    assert not resumed.refused
    await resumed.close()
    assert await office.tally(project_id) == (10, 2, 0)


async def test_a_session_taken_up_elsewhere_gives_back_what_its_end_left(office: Office, twin: Any) -> None:
    project_id = await office.create(30)
    session = await office.session(project_id).open(credits=20)
    await session.has(20)
    await session.break_off()
    resumed = await office.session(project_id, session_id=session.session_id, stub=twin).open(leases(session.files[:5]))
    assert await office.count(project_id, "reserved") == 5
    await resumed.say(*(report(handle) for handle in session.files[:6]))
    await resumed.until(lambda: resumed.acknowledged == 6)
    # given back when it was not among what the worker had
    assert [refused.refusal for refused in resumed.refused] == ["NOT_RESERVED"]
    await resumed.close()
    assert await office.tally(project_id) == (30, 5, 0)


@pytest.mark.parametrize("reading", [True, False])
async def test_a_session_is_taken_up_while_its_old_stream_is_open(office: Office, reading: bool) -> None:
    attributes = "" if reading else '{"x": "' + "x" * 20_000 + '"}'
    project_id = await office.create(300, attributes_json=attributes)
    old = await office.session(project_id).open(credits=300, reading=reading)
    if reading:
        await old.has(300)
    else:
        await office.comes_to(project_id, "reserved", 300)  # and its stream is stuck
    begin = time.monotonic()
    resumed = await office.session(project_id, session_id=old.session_id).open([(1, 1)], credits=10)
    assert time.monotonic() - begin < 3
    await resumed.has(10)
    error = await old.ends()
    assert error is not None
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert await office.count(project_id, "reserved") == 11
    await resumed.close()
    assert await office.count(project_id, "reserved") == 0


async def test_three_streams_of_one_session_at_once_leave_one(office: Office) -> None:
    project_id = await office.create(50)
    first = await office.session(project_id).open(credits=10)
    await first.has(10)
    streams = [office.session(project_id, session_id=first.session_id) for _ in range(3)]
    await asyncio.gather(*(stream.open(credits=5) for stream in streams))
    await asyncio.wait([stream._reading for stream in streams if stream._reading], timeout=0.5)
    (alive,) = (stream for stream in streams if not stream.over)
    await alive.has(5)
    await office.comes_to(project_id, "reserved", 5)
    await alive.close()
    await office.comes_to(project_id, "initial", 50)


async def test_sessions_of_one_worker_id_do_not_disturb_each_other(office: Office) -> None:
    project_id = await office.create(20)
    one = await office.session(project_id).open(credits=5)
    two = await office.session(project_id).open(credits=5)
    await one.has(5)
    await two.has(5)
    await one.break_off()
    again = await office.session(project_id, session_id=one.session_id).open(leases(one.files[:2]))
    await office.comes_to(project_id, "reserved", 7)
    await two.say(*(report(handle) for handle in two.files))
    await two.until(lambda: two.acknowledged == 5)
    assert not two.refused
    await two.close()
    await again.say(*(report(handle) for handle in one.files[:2]))
    await again.until(lambda: again.acknowledged == 2)
    assert not again.refused
    await again.close()
    assert await office.tally(project_id) == (20, 7, 0)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_report_sent_again_after_a_lost_acknowledgement_counts_once(
    office: Office, twin: Any, elsewhere: bool
) -> None:
    project_id = await office.create(8)
    outcomes = [pb.OUTCOME_DONE, pb.OUTCOME_FAILED_RETRY, pb.OUTCOME_FAILED_FINAL, pb.OUTCOME_RELEASED] * 2
    session = await office.session(project_id).open(credits=8)
    said = [report(handle, outcome) for handle, outcome in zip(await session.has(8), outcomes, strict=True)]
    await session.say(*said)
    await session.until(lambda: session.acknowledged == 8)
    before = await office.rows(project_id)
    await session.break_off()
    stub = twin if elsewhere else None
    resumed = await office.session(project_id, session_id=session.session_id, stub=stub).open(leases(session.files))
    await resumed.say(*said)
    await resumed.until(lambda: resumed.acknowledged == 8)
    assert not resumed.refused
    assert await office.rows(project_id) == before
    assert await office.tally(project_id) == (8, 2, 2)
    assert Counter(row[:2] for row in before.values()) == {
        ("done", 1): 2,
        ("initial", 1): 2,
        ("failed", 1): 2,
        ("initial", 0): 2,
    }
    await resumed.close()


# --- orders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_restart_reaches_the_session(
    office: Office, dispatch: DispatchClient, twin: Any, elsewhere: bool
) -> None:
    project_id = await office.create(6)
    session = await office.session(project_id, stub=twin if elsewhere else None).open(credits=4)
    await session.has(4)
    taken = session.files[:2]
    begin = time.monotonic()
    await dispatch.restart_handles(project_id, files=[File("ns", handle.did.name) for handle in taken])
    await session.until(lambda: len(session.lost) == 2)
    assert time.monotonic() - begin < 1
    assert {(lease.handle_id, lease.attempt, lease.reason) for lease in session.lost} == {
        (handle.handle_id, 1, "NOT_RESERVED") for handle in taken
    }
    await session.say(report(taken[0]))
    await session.until(lambda: session.acknowledged == 1)
    assert [refused.refusal for refused in session.refused] == ["NOT_RESERVED"]
    await session.close()
    assert await office.tally(project_id) == (6, 0, 0)


async def test_of_a_restarted_file_that_comes_back_at_once_the_first_lease_is_lost(
    office: Office, dispatch: DispatchClient
) -> None:
    project_id = await office.create(3)
    session = await office.session(project_id).open(credits=1000)  # parked: what is put back returns at once
    await session.has(3)
    await dispatch.restart_handles(project_id, states=["reserved"])
    await session.has(6)
    await session.until(lambda: len(session.lost) == 3)
    assert {lease.attempt for lease in session.lost} == {1}
    await session.say(*(report(handle) for handle in session.files[3:]))
    await session.until(lambda: session.acknowledged == 3)
    assert not session.refused
    await session.close()


@pytest.mark.parametrize("credits_left", [0, 5])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_cancellation_reaches_the_session_and_reports_are_still_taken(
    office: Office, dispatch: DispatchClient, twin: Any, elsewhere: bool, credits_left: int
) -> None:
    project_id = await office.create(6)
    session = await office.session(project_id, stub=twin if elsewhere else None).open(credits=6)
    await session.has(6)
    await session.say(credits=credits_left)
    begin = time.monotonic()
    await dispatch.cancel_project(project_id)
    await session.until(lambda: session.ended)
    assert time.monotonic() - begin < 1
    assert session.ended[0].state == project_pb2.PROJECT_STATE_CANCELLED
    await session.say(*(report(handle) for handle in session.files[:4]), credits=4)
    await session.until(lambda: session.acknowledged == 4)
    assert not session.refused
    await session.close()
    assert len(session.ended) == 1
    assert await office.tally(project_id) == (6, 4, 0)


async def test_the_last_report_ends_every_session(office: Office) -> None:
    project_id = await office.create(2)
    one = await office.session(project_id, "one").open(credits=2)
    two = await office.session(project_id, "two").open(credits=2)
    await one.has(2)
    await two.until(lambda: two.progress)
    await one.say(*(report(handle) for handle in one.files))
    for session in (one, two):
        await session.until(lambda: session.ended)  # noqa: B023 - called in this round only
        assert session.ended[0].state == project_pb2.PROJECT_STATE_DONE
        await session.close()
    assert one.acknowledged == 2
    late = await office.session(project_id, "late").open(credits=1)
    await late.until(lambda: late.ended)
    await late.close()


async def test_a_draining_service_says_so_and_takes_reports(
    stack: LocalStack, office: Office, twin: Any, tmp_path: Path
) -> None:
    project_id = await office.create(10)
    with replica(stack, tmp_path / "replica") as (process, url):
        async with open_channel(url) as channel:
            stub = handle_service_pb2_grpc.HandleServiceStub(channel)
            session = await office.session(project_id, stub=stub).open(credits=4)
            idle = await office.session(project_id, "idle", stub=stub).open()
            await session.has(4)
            process._process.send_signal(signal.SIGTERM)
            await session.until(lambda: session.draining)
            await idle.until(lambda: idle.draining)
            await session.say(report(session.files[0]), credits=1)
            await session.until(lambda: session.acknowledged == 1)
            await session.break_off()
            await idle.break_off()
        assert await asyncio.to_thread(process.terminate) == 0
    resumed = await office.session(project_id, session_id=session.session_id, stub=twin).open(leases(session.files[:2]))
    await resumed.say(*(report(handle) for handle in session.files[:2]))
    await resumed.until(lambda: resumed.acknowledged == 2)
    assert not resumed.refused
    await resumed.close()
    assert await office.tally(project_id) == (10, 2, 0)


# --- leases ----------------------------------------------------------------------------------------------------------


async def test_signs_of_life_keep_leases_and_silence_loses_them(office: Office, twin: Any) -> None:
    project_id = await office.create(4, worker_timeout={"seconds": 1})
    here = await office.session(project_id, "here").open(credits=2)
    there = await office.session(project_id, "there", stub=twin).open(credits=2)
    for session in (here, there):
        await session.has(2)
        assert session.started is not None
        assert 0.2 < session.started.renew_interval.ToTimedelta().total_seconds() < 0.5
    await there.break_off()
    for _ in range(10):
        await asyncio.sleep(0.33)
        await here.say()
        if not there.over:
            await there.say()
    rows = await office.rows(project_id)
    assert [rows[handle.handle_id] for handle in here.files] == [("reserved", 1, None)] * 2
    assert [rows[handle.handle_id] for handle in there.files] == [("initial", 1, "WORKER_TIMEOUT")] * 2
    assert not here.lost
    await office.comes_to(project_id, "initial", 4, 3)
    await here.say()
    await here.until(lambda: len(here.lost) == 2)
    assert {lease.reason for lease in here.lost} == {"NOT_RESERVED"}
    await here.say(report(here.files[0]))
    await here.until(lambda: here.acknowledged == 1)
    assert [refused.refusal for refused in here.refused] == ["NOT_RESERVED"]
    await here.close()
    assert await office.tally(project_id) == (4, 0, 0)
