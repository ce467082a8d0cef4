"""The file loop: take a file, do something with it, say what became of it, again."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from drayman.client.dispatch import DispatchClient
from drayman.client.errors import DraymanError
from drayman.client.files import Handle, Outcome, ProjectEnded, Report, TimedOut

#: A lease is renewed when this share of it has passed.
_RENEW_AT = 1 / 3
_RETRY_SECONDS = 1.0


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

    Leases are renewed while actions run. An action that raises has failed, and may be tried again; one whose lease was lost is
    cancelled. A file that has been reserved `max_attempts` times is not tried again.
    """

    def __init__(
        self,
        dispatch: DispatchClient,
        project_id: int,
        worker_id: str,
        action: Action,
        *,
        slots: int = 1,
        cpu_site: str = "",
        idle_timeout: float | None = None,
        max_attempts: int | None = None,
        on_result: Callable[[Result], None] = lambda _result: None,
    ) -> None:
        self._dispatch = dispatch
        self._project_id = project_id
        self._worker_id = worker_id
        self._action = action
        self._slots = slots
        self._cpu_site = cpu_site
        self._idle_timeout = idle_timeout
        self._max_attempts = max_attempts
        self._on_result = on_result
        self._waiting: set[asyncio.Task[Handle | TimedOut | ProjectEnded]] = set()
        self._held: list[_Held] = []
        self._stopping = False
        self._aborting = False
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Take no more files; those in hand are finished."""
        self._stopping = True
        for task in self._waiting:
            task.cancel()

    def abort(self) -> None:
        """Take no more files and give back those in hand, at no attempt."""
        self._aborting = True
        self.stop()
        for held in self._held:
            held.task.cancel()

    async def run(self) -> ProjectEnded | TimedOut | None:
        """Work; returns why it ended: the project did, there was nothing for `idle_timeout`, or None = it was stopped.

        Raises DraymanError, and what `on_result` raises.
        """
        renewing = asyncio.create_task(self._renew())
        ends: list[ProjectEnded | TimedOut | None] = []
        try:
            async with asyncio.TaskGroup() as group:
                slots = [group.create_task(self._slot()) for _ in range(self._slots)]
            ends = [slot.result() for slot in slots]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what ended one slot ended all
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
        return next((end for end in ends if end is not None), None)

    async def _slot(self) -> ProjectEnded | TimedOut | None:
        while not self._stopping:
            got = await self._take()
            if not isinstance(got, Handle):
                return got
            await self._work_on(got)
        return None

    async def _take(self) -> Handle | TimedOut | ProjectEnded | None:
        wish = self._dispatch.next_file(
            self._project_id, self._worker_id, cpu_site=self._cpu_site, timeout=self._idle_timeout
        )
        task = asyncio.ensure_future(wish)
        self._waiting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self._stopping or not task.cancelled():
                task.cancel()
                raise
            return None
        finally:
            self._waiting.discard(task)

    async def _work_on(self, handle: Handle) -> None:
        held = _Held(handle, asyncio.ensure_future(self._action(handle)))
        self._held.append(held)
        self._changed.set()
        begin = time.monotonic()
        if self._aborting:
            held.task.cancel()
        try:
            verdict = await held.task
        except asyncio.CancelledError:
            verdict = Verdict("released")
            if not held.task.cancelled():  # it is us who are cancelled
                held.task.cancel()
                await asyncio.shield(self._say(handle, verdict))
                raise
            if held.lost:
                return  # what became of it is not ours to say any more
        except Exception as error:
            verdict = Verdict("failed_retry", type(error).__name__, str(error))
        finally:
            self._held.remove(held)
        if verdict.outcome == "failed_retry" and self._max_attempts and handle.attempts >= self._max_attempts:
            verdict = dataclasses.replace(verdict, outcome="failed_final")
        seconds = time.monotonic() - begin
        kept = await self._say(handle, verdict)
        if verdict.outcome != "released":
            self._on_result(Result(handle, verdict, seconds, kept))

    async def _say(self, handle: Handle, verdict: Verdict) -> bool:
        refusals = await self._dispatch.report([Report(handle, verdict.outcome, verdict.code, verdict.message)])
        return refusals == [None]

    async def _renew(self) -> None:
        """Keep the leases of what runs; what turns out to be lost is cancelled."""
        while True:
            self._changed.clear()
            due = min((held.renew_at for held in self._held), default=math.inf)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if due == math.inf else due - time.monotonic())
            now = time.monotonic()
            # those that are nearly due go along
            leases = [held for held in self._held if held.renew_at - now < held.span / 2]
            if min((held.renew_at for held in leases), default=math.inf) > now:
                continue
            try:
                lost = await self._dispatch.renew([held.handle for held in leases])
            except DraymanError:
                await asyncio.sleep(_RETRY_SECONDS)  # a service that is away comes back, or the leases end
                continue
            for held in leases:
                held.renewed(now, lost)


class _Held:
    """A file in hand."""

    def __init__(self, handle: Handle, task: asyncio.Future[Verdict]) -> None:
        self.handle = handle
        self.task = task
        self.lost = False
        self.span = math.inf  # seconds between renewals
        if handle.lease_until is not None and handle.reserved_since is not None:
            self.span = (handle.lease_until - handle.reserved_since).total_seconds() * _RENEW_AT
        self.renew_at = time.monotonic() + self.span

    def renewed(self, now: float, lost: list[Handle]) -> None:
        """Take note of a renewal at `now`."""
        self.renew_at = now + self.span
        if self.handle in lost and not self.task.done():
            self.lost = True
            self.task.cancel()
