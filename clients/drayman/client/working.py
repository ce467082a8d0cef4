"""The worker's side of dispatch: take files, say what became of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import grpc
import grpc.aio

from drayman.client.calls import Client
from drayman.client.errors import DraymanError, OverloadedError, UnavailableError
from drayman.client.files import (
    Handle,
    ProjectEnded,
    Report,
    TimedOut,
    duration,
    ended_of,
    handle_of,
    outcome,
    reserved_of,
)
from drayman.client.patience import Patience
from drayman.client.session import WorkSession
from drayman.client.standstill import Standstill, standstill_of
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2

#: Reasons for which a report is refused, whatever else is in the request.
_REFUSALS = ("HANDLE_NOT_FOUND", "WRONG_WORKER", "NOT_RESERVED", "STALE_ATTEMPT")
#: Seconds that a cancelled wish may take to give back what it got.
_GOODBYE = 5.0


class WorkingCalls(Client):
    """Calls of HandleService. Methods raise DraymanError.

    A wait for a file survives the loss of the service: it is asked again, with the same request id, so that a file that was reserved
    just before is handed over and not lost.
    """

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._handles = handle_service_pb2_grpc.HandleServiceStub(channel)

    async def next_file(
        self,
        project_id: int,
        worker_id: str,
        *,
        cpu_site: str = "",
        timeout: float | None = None,
        on_wait: Callable[[Standstill], None] | None = None,
        progress_interval: float | None = None,
    ) -> Handle | TimedOut | ProjectEnded:
        """Wait for a file. `timeout` in seconds; None = until there is one or the project ends.

        `on_wait` is called, with what stands in the way, when it turns out that there is nothing to hand out yet; and again every
        `progress_interval` seconds, if that is given.
        """
        end = None if timeout is None else time.monotonic() + timeout
        request = pb.NextFileRequest(
            project_id=project_id,
            worker_id=worker_id,
            cpu_site=cpu_site,
            request_id=str(uuid4()),
            progress_interval=None if progress_interval is None else duration(progress_interval),
        )
        try:
            return await self._next_file(request, end, on_wait)
        except asyncio.CancelledError:
            # the file may have been on its way to us
            await asyncio.shield(self._give_back(request))
            raise

    async def _next_file(
        self, request: pb.NextFileRequest, end: float | None, on_wait: Callable[[Standstill], None] | None
    ) -> Handle | TimedOut | ProjectEnded:
        patience = Patience(self._patience, end)
        while True:
            if end is not None:
                request.timeout.CopyFrom(duration(max(0.0, end - time.monotonic())))
            try:
                event = await self._wait(request, on_wait)
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)
                request.resend = True
                continue
            patience.renew()
            kind = event.WhichOneof("event")
            if kind == "reserved":
                return reserved_of(event.reserved)
            if kind == "project_ended":
                return ended_of(event.project_ended)
            if event.timed_out.cause != pb.TimedOut.CAUSE_DRAINING or (end is not None and time.monotonic() >= end):
                return _timed_out(event.timed_out)
            # that replica is shutting down: another one, or its successor, goes on
            await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - spreads a fleet

    async def _give_back(self, request: pb.NextFileRequest) -> None:
        """Release what a cancelled wish got. Nothing can be done here about a service that is away: the lease ends by itself."""
        request.resend = True
        request.timeout.CopyFrom(duration(0))
        try:
            async with asyncio.timeout(_GOODBYE):
                event = await self._wait(request, None)
                if event.HasField("reserved"):
                    await self._report([Report(reserved_of(event.reserved), "released")])
        except (DraymanError, TimeoutError):
            pass

    async def reserve(
        self, project_id: int, worker_id: str, count: int, *, cpu_site: str = "", timeout: float | None = None
    ) -> list[Handle] | TimedOut | ProjectEnded:
        """Wait for up to `count` files (at most 1,000), at least one. `timeout` as in `next_file`."""
        request = pb.ReserveFilesRequest(
            project_id=project_id,
            worker_id=worker_id,
            cpu_site=cpu_site,
            max_files=count,
            request_id=str(uuid4()),
            timeout=None if timeout is None else duration(timeout),
        )
        # an open-ended wait has no deadline; others get room for the answer
        deadline = None if timeout is None else timeout + self._timeout
        reply = await self._ask(self._handles.ReserveFiles, request, deadline)
        if reply.HasField("project_ended"):
            return ended_of(reply.project_ended)
        if not reply.files:
            return _timed_out(reply.timed_out)
        return [reserved_of(file) for file in reply.files]

    def work(
        self,
        project_id: int,
        worker_id: str,
        *,
        credits: int = 1,  # noqa: A002 - the contract's word
        cpu_site: str = "",
        idle_timeout: float | None = None,
        final_errors: tuple[type[Exception], ...] = (),
    ) -> WorkSession:
        """Open a session: an async iterator of files, of which `credits` (1 to 1,000) are held at a time; see `drayman.client.session`.

        It ends with the project, or when `idle_timeout` seconds (None = never) bring no file. A file whose context ends with one of
        `final_errors` has failed for good.
        """
        return WorkSession(
            self._handles,
            self.credentials,
            project_id,
            worker_id,
            credits=credits,
            cpu_site=cpu_site,
            idle_timeout=idle_timeout,
            final_errors=final_errors,
            patience=self._patience,
        )

    async def report(self, reports: Sequence[Report]) -> list[DraymanError | None]:
        """Say what became of files that one worker holds of one project; at most 1,000. One entry each: None, or why it was refused."""
        if not reports:
            return []
        try:
            results = (await self._report(reports)).results
        except DraymanError as error:
            # the refusal of a single report is the call's own error
            if len(reports) == 1 and error.reason in _REFUSALS:
                return [error]
            raise
        return [
            DraymanError(result.refusal_message, code=grpc.StatusCode.PERMISSION_DENIED, reason=result.refusal)
            if result.refusal
            else None
            for result in results
        ]

    async def done(self, handle: Handle) -> None:
        """Say that a file was processed."""
        await self._report([Report(handle, "done")])

    async def failed(self, handle: Handle, *, retry: bool = True, code: str = "", message: str = "") -> None:
        """Say that a file failed, and whether it may be tried again."""
        await self._report([Report(handle, "failed_retry" if retry else "failed_final", code, message)])

    async def release(self, handle: Handle) -> None:
        """Give a file back that was not started; the attempt does not count."""
        await self._report([Report(handle, "released")])

    async def renew(self, handles: Sequence[Handle]) -> list[Handle]:
        """Extend the leases of files that one worker holds of one project; returns those that are lost: stop working on them."""
        if not handles:
            return []
        request = pb.RenewLeaseRequest(
            project_id=handles[0].project_id,
            worker_id=handles[0].worker_id or "",
            leases=[pb.Lease(handle_id=handle.handle_id, attempt=handle.attempts) for handle in handles],
        )
        reply = await self._call(self._handles.RenewLease, request)
        lost = {(lease.handle_id, lease.attempt) for lease in reply.lost}
        return [handle for handle in handles if (handle.handle_id, handle.attempts) in lost]

    async def reserved(self, project_id: int, worker_id: str = "", *, with_replicas: bool = False) -> list[Handle]:
        """Read what is reserved now, by one worker or by all."""
        request = pb.ListReservedRequest(project_id=project_id, worker_id=worker_id, with_replicas=with_replicas)
        async with self._stream(self._handles.ListReserved, request) as replies:
            return [handle_of(handle) async for reply in replies for handle in reply.handles]

    async def get_handle(self, project_id: int, namespace: str, name: str) -> Handle:
        """Read one handle with all its replicas."""
        request = pb.GetHandleRequest(project_id=project_id, did=project_pb2.Did(namespace=namespace, name=name))
        return handle_of((await self._call(self._handles.GetHandle, request)).handle)

    async def _wait(
        self, request: pb.NextFileRequest, on_wait: Callable[[Standstill], None] | None
    ) -> pb.NextFileResponse:
        last: pb.NextFileResponse | None = None
        async with self._stream(self._handles.NextFile, request) as replies:
            # to the end and not only to the file: cancelling it then would look as if we had gone before we got it
            async for reply in replies:
                last = reply
                if on_wait is not None and reply.HasField("progress"):
                    on_wait(standstill_of(reply.progress))
        if last is None or last.HasField("progress"):
            raise UnavailableError("the stream ended without a result", code=grpc.StatusCode.UNAVAILABLE)
        return last

    async def _report(self, reports: Sequence[Report]) -> pb.ReportResponse:
        first = reports[0].handle
        request = pb.ReportRequest(
            project_id=first.project_id,
            worker_id=first.worker_id or "",
            reports=[
                pb.FileReport(
                    handle_id=report.handle.handle_id,
                    attempt=report.handle.attempts,
                    outcome=outcome(report.outcome),
                    code=report.code,
                    message=report.message,
                )
                for report in reports
            ],
            request_id=str(uuid4()),
        )
        patience = Patience(self._patience, None)
        while True:
            try:
                reply: pb.ReportResponse = await self._call(self._handles.Report, request)
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)  # sent again, the same request is answered as the first time
            else:
                return reply


def _timed_out(message: pb.TimedOut) -> TimedOut:
    standstill = standstill_of(message)
    return TimedOut(standstill.counts, standstill.hindrances)
