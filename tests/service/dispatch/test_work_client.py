"""The client's session: an async iterator of files, each a context that reports by itself."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.client import (
    DispatchClient,
    DraymanError,
    File,
    FileFailed,
    FileInHand,
    FileReleased,
    ForbiddenError,
    NotFoundError,
    ProjectEnded,
    TimedOut,
    UnauthenticatedError,
    UnavailableError,
)
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.testing import LocalStack
from service.dispatch.raw_session import Office, replica

PATIENCE = 15.0


@pytest_asyncio.fixture(scope="session")
async def office(stack: LocalStack, user: str) -> AsyncIterator[Office]:
    async with open_channel(stack.url) as channel, asyncpg.create_pool(stack.dsn, min_size=1, max_size=2) as database:
        yield Office(channel, bearer(stack.token(user)), database)


@pytest_asyncio.fixture(autouse=True)
async def _nothing_left_behind(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task goes on after a test, and no exception is found by the garbage collector."""
    before = asyncio.all_tasks()
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(str(context["message"])))
    async with asyncio.timeout(PATIENCE * 2):
        yield
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    # gRPC's own tasks are the channel's
    left = [task for task in asyncio.all_tasks() - before if "drayman" in task.get_name()]
    assert (left, complaints) == ([], [])


async def states(office: Office, project_id: int) -> list[tuple[str, int, str | None]]:
    return [row for _, row in sorted((await office.rows(project_id)).items())]


