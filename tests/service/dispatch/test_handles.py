"""The worker's interface over a real channel: reserving, reporting, leases, time-outs, waiting."""

import asyncio
import dataclasses
import time
from typing import Any
from uuid import uuid4

import grpc
import pytest

from drayman.client import (
    DispatchClient,
    File,
    ForbiddenError,
    Handle,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    ProjectEnded,
    Report,
    TimedOut,
)
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2
from drayman.testing import LocalStack
from service.dispatch.raw_session import Office

PATIENCE = 10.0


async def take(dispatch: DispatchClient, project_id: int, worker: str = "w", **options: Any) -> Handle:
    got = await dispatch.next_file(project_id, worker, **options)
    assert isinstance(got, Handle), got
    return got


async def parked(
    dispatch: DispatchClient, project_id: int, worker: str = "waiting", **options: Any
) -> "asyncio.Task[Any]":
    """Start a wait and return once the service says that there is nothing yet."""
    waits = asyncio.Event()
    task = asyncio.create_task(dispatch.next_file(project_id, worker, on_wait=lambda _: waits.set(), **options))
    async with asyncio.timeout(PATIENCE):
        await waits.wait()
    return task


async def test_files_come_in_creation_order_and_each_once(dispatch: DispatchClient, make: Any) -> None:
    project = await make(5)
    names = [(await take(dispatch, project.project_id)).name for _ in range(5)]
    assert names == [f"f{number:06d}" for number in range(5)]
    assert isinstance(await dispatch.next_file(project.project_id, "w", timeout=0), TimedOut)


async def test_less_tried_files_come_first(dispatch: DispatchClient, make: Any) -> None:
    project = await make(3)
    first = await take(dispatch, project.project_id)
    await dispatch.failed(first)
    names = [(await take(dispatch, project.project_id)).name for _ in range(3)]
    assert names == ["f000001", "f000002", "f000000"]


async def test_the_end_is_told_to_all_who_wait(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    held = await take(dispatch, project.project_id)
    waiting = [await parked(dispatch, project.project_id, f"w{n}") for n in range(3)]
    await dispatch.done(held)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*waiting) == [ProjectEnded("done")] * 3


