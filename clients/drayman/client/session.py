"""A worker's session: files arrive ahead of need, results go back on the same stream, leases are kept all the while.

async with dispatch.work(project_id, "worker-1", credits=32) as session:
    async for file in session:
        async with file:
            process(file.handle)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import grpc
import grpc.aio

from drayman.client.credentials import Credentials
from drayman.client.errors import OverloadedError, UnavailableError, from_rpc_error
from drayman.client.files import Handle, Outcome, ProjectEnded, TimedOut, ended_of, handle_of, outcome
from drayman.client.patience import Patience
from drayman.client.standstill import standstill_of
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2

log = logging.getLogger("drayman.client")

#: Seconds that the end of a session waits for its last reports to reach the disk, while the service answers.
_FAREWELL = 30.0
#: Files in hand and reports under way together: what may be named when the session is taken up again.
_MOST_HOLDING = 1000
#: Reports, and characters of them, in one message at most.
_MOST_REPORTS = 1000
_LONGEST_REPORTS = 1_000_000
#: What is kept of the reason of a failure, in characters.
_LONGEST_CODE = 200
_LONGEST_MESSAGE = 4000
#: What gRPC calls a stream that ended, for whatever reason, just when something was written to it. The next one says why.
_WRITE_FAILED = "Internal error from Core"
#: A session that has nothing to say shows itself this much more often than it must.
_HEARTBEATS = 2


class FileFailed(Exception):
    """Raise it inside `async with file` to say that the file failed. `code` and `message` are kept; `retry`: it may be tried again."""

    def __init__(self, code: str = "", message: str = "", *, retry: bool = True) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message
        self.retry = retry


class FileReleased(Exception):
    """Raise it inside `async with file` to give the file back; the attempt does not count."""


class FileInHand:
    """A file that this worker holds. Used as a context it reports by itself; or call `done`, `failed` or `release`.

    Leaving the context reports done. An exception reports failed, may be tried again, with the exception's type as code; one of the
    session's `final_errors` reports failed for good; `FileFailed` says which; `FileReleased` and a cancellation give the file back.
    Exceptions end there, logged by `drayman.client`, so that one bad file does not end the worker; cancellations and what is no
    `Exception` go on. Where the lease is lost the work inside is cancelled, and the task goes on after the context.
    """

    def __init__(self, session: WorkSession, handle: Handle) -> None:
        self.handle = handle
        #: The lease is gone (timed out, restarted): what becomes of the file is not this worker's to say any more.
        self.lost = False
        #: Why a report was refused; None = it was not, or there was none yet.
        self.refusal: str | None = None
        self._session = session
        self._task: asyncio.Task[Any] | None = None
        self._cancellations = 0
        self._interrupted = False
        self._tell: Callable[[], object] = lambda: None
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def done(self) -> None:
        """Say that the file was processed."""
        self.report("done")

    def failed(self, *, retry: bool = True, code: str = "", message: str = "") -> None:
        """Say that the file failed, and whether it may be tried again."""
        self.report("failed_retry" if retry else "failed_final", code, message)

    def release(self) -> None:
        """Give the file back; the attempt does not count."""
        self.report("released")

    def report(self, verdict: Outcome, code: str = "", message: str = "") -> None:
        """Say what became of the file; the first word counts. `code` and `message` are kept in the history."""
        if not self.lost:
            self._session.report(self, verdict, code, message)

    def on_lost(self, tell: Callable[[], object]) -> None:
        """Have `tell` called when the lease is lost while the file is in hand; at once if it is."""
        self._tell = tell
        if self.lost:
            tell()

    async def settled(self) -> bool:
        """Wait until the report is on disk; False if it was refused, or the lease is lost. Raises what ended the session first."""
        return await asyncio.shield(self._over)

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancellations, self._interrupted = task, task.cancelling(), False
        if self.lost:
            self._interrupt(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._interrupted and task is not None:
            return await self._go_on(task, error)
        if error is None:
            if not self._said:
                self.done()
            return False
        if isinstance(error, FileFailed):
            self.failed(retry=error.retry, code=error.code, message=error.message)
        elif isinstance(error, FileReleased) or not isinstance(error, Exception):
            self.release()
        else:
            log.warning("%s failed", self.handle.did, exc_info=error)
            final = isinstance(error, self._session.final_errors)
            self.failed(retry=not final, code=type(error).__name__, message=str(error))
        return isinstance(error, Exception)

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        self._interrupted = True
        task.cancel()

    async def _go_on(self, task: asyncio.Task[Any], error: BaseException | None) -> bool:
        """It was us who cancelled the task: unless somebody else did so too, it goes on with the next file, whatever came of this one."""
        cancelled_by_others = task.uncancel() > self._cancellations
        if not isinstance(error, asyncio.CancelledError):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # the cancellation may still be on its way
            if cancelled_by_others:
                raise asyncio.CancelledError
        if isinstance(error, Exception):
            log.warning("%s is lost, and the work on it failed", self.handle.did, exc_info=error)
        return isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and not cancelled_by_others)

    @property
    def _said(self) -> bool:
        return not self._session.holds(self)

    def lose(self) -> None:
        """The lease is gone: end the work on the file, if it is going on in a context."""
        self.lost = True
        if not self._over.done():
            self._over.set_result(False)
        if self._task is not None and not self._interrupted:
            self._interrupt(self._task)
        self._tell()

    def settle(self, refusal: str | None) -> None:
        """The report is on disk, or refused."""
        self.refusal = refusal
        if not self._over.done():
            self._over.set_result(refusal is None)

    def give_up(self, error: BaseException) -> None:
        """The session is over, and nobody knows whether the report arrived."""
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # nobody has to ask


class WorkSession:
    """A session with a project, as an async iterator of files. Made by `DispatchClient.work`; use it in `async with`.

    It survives the loss of the service and moves to another replica: what is in hand stays in hand, reports are sent again. The iteration
    ends with the project, after `idle_timeout` seconds without a file, or after `stop`; `result` says why. Leaving the context gives back
    what was not started and waits until every report is on disk. Raises DraymanError.
    """

    def __init__(
        self,
        stub: Any,
        credentials: Credentials,
        project_id: int,
        worker_id: str,
        *,
        credits: int,  # noqa: A002 - the contract's word
        cpu_site: str,
        idle_timeout: float | None,
        final_errors: tuple[type[Exception], ...],
        patience: float,
    ) -> None:
        if not 1 <= credits <= 1000:
            raise ValueError(f"credits {credits}: expected 1 to 1,000")
        #: Exceptions that make a file fail for good.
        self.final_errors = final_errors
        #: Why the iteration ended: the project did, there was nothing for `idle_timeout`, or None = it was stopped.
        self.result: ProjectEnded | TimedOut | None = None
        self._stub = stub
        self._credentials = credentials
        self._start = pb.StartWork(
            project_id=project_id, worker_id=worker_id, cpu_site=cpu_site, session_id=str(uuid4())
        )
        self._allowance = credits
        self._idle_timeout = idle_timeout
        self._patience = Patience(patience)
        self._open = 0
        self._files: deque[FileInHand] = deque()
        self._held: dict[int, FileInHand] = {}
        self._to_say: deque[pb.FileReport] = deque()
        self._unacknowledged: deque[tuple[pb.FileReport, FileInHand]] = deque()
        self._attributes = "{}"
        self._heartbeat: float | None = None
        self._progress = pb.Progress()
        self._stopping = False
        self._closing = False
        self._change = asyncio.Event()
        self._something_to_say = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._refused = False

    # --- what a worker does ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="drayman session")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self.stop()
        for file in list(self._held.values()):
            file.release()
        self._closing = True
        self._something_to_say.set()
        try:
            # whoever leaves by an error or is cancelled does not wait for a service that is away
            async with asyncio.timeout(_FAREWELL + (self._patience.seconds if kind is None else 0.0)):
                await asyncio.shield(self._task)
        except TimeoutError:
            if kind is None:
                raise UnavailableError("the last reports were not acknowledged in time") from None
        except Exception:
            if kind is None:
                raise
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def stop(self) -> None:
        """Take no more files: the iteration ends, and what was not started is given back. Files in hand may be finished."""
        self._stopping = True
        while self._files:
            self._files.popleft().release()
        self._change.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FileInHand:
        """Wait for the next file."""
        if self._task is None:
            raise RuntimeError("a session is used in `async with`")
        end = None if self._idle_timeout is None else time.monotonic() + self._idle_timeout
        while True:
            while self._files:
                file = self._files.popleft()
                if not file.lost:
                    return file
            if self._error is not None:
                raise self._error
            if self._stopping or self.result is not None:
                raise StopAsyncIteration
            self._change.clear()
            try:
                async with asyncio.timeout(None if end is None else max(0.0, end - time.monotonic())):
                    await self._change.wait()
            except TimeoutError:
                standstill = standstill_of(self._progress)
                self.result = self.result or TimedOut(standstill.counts, standstill.hindrances)
                self.stop()

    def holds(self, file: FileInHand) -> bool:
        """Whether a file is this worker's and was not reported yet."""
        return self._held.get(file.handle.handle_id) is file

    def report(self, file: FileInHand, verdict: Outcome, code: str, message: str) -> None:
        """Say what became of a file. A second report of it is ignored."""
        if not self.holds(file):
            return
        handle = file.handle
        report = pb.FileReport(
            handle_id=handle.handle_id,
            attempt=handle.attempts,
            outcome=outcome(verdict),
            code=_storable(code, _LONGEST_CODE),
            message=_storable(message, _LONGEST_MESSAGE),
        )
        del self._held[handle.handle_id]
        self._to_say.append(report)
        self._unacknowledged.append((report, file))
        self._something_to_say.set()

    # --- the stream --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Keep a stream open until the session is closed."""
        try:
            while True:
                try:
                    if await self._one_stream():
                        return
                    # that replica is shutting down: another one, or its successor, goes on
                    await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - spreads a fleet
                except (UnavailableError, OverloadedError) as error:
                    await self._patience.pause(error)
        except Exception as error:
            self._error = error
            raise
        finally:
            self._end()

    def _end(self) -> None:
        """Leave nobody waiting."""
        for file in self._held.values():
            file.lose()
        error = self._error or UnavailableError("the session ended before the report was acknowledged")
        for _, file in self._unacknowledged:
            file.give_up(error)
        self._change.set()

    async def _one_stream(self) -> bool:
        """Run the session on one stream; True if it is over, False if it goes on elsewhere. Raises DraymanError."""
        metadata = await self._credentials.fresh()
        call = self._stub.Work(metadata=metadata)
        speaking: asyncio.Task[None] | None = None
        try:
            with suppress(asyncio.InvalidStateError):  # it is over already: reading says why
                await call.write(self._opening())
            async for response in call:
                self._patience.renew()
                self._refused = False
                if response.HasField("started"):
                    self._begin(response.started)
                    speaking = asyncio.create_task(self._speak(call), name="drayman session, speaking")
                self._heed(response)
                if response.draining:
                    return False
            if self._closing and not self._unacknowledged:
                return True
            raise UnavailableError("the session's stream ended early", code=grpc.StatusCode.UNAVAILABLE)
        except grpc.aio.AioRpcError as error:
            if error.details() == _WRITE_FAILED:
                raise UnavailableError("the stream broke", code=grpc.StatusCode.UNAVAILABLE) from None
            problem = from_rpc_error(error)
        finally:
            if speaking is not None:
                speaking.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await speaking
            call.cancel()
        # a token that has expired is replaced, and the session goes on; unless that did not help the last time
        if not self._refused and await self._credentials.cures(problem, metadata):
            self._refused = True
            raise UnavailableError("the token expired on the way", code=grpc.StatusCode.UNAVAILABLE)
        raise problem

    def _opening(self) -> pb.WorkRequest:
        """Everything a replica must know that has never heard of this session, or not of its latest."""
        start = pb.StartWork()
        start.CopyFrom(self._start)
        for file in self._held.values():
            start.holding.add(handle_id=file.handle.handle_id, attempt=file.handle.attempts)
        for report, _ in self._unacknowledged:
            start.holding.add(handle_id=report.handle_id, attempt=report.attempt)
        self._open = 0
        return pb.WorkRequest(start=start)

    def _begin(self, started: pb.WorkStarted) -> None:
        self._attributes = started.project_attributes_json
        self._heartbeat = None
        if started.HasField("renew_interval"):
            self._heartbeat = started.renew_interval.ToTimedelta().total_seconds() / _HEARTBEATS
        self._to_say = deque(report for report, _ in self._unacknowledged)
        self._something_to_say.set()

    async def _speak(self, call: Any) -> None:
        """Send what there is to say, all of it in one message; and a sign of life where there is nothing."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await self._something_to_say.wait()
            self._something_to_say.clear()
            reports = self._next_reports()
            credit = self._credit()
            self._open += credit
            await call.write(pb.WorkRequest(credits=credit, reports=reports))
            if self._to_say:
                self._something_to_say.set()
            elif self._closing and not self._held:
                await call.done_writing()
                return

    def _next_reports(self) -> list[pb.FileReport]:
        """Take as many reports as one message may hold."""
        reports: list[pb.FileReport] = []
        length = 0
        while self._to_say and len(reports) < _MOST_REPORTS and length < _LONGEST_REPORTS:
            reports.append(self._to_say.popleft())
            length += len(reports[-1].code) + len(reports[-1].message)
        return reports

    def _credit(self) -> int:
        """How many more files may come."""
        if self._stopping or self.result is not None:
            return 0
        most = min(self._allowance, _MOST_HOLDING - len(self._unacknowledged))
        return max(most - len(self._held) - self._open, 0)

    def _heed(self, response: pb.WorkResponse) -> None:
        if response.acknowledged:
            refused = {(one.handle_id, one.attempt): one.refusal for one in response.refused}
            for _ in range(response.acknowledged):
                report, file = self._unacknowledged.popleft()
                file.settle(refused.get((report.handle_id, report.attempt)))
            if self._credit():
                self._something_to_say.set()
        for lease in response.lost:
            file_lost = self._held.get(lease.handle_id)
            if file_lost is not None and file_lost.handle.attempts == lease.attempt:
                del self._held[lease.handle_id]
                file_lost.lose()
                self._something_to_say.set()
        self._open -= len(response.files)
        for handle in response.files:
            self._take(handle)
        if response.HasField("progress"):
            self._progress = response.progress
        if response.HasField("ended"):
            self._project_ended(ended_of(response.ended))
        if response.files or response.HasField("ended"):
            self._change.set()

    def _project_ended(self, ended: ProjectEnded) -> None:
        self.result = ended
        if ended.state == "cancelled":  # nobody wants what was not started
            while self._files:
                self._files.popleft().release()

    def _take(self, handle: project_pb2.Handle) -> None:
        before = self._held.pop(handle.handle_id, None)
        if before is not None:
            before.lose()
        file = FileInHand(self, handle_of(handle, self._attributes))
        self._held[handle.handle_id] = file
        if self._stopping:
            file.release()
        else:
            self._files.append(file)


def _storable(text: str, most: int) -> str:
    """What can be sent and stored of a text: names of files that are no Unicode get into messages of exceptions."""
    return text[:most].replace("\0", "\ufffd").encode(errors="replace").decode()