async def test_every_file_is_done_once(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(120)
    seen = []
    async with dispatch.work(project_id, "w", credits=8) as session:
        async for file in session:
            async with file:
                seen.append(file.handle.handle_id)
    assert seen == sorted(set(seen))
    assert session.result == ProjectEnded("done")
    assert await office.tally(project_id) == (120, 120, 0)


@pytest.mark.parametrize("credits_given", [1, 1000])
async def test_the_context_says_what_became_of_a_file(
    office: Office, dispatch: DispatchClient, caplog: pytest.LogCaptureFixture, credits_given: int
) -> None:
    project_id = await office.create(8)
    caplog.set_level(logging.WARNING, "drayman.client")
    tried: dict[int, int] = {}
    async with dispatch.work(project_id, "w", credits=credits_given, final_errors=(KeyError,)) as session:
        async for file in session:
            number = file.handle.handle_id
            tried[number] = tried.get(number, 0) + 1
            async with file:
                if tried[number] == 1:
                    match number:
                        case 1:
                            raise ValueError("once more")
                        case 2:
                            raise KeyError("never")
                        case 3:
                            raise FileFailed("MINE", "my own words", retry=False)
                        case 4:
                            raise FileFailed("MINE")
                        case 5:
                            raise FileReleased
                        case 6:
                            file.failed(retry=False, code="SAID", message="before")
                            raise ValueError("after it was reported")
                        case 7:
                            file.done()
                            file.failed()
    assert session.result == ProjectEnded("failed")
    assert tried == {1: 2, 2: 1, 3: 1, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1}
    rows = await states(office, project_id)
    assert [row[:2] for row in rows] == [
        ("done", 2),
        ("failed", 1),
        ("failed", 1),
        ("done", 2),
        ("done", 1),
        ("failed", 1),
        ("done", 1),
        ("done", 1),
    ]
    assert [row[2] for row in rows if row[0] == "failed"] == ["KeyError", "MINE", "SAID"]
    assert len(caplog.records) == 3  # errors that were not foreseen


async def test_reasons_that_cannot_be_stored_as_they_are_harm_nobody(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(3)
    texts = ["a\0b", b"caf\xe9".decode(errors="surrogateescape"), "long " * 1_000_000]
    async with dispatch.work(project_id, "w", credits=3, final_errors=(Exception,)) as session:
        async for file in session:
            async with file:
                raise FileNotFoundError(texts[file.handle.handle_id - 1])
    assert session.result == ProjectEnded("failed")
    assert [row[2] for row in await states(office, project_id)] == ["FileNotFoundError"] * 3


async def test_many_long_reasons_are_no_message_too_large(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(1000)
    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w", credits=1000) as session:
        files = [file async for _, file in _count(session, 1000)]
        for file in files:
            file.failed(retry=False, code="LONG", message="m" * 100_000)
        assert all([await file.settled() for file in files])
    assert await office.tally(project_id) == (1000, 0, 1000)


async def _count(session: Any, number: int) -> AsyncIterator[tuple[int, FileInHand]]:
    taken = 0
    async for file in session:
        taken += 1
        yield taken, file
        if taken == number:
            return


async def test_cancellation_gives_the_file_back(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(5)
    busy = asyncio.Event()

    async def work() -> None:
        async with dispatch.work(project_id, "w", credits=3) as session:
            async for file in session:
                async with file:
                    busy.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await busy.wait()
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [row[:2] for row in await states(office, project_id)] == [("initial", 0)] * 5


async def test_what_is_no_exception_ends_the_worker_and_gives_the_file_back(
    office: Office, dispatch: DispatchClient
) -> None:
    class End(BaseException):
        pass

    project_id = await office.create(2)
    with pytest.raises(End):  # noqa: PT012 - the session raises on its way out
        async with dispatch.work(project_id, "w", credits=2) as session:
            async for file in session:
                async with file:
                    raise End
    assert [row[:2] for row in await states(office, project_id)] == [("initial", 0)] * 2


@pytest.mark.parametrize("manner", ["waits", "cleans up badly", "swallows", "swallows twice"])
async def test_a_lost_lease_ends_the_work_on_the_file_and_no_more(
    office: Office, dispatch: DispatchClient, manner: str
) -> None:
    project_id = await office.create(4)
    handled = []

    async def restart(handle_id: int) -> None:
        await dispatch.restart_handles(project_id, files=[File("ns", f"f{handle_id - 1:06d}")])

    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w", credits=2) as session:
        restarted = False
        async for file in session:
            async with file:
                if not restarted and file.handle.handle_id == 2:
                    restarted = True
                    restarting = asyncio.create_task(restart(2))
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        if manner == "cleans up badly":
                            raise RuntimeError("while cleaning up") from None
                        if manner == "waits":
                            raise
                        if manner == "swallows twice":
                            await asyncio.sleep(0)
                    finally:
                        await restarting
                        assert file.lost
                        assert not await file.settled()
            handled.append((file.handle.handle_id, file.lost))
            await asyncio.sleep(0)  # a cancellation that leaked would strike here
            ours = asyncio.current_task()
            assert ours is not None
            assert ours.cancelling() == 0
    assert sorted(handled) == [(1, False), (2, False), (2, True), (3, False), (4, False)]
    assert session.result == ProjectEnded("done")
    assert await office.tally(project_id) == (4, 4, 0)


async def test_a_lease_lost_before_the_context_ends_its_work_at_once(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(1)
    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w") as session:
        file = await anext(session)
        await dispatch.restart_handles(project_id, states=["reserved"])
        assert not await file.settled()
        async with file:
            await asyncio.Event().wait()
        async with file:
            pass  # no wait in which the cancellation could strike
        await asyncio.sleep(0)
        async for again in session:
            async with again:
                assert again.handle.attempts == 2
    assert await office.tally(project_id) == (1, 1, 0)


async def test_a_lost_lease_and_a_cancellation_at_once_end_the_task(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(1)
    busy = asyncio.Event()
    files = []

    async def work() -> None:
        async with dispatch.work(project_id, "w") as session:
            async for file in session:
                files.append(file)
                async with file:
                    busy.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await busy.wait()
    handle = files[0].handle
    lost = pb.Lease(handle_id=handle.handle_id, attempt=handle.attempts)
    files[0]._session._heed(pb.WorkResponse(lost=[lost]))  # in one breath with
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files[0].lost


async def test_several_tasks_share_a_session(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(100)
    seen: list[tuple[str, int]] = []

    async with dispatch.work(project_id, "w", credits=10) as session:

        async def work(name: str) -> None:
            async for file in session:
                async with file:
                    seen.append((name, file.handle.handle_id))
                    await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for name in "abcde":
                group.create_task(work(name))
    assert sorted(number for _, number in seen) == list(range(1, 101))
    assert {name for name, _ in seen} == set("abcde")
    assert session.result == ProjectEnded("done")


async def test_after_stop_files_in_hand_are_finished_and_the_others_given_back(
    office: Office, dispatch: DispatchClient
) -> None:
    project_id = await office.create(30)
    waiting = asyncio.Event()
    async with dispatch.work(project_id, "w", credits=10) as session:

        async def also() -> None:
            async for file in session:
                async with file:
                    waiting.set()
                    await asyncio.sleep(0.05)

        other = asyncio.create_task(also())
        async for file in session:
            async with file:
                await waiting.wait()
                session.stop()
                await asyncio.sleep(0.02)
        async with asyncio.timeout(PATIENCE):
            await other
        assert session.result is None
    rows = await states(office, project_id)
    assert sorted({row[:2] for row in rows}) == [("done", 1), ("initial", 0)]
    assert await office.tally(project_id) == (30, 2, 0)


async def test_nothing_for_a_while_ends_the_iteration(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(3)
    held = await dispatch.reserve(project_id, "other", 1)
    assert isinstance(held, list)
    done = []
    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w", credits=4, idle_timeout=0.3) as session:
        begin = time.monotonic()

        async def work() -> None:
            async for file in session:
                async with file:
                    done.append(file)

        await asyncio.gather(work(), work(), work())
        assert 0.25 < time.monotonic() - begin < 3
    assert isinstance(session.result, TimedOut)
    assert (session.result.counts.total, session.result.counts.reserved) == (3, 1)
    assert len(done) == 2
    assert await office.tally(project_id) == (3, 2, 0)


async def test_what_comes_after_the_iteration_ended_is_given_back(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(3)
    held = await dispatch.reserve(project_id, "other", 3)
    assert isinstance(held, list)
    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w", credits=3, idle_timeout=0.1) as session:
        assert [file async for file in session] == []
        for handle in held:
            await dispatch.release(handle)
        rest = await dispatch.reserve(project_id, "other", 3)
        while isinstance(rest, list) and len(rest) < 3:
            more = await dispatch.reserve(project_id, "other", 3)
            assert isinstance(more, list)
            rest += more
    assert await office.count(project_id, "reserved") == 3


async def test_leaving_early_gives_back_the_rest_and_waits_for_the_reports(
    office: Office, dispatch: DispatchClient
) -> None:
    project_id = await office.create(50)
    for _ in range(5):
        async with dispatch.work(project_id, "w", credits=20) as session:
            async for file in session:
                async with file:
                    break
    assert await office.tally(project_id) == (50, 5, 0)
    assert await office.count(project_id, "reserved") == 0
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the session raises on its way out
        async with dispatch.work(project_id, "w", credits=20) as session:
            async for file in session:
                file.done()
                raise ZeroDivisionError
    assert await office.tally(project_id) == (50, 6, 0)
    assert await office.count(project_id, "reserved") == 0
    async with dispatch.work(project_id, "w", credits=20):
        pass
    assert await office.count(project_id, "reserved") == 0


async def test_settled_says_whether_the_report_was_taken(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(2)
    async with dispatch.work(project_id, "w", credits=2) as session:
        first, second = await anext(session), await anext(session)
        first.done()
        assert await first.settled()
        assert first.refusal is None
        await dispatch.done(second.handle)  # behind the session's back
        second.failed(retry=False)
        assert not await second.settled()
        assert second.refusal == "NOT_RESERVED"
    assert await office.tally(project_id) == (2, 2, 0)


async def test_a_cancelled_project_ends_the_iteration_and_takes_what_is_in_hand(
    office: Office, dispatch: DispatchClient
) -> None:
    project_id = await office.create(20)
    async with asyncio.timeout(PATIENCE), dispatch.work(project_id, "w", credits=6) as session:
        begun = 0
        async for file in session:
            async with file:
                begun += 1
                await dispatch.cancel_project(project_id)
                while session.result is None:
                    await asyncio.sleep(0.01)
        assert begun == 1
    assert session.result == ProjectEnded("cancelled")
    assert await office.tally(project_id) == (20, 1, 0)
    assert await office.count(project_id, "reserved") == 0


async def test_leases_are_kept_while_the_work_takes_its_time(office: Office, dispatch: DispatchClient) -> None:
    project_id = await office.create(2, worker_timeout={"seconds": 1})
    async with dispatch.work(project_id, "w", credits=2) as session:
        async for file in session:
            async with file:
                await asyncio.sleep(1.6)
            assert await file.settled()
    assert [row[:2] for row in await states(office, project_id)] == [("done", 1)] * 2


@pytest.mark.parametrize("kind", ["stranger", "no project", "bad token", "bad worker"])
async def test_errors_are_raised_by_the_iteration(stack: LocalStack, user: str, office: Office, kind: str) -> None:
    project_id = await office.create(1)
    token, worker = stack.token(user), "w"
    expected: type[DraymanError] = ForbiddenError
    reason = "NOT_A_WORKER"
    match kind:
        case "stranger":
            stranger = f"stranger-{uuid4().hex[:8]}"
            stack.add_user(stranger)
            token = stack.token(stranger)
        case "no project":
            project_id, expected, reason = 2**50, NotFoundError, "PROJECT_NOT_FOUND"
        case "bad token":
            token, expected, reason = "nonsense", UnauthenticatedError, "TOKEN_INVALID"
        case "bad worker":
            worker, expected, reason = "", DraymanError, "INVALID_FIELD"
    async with DispatchClient(stack.url, token) as dispatch, asyncio.timeout(5):
        with pytest.raises(expected) as caught:  # noqa: PT012 - the session raises on its way out
            async with dispatch.work(project_id, worker) as session:
                async for _ in session:
                    pytest.fail("a file")
        assert caught.value.reason == reason
        with pytest.raises(expected):
            async with dispatch.work(project_id, worker):
                await asyncio.sleep(0.3)


async def test_a_service_that_is_away_for_good_is_an_error_for_all_who_wait(stack: LocalStack) -> None:
    async with DispatchClient("grpc://127.0.0.1:1", "t", patience=0.5) as dispatch, asyncio.timeout(PATIENCE):
        begin = time.monotonic()
        with pytest.raises(UnavailableError):  # noqa: PT012 - the session raises on its way out
            async with dispatch.work(1, "w", credits=2) as session:
                waits = await asyncio.gather(anext(session), anext(session), return_exceptions=True)
                assert all(isinstance(error, UnavailableError) for error in waits)
        assert time.monotonic() - begin < 8


async def test_a_session_that_fails_leaves_no_report_unanswered(
    stack: LocalStack, user: str, office: Office, tmp_path: Path
) -> None:
    project_id = await office.create(3)
    with replica(stack, tmp_path / "replica") as (process, url):
        async with DispatchClient(url, stack.token(user), patience=0.5) as dispatch, asyncio.timeout(PATIENCE):
            with pytest.raises(UnavailableError):  # noqa: PT012 - the session raises on its way out
                async with dispatch.work(project_id, "w", credits=2) as session:
                    first, second = await anext(session), await anext(session)
                    process.kill()
                    first.done()
                    async with second:
                        await asyncio.Event().wait()  # ends with the session
                    assert second.lost
                    with pytest.raises(UnavailableError):
                        await first.settled()
                    await anext(session)


async def test_a_session_outside_its_context_is_a_mistake(dispatch: DispatchClient) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await anext(dispatch.work(1, "w"))
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match="credits"):
            dispatch.work(1, "w", credits=wrong)