async def test_a_released_file_goes_to_who_waits_and_costs_no_attempt(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    held = await take(dispatch, project.project_id)
    waiting = await parked(dispatch, project.project_id)
    await dispatch.release(held)
    async with asyncio.timeout(PATIENCE):
        got = await waiting
    assert (got.handle_id, got.attempts) == (held.handle_id, 1)


async def test_who_leaves_gets_nothing_and_loses_nothing(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    held = await take(dispatch, project.project_id)
    gone = await parked(dispatch, project.project_id, "gone")
    stays = await parked(dispatch, project.project_id, "stays")
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await dispatch.failed(held)
    async with asyncio.timeout(PATIENCE):
        assert (await stays).worker_id == "stays"


async def test_a_wait_that_is_cancelled_as_the_file_arrives_gives_it_back(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    for _ in range(20):  # the race is won by either side
        wish = asyncio.create_task(dispatch.next_file(project.project_id, "hasty"))
        await asyncio.sleep(0.001)
        wish.cancel()
        await asyncio.wait([wish])
        if not wish.cancelled():
            await dispatch.release(wish.result())
        async with asyncio.timeout(PATIENCE):
            await dispatch.release(await take(dispatch, project.project_id, "other"))


async def test_waiting_ends_in_time(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    await take(dispatch, project.project_id)
    begin = time.monotonic()
    got = await dispatch.next_file(project.project_id, "w", timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 3
    assert isinstance(got, TimedOut)
    assert (got.counts.total, got.counts.reserved) == (1, 1)


async def test_many_at_once(dispatch: DispatchClient, make: Any) -> None:
    project = await make(10)
    taken = await dispatch.reserve(project.project_id, "w", 7)
    assert isinstance(taken, list)
    assert len(taken) == 7
    assert [handle.did for handle in await dispatch.reserved(project.project_id, "w")] == [h.did for h in taken]
    assert await dispatch.reserved(project.project_id, "somebody else") == []
    await dispatch.done(taken[0])
    refusals = await dispatch.report([Report(handle, "done") for handle in taken])
    assert refusals[1:] == [None] * 6
    assert refusals[0] is not None
    assert refusals[0].reason == "NOT_RESERVED"
    with pytest.raises(InvalidRequestError, match="twice"):
        await dispatch.report([Report(taken[0], "done"), Report(taken[0], "failed_final")])
    rest = await dispatch.reserve(project.project_id, "w", 1000)
    assert isinstance(rest, list)
    assert len(rest) == 3
    assert isinstance(await dispatch.reserve(project.project_id, "w", 5, timeout=0), TimedOut)
    await dispatch.report([Report(handle, "failed_final", "E42", "broken") for handle in rest])
    assert await dispatch.reserve(project.project_id, "w", 5) == ProjectEnded("failed")


async def test_reports_are_fenced(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    first = await take(dispatch, project.project_id, "one")
    with pytest.raises(ForbiddenError) as caught:
        await dispatch.done(dataclasses.replace(first, worker_id="two"))
    assert (caught.value.reason, caught.value.metadata["worker_id"]) == ("WRONG_WORKER", "two")
    await dispatch.failed(first)
    with pytest.raises(ForbiddenError) as caught:
        await dispatch.done(first)
    assert caught.value.reason == "NOT_RESERVED"
    second = await take(dispatch, project.project_id, "one")
    with pytest.raises(PreconditionError) as stale:
        await dispatch.done(first)
    assert stale.value.reason == "STALE_ATTEMPT"
    await dispatch.done(second)
    with pytest.raises(NotFoundError) as missing:
        await dispatch.done(dataclasses.replace(second, handle_id=99))
    assert missing.value.reason == "HANDLE_NOT_FOUND"
    with pytest.raises(NotFoundError):
        await dispatch.get_handle(project.project_id, "no", "such")


async def test_a_request_sent_again_is_answered_as_the_first_time(stack: LocalStack, user: str, make: Any) -> None:
    project = await make(3)
    wish = pb.NextFileRequest(project_id=project.project_id, worker_id="w", request_id=str(uuid4()))
    async with open_channel(stack.url) as channel:
        stub = handle_service_pb2_grpc.HandleServiceStub(channel)
        metadata = bearer(stack.token(user))

        async def next_file() -> pb.NextFileResponse:
            return [event async for event in stub.NextFile(wish, metadata=metadata)][-1]

        first = (await next_file()).reserved.handle
        wish.resend = True
        again = (await next_file()).reserved.handle
        assert (again.handle_id, again.attempts) == (first.handle_id, first.attempts)
        report = pb.ReportRequest(
            project_id=project.project_id,
            worker_id="w",
            request_id=str(uuid4()),
            reports=[pb.FileReport(handle_id=first.handle_id, attempt=1, outcome=pb.OUTCOME_FAILED_RETRY)],
        )
        for _ in range(2):
            assert (await stub.Report(report, metadata=metadata)).results[0].refusal == ""
        assert (await next_file()).reserved.handle.handle_id != first.handle_id  # that lease is over
    counts = project.counts
    assert counts.total == 3


async def test_leases_end_within_a_second_of_the_worker_timeout(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1, worker_timeout=0.5)
    held = await take(dispatch, project.project_id, "slow")
    begin = time.monotonic()
    got = await take(dispatch, project.project_id, "quick", timeout=PATIENCE)
    assert 0.3 < time.monotonic() - begin < 1.5
    assert (got.attempts, got.attributes) == (2, {"timeouts": 1})
    with pytest.raises(ForbiddenError):
        await dispatch.done(held)
    await dispatch.done(got)


async def test_renewing_keeps_a_lease(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1, worker_timeout=0.6)
    held = await take(dispatch, project.project_id)
    waiting = await parked(dispatch, project.project_id)
    for _ in range(6):
        await asyncio.sleep(0.2)
        assert await dispatch.renew([held]) == []
    assert not waiting.done()
    await dispatch.done(held)
    async with asyncio.timeout(PATIENCE):
        assert await waiting == ProjectEnded("done")
    assert await dispatch.renew([held]) == [held]


async def test_a_timeout_without_retry_ends_the_project(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1, worker_timeout=0.3, attributes={"retry_on_timeout": "False"})
    await take(dispatch, project.project_id)
    async with asyncio.timeout(PATIENCE):
        assert await dispatch.next_file(project.project_id, "w2") == ProjectEnded("failed")
    project = await dispatch.get_project(project.project_id)
    assert (project.state, project.counts.failed) == ("failed", 1)
    assert project.ended is not None


async def test_an_idle_project_is_abandoned_and_revived_by_a_worker(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1, idle_timeout=0.3)
    async with asyncio.timeout(PATIENCE):
        while (await dispatch.get_project(project.project_id)).state != "abandoned":
            await asyncio.sleep(0.05)
    assert (await dispatch.get_project(project.project_id)).ended is None
    held = await take(dispatch, project.project_id)
    assert (await dispatch.get_project(project.project_id)).state == "active"
    async with asyncio.timeout(PATIENCE):
        while (await dispatch.get_project(project.project_id)).state != "abandoned":
            await asyncio.sleep(0.05)
    await dispatch.done(held)  # an abandoned project's last report ends it
    assert (await dispatch.get_project(project.project_id)).state == "done"


async def test_restart_wakes_who_waits(dispatch: DispatchClient, make: Any) -> None:
    project = await make(2)
    held, _ = await dispatch.reserve(project.project_id, "w", 2)
    await dispatch.done(held)
    waiting = await parked(dispatch, project.project_id)
    await dispatch.restart_handles(project.project_id, states=["done"])
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).handle_id == held.handle_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"worker_id": ""}, "worker_id"),
        ({"worker_id": "w" * 1001}, "worker_id"),
        ({"worker_id": "a\x00b"}, "worker_id"),
        ({"cpu_site": "a\x00b"}, "CPU site"),
        ({"request_id": "no uuid"}, "request_id"),
        ({"timeout": {"seconds": -1}}, "timeout"),
    ],
)
async def test_bad_wishes_are_refused_by_field(
    stack: LocalStack, user: str, make: Any, fields: dict[str, Any], field: str
) -> None:
    project = await make(1)
    async with open_channel(stack.url) as channel:
        stub = handle_service_pb2_grpc.HandleServiceStub(channel)
        request = pb.NextFileRequest(**({"project_id": project.project_id, "worker_id": "w"} | fields))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [event async for event in stub.NextFile(request, metadata=bearer(stack.token(user)))]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


@pytest.mark.parametrize(
    "report",
    [
        {"handle_id": 1},
        {"outcome": pb.OUTCOME_DONE},
        {"handle_id": 1, "outcome": 99},
        {"did": project_pb2.Did(namespace="n", name="a\x00b"), "outcome": pb.OUTCOME_DONE},
        {"handle_id": 1, "attempt": -5, "outcome": pb.OUTCOME_DONE, "message": "a\x00b"},
    ],
)
async def test_bad_reports_are_refused_and_change_nothing(
    stack: LocalStack, dispatch: DispatchClient, user: str, make: Any, report: dict[str, Any]
) -> None:
    project = await make(1)
    await take(dispatch, project.project_id)
    async with open_channel(stack.url) as channel:
        stub = handle_service_pb2_grpc.HandleServiceStub(channel)
        request = pb.ReportRequest(project_id=project.project_id, worker_id="w", reports=[pb.FileReport(**report)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Report(request, metadata=bearer(stack.token(user)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    assert (await dispatch.get_project(project.project_id)).counts.reserved == 1


async def test_too_many_in_one_request_are_refused(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    held = await take(dispatch, project.project_id)
    with pytest.raises(InvalidRequestError):
        await dispatch.report([Report(held, "done")] * 1001)
    with pytest.raises(InvalidRequestError):
        await dispatch.renew([held] * 1001)
    with pytest.raises(InvalidRequestError):
        await dispatch.reserve(project.project_id, "w", 1001)


async def test_no_file_is_given_twice_and_every_count_is_exact(dispatch: DispatchClient, office: Office) -> None:
    """Sixty-four workers, some of whom fail, release, or let their lease run out."""
    files = 1500
    project = await dispatch.create_project(
        [File("n", str(number)) for number in range(files)], attributes={"virtual": True}, worker_timeout=3600
    )
    seen: set[tuple[int, int]] = set()
    outcomes = {"done": 0, "failed": 0}

    async def work(number: int) -> None:
        while True:
            got = await dispatch.next_file(project.project_id, f"w{number}", timeout=30)
            if isinstance(got, ProjectEnded):
                return
            assert isinstance(got, Handle)
            key = (got.handle_id, got.attempts)
            kind = got.handle_id % 10
            if kind == 3 and got.attempts == 1:
                assert key not in seen
                seen.add(key)
                await dispatch.failed(got)
            elif kind == 5 and got.attempts == 1:
                if key not in seen:
                    seen.add(key)
                    await dispatch.release(got)  # comes again as the same attempt
                else:
                    await dispatch.done(got)
                    outcomes["done"] += 1
            elif got.handle_id % 100 == 7 and got.attempts == 1:
                assert key not in seen
                seen.add(key)  # never reported: the lease runs out
                await office._database.execute(
                    "UPDATE dispatch.handle SET lease_until = now() WHERE project_id = $1 AND handle_id = $2",
                    project.project_id,
                    got.handle_id,
                )
            else:
                assert key not in seen
                seen.add(key)
                final = kind == 9
                await (dispatch.failed(got, retry=False) if final else dispatch.done(got))
                outcomes["failed" if final else "done"] += 1

    async with asyncio.timeout(240):
        await asyncio.gather(*(work(number) for number in range(64)))
    ended = await dispatch.get_project(project.project_id)
    assert (ended.counts.done, ended.counts.failed) == (outcomes["done"], outcomes["failed"])
    assert ended.counts.done + ended.counts.failed == files
    assert ended.counts.failed == files // 10
    assert ended.state == "failed"
