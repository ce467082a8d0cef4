"""The file loop: take a file, do something with it, say what became of it, again. One session for all that run side by side."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from drayman.client.dispatch import DispatchClient
from drayman.client.files import Handle, Outcome, ProjectEnded, TimedOut
from drayman.client.session import FileInHand, WorkSession


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an action says of a file. `code` and `message` are kept in the history of a failure; `output` is the caller's own."""

    outcome: Outcome
    code: str = ""
    message: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A file that is over for this worker. `seconds` is what the action took. Without `kept` the report was refused: it was too late."""

    handle: Handle
    verdict: Verdict
    seconds: float
    kept: bool


Action = Callable[[Handle], Awaitable[Verdict]]


class FileLoop:
    """Works on a project with `slots` files at a time, until it ends, `idle_timeout` seconds bring no file, or `stop` is called.

    `prefetch` more files are held ready, so that no slot waits for the service. Leases are kept while actions run. An action that raises
    has failed, and may be tried again; one whose lease was lost is cancelled. A file that has been reserved `max_attempts` times is not
    tried again.
    """

    def __init__(
        self,
        dispatch: DispatchClient,
        project_id: int,
        worker_id: str,
        action: Action,
        *,
        slots: int = 1,
        prefetch: int = 0,
        cpu_site: str = "",
        idle_timeout: float | None = None,
        max_attempts: int | None = None,
        on_result: Callable[[Result], None] = lambda _result: None,
    ) -> None:
        self._session = dispatch.work(
            project_id, worker_id, credits=slots + prefetch, cpu_site=cpu_site, idle_timeout=idle_timeout
        )
        self._action = action
        self._slots = slots
        self._max_attempts = max_attempts
        self._on_result = on_result
        self._running: set[asyncio.Future[Verdict]] = set()
        self._aborting = False

    def stop(self) -> None:
        """Take no more files; those in hand are finished."""
        self._session.stop()

    def abort(self) -> None:
        """Take no more files and give back those in hand, at no attempt."""
        self._aborting = True
        self.stop()
        for action in self._running:
            action.cancel()

    async def run(self) -> ProjectEnded | TimedOut | None:
        """Work; returns why it ended: the project did, there was nothing for `idle_timeout`, or None = it was stopped.

        Raises DraymanError, and what `on_result` raises.
        """
        try:
            async with self._session as session, asyncio.TaskGroup() as group:
                for _ in range(self._slots):
                    group.create_task(self._slot(session))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what ended one slot ended all
        return self._session.result

    async def _slot(self, session: WorkSession) -> None:
        async for file in session:
            begin = time.monotonic()
            verdict = await self._act(file)
            if verdict is None:
                continue
            if verdict.outcome == "failed_retry" and self._max_attempts and file.handle.attempts >= self._max_attempts:
                verdict = dataclasses.replace(verdict, outcome="failed_final")
            seconds = time.monotonic() - begin
            file.report(verdict.outcome, verdict.code, verdict.message)
            if verdict.outcome != "released":
                self._on_result(Result(file.handle, verdict, seconds, kept=await file.settled()))

    async def _act(self, file: FileInHand) -> Verdict | None:
        """Run the action; None if the lease was lost: what became of the file is not ours to say any more."""
        action = asyncio.ensure_future(self._action(file.handle))
        self._running.add(action)
        file.on_lost(action.cancel)
        if self._aborting:
            action.cancel()
        try:
            return await action
        except asyncio.CancelledError:
            if not action.cancelled():  # it is us who are cancelled
                action.cancel()
                file.release()
                raise
            return None if file.lost else Verdict("released")
        except Exception as error:
            return Verdict("failed_retry", type(error).__name__, str(error))
        finally:
            self._running.discard(action)
