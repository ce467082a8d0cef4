"""Sessions survive what they talk to, and what a killed worker held comes back."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drayman.client import DispatchClient, File, FileInHand, ProjectEnded
from drayman.testing import LocalStack
from service.dispatch.raw_session import replica

FILES = 3000
WORKERS = 8
CREDITS = 16
#: Seconds that a file takes, and while a process is being started: that may take long, and the work must not be over by then.
PACE, SLOW = 0.01, 0.15


class Ledger:
    """What eight workers were given and what became of their reports."""

    def __init__(self) -> None:
        self.files: list[tuple[FileInHand, str]] = []
        self.results: list[object] = []
        self.pace = PACE
        self._progress = asyncio.Event()

    def note(self, file: FileInHand, verdict: str) -> None:
        self.files.append((file, verdict))
        self._progress.set()

    async def reaches(self, number: int) -> None:
        while len(self.files) < number:
            self._progress.clear()
            await self._progress.wait()


async def work(url: str, token: str, project_id: int, number: int, ledger: Ledger) -> None:
    async with (
        DispatchClient(url, token, patience=30) as dispatch,
        dispatch.work(project_id, f"w{number}", credits=CREDITS) as session,
    ):
        async for file in session:
            handle_id, attempt = file.handle.handle_id, file.handle.attempts
            await asyncio.sleep(ledger.pace)  # the work
            if handle_id % 7 == 0 and attempt == 1:
                file.failed(code="ONCE_MORE")
                ledger.note(file, "retry")
            elif handle_id % 10 == 0:
                file.failed(retry=False)
                ledger.note(file, "failed")
            else:
                file.done()
                ledger.note(file, "done")
    ledger.results.append(session.result)


def kill(stack: LocalStack) -> None:
    stack.kill()
    stack.restart()


def stop(stack: LocalStack) -> None:
    assert stack.stop_services() == 0
    stack.restart()


@pytest.mark.parametrize("crash", [kill, stop])
async def test_a_service_that_ends_under_its_sessions_costs_nothing(
    own_stack: LocalStack, tmp_path: Path, crash: Callable[[LocalStack], None]
) -> None:
    stack = own_stack
    stack.add_user("ann")
    token = stack.token("ann")
    ledger = Ledger()
    with replica(stack, tmp_path / "replica") as (_, other):
        both = f"{stack.url},{other.removeprefix('grpc://')}"
        async with DispatchClient(other, token) as dispatch, asyncio.timeout(240):
            files = [File("n", f"{number:06d}") for number in range(1, FILES + 1)]
            project = await dispatch.create_project(files, attributes={"virtual": True}, worker_timeout=4)
            fleet: asyncio.Future[Any] = asyncio.gather(
                *(work(both, token, project.project_id, number, ledger) for number in range(WORKERS))
            )
            for share in (0.2, 0.5):
                reached: asyncio.Future[Any] = asyncio.ensure_future(ledger.reaches(int(FILES * share)))
                await asyncio.wait({fleet, reached}, return_when=asyncio.FIRST_COMPLETED)
                assert not fleet.done(), fleet.exception() or "the work was over before the crash"
                ledger.pace = SLOW
                await asyncio.to_thread(crash, stack)
                ledger.pace = PACE
            await fleet
            ended = await dispatch.get_project(project.project_id)
            handles = {handle.handle_id: handle async for handle in dispatch.handles(project.project_id)}

    assert ledger.results == [ProjectEnded("failed")] * WORKERS
    assert (ended.state, ended.counts.reserved, ended.counts.initial) == ("failed", 0, 0)
    accepted: Counter[int] = Counter()
    for file, verdict in ledger.files:
        taken = not file.lost and await file.settled()
        assert taken or file.lost or file.refusal
        if taken and verdict != "retry":
            accepted[file.handle.handle_id] += 1
            assert handles[file.handle.handle_id].state == verdict
    assert max(accepted.values()) == 1
    assert len(accepted) == FILES
    assert ended.counts.failed == FILES // 10
    # Reports are refused only where somebody else had the file meanwhile.
    refused = [file for file, _ in ledger.files if file.refusal]
    assert len(refused) <= WORKERS * CREDITS
    assert all(handle.attempts <= 4 for handle in handles.values())


WORKER = """
import asyncio, sys
from drayman.client import DispatchClient

async def work(project_id):
    async with DispatchClient() as dispatch, dispatch.work(project_id, "doomed", credits=20) as session:
        async for file in session:
            if file.handle.handle_id <= 5:
                file.done()
                await file.settled()
                continue
            print("busy", flush=True)
            await asyncio.Event().wait()

asyncio.run(work(int(sys.argv[1])))
"""


async def test_what_a_killed_worker_held_goes_to_others(stack: LocalStack) -> None:
    name = "owner-of-the-doomed"
    stack.add_user(name)
    token = stack.token(name)
    async with DispatchClient(stack.url, token) as dispatch, asyncio.timeout(30):
        files = [File("n", f"{number:06d}") for number in range(1, 41)]
        project = await dispatch.create_project(files, attributes={"virtual": True}, worker_timeout=1)
        environment = os.environ | {"DRAYMAN_URL": stack.url, "DRAYMAN_TOKEN": token}
        with subprocess.Popen(  # noqa: ASYNC220 - it is started once
            [sys.executable, "-c", WORKER, str(project.project_id)], env=environment, stdout=subprocess.PIPE
        ) as doomed:
            assert doomed.stdout is not None
            assert await asyncio.to_thread(doomed.stdout.readline) == b"busy\n"
            await asyncio.sleep(1.5)  # it lives: nothing is taken from it
            held = await dispatch.reserved(project.project_id, "doomed")
            assert len(held) == 20
            doomed.kill()
        attempts: Counter[int] = Counter()
        async with dispatch.work(project.project_id, "heir", credits=10) as session:
            async for file in session:
                async with file:
                    attempts[file.handle.attempts] += 1
        assert session.result == ProjectEnded("done")
        # what the doomed one had counts as an attempt: it broke off, and gave nothing back
        assert attempts == {1: 15, 2: 20}
        assert (await dispatch.get_project(project.project_id)).counts.done == 40
