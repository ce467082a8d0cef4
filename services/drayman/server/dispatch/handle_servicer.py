"""HandleService: the worker's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Self
from uuid import UUID

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2
from drayman.server.dispatch import messages
from drayman.server.dispatch.leases import explain_losses
from drayman.server.dispatch.offering import Offering
from drayman.server.dispatch.project_queue import ProjectQueue
from drayman.server.dispatch.reading import HandleReader
from drayman.server.dispatch.reports import MOST_REPORTS, outcome_of, refusal
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.session import Session
from drayman.server.dispatch.settler import Settled, Settler
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.dispatch.wishes import Ended, Given, Waited, Wish
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid

_MOST = 1000
#: Bytes; it is the key of an index.
_LONGEST_WORKER_ID = 1000


class HandleServicer:
    """Take a file, say what became of it."""

    def __init__(self, store: Store, reserver: Reserver, settler: Settler) -> None:
        self._store = store
        self._reserver = reserver
        self._settler = settler
        self._reader = HandleReader(store)
        self._offering = Offering(store, reserver)

    # --- taking ------------------------------------------------------------------------------------------------------

    async def NextFile(self, request: pb.NextFileRequest, call: Call) -> None:
        """Wait for a file; the stream ends with what came of it."""
        queue, standing = await self._work_on(request.project_id, request.worker_id, call, request.cpu_site)
        request_id = messages.request_uuid(request.request_id)
        if request_id is not None and (request.resend or call.is_retry()):
            rows = await self._store.redeliver(request.project_id, request.worker_id, request_id)
            if rows:
                files = await self._files(standing, request.worker_id, request.cpu_site, rows[:1], shift=0)
                await call.send(pb.NextFileResponse(reserved=files[0]))
                return
        interval = _span(request, "progress_interval")
        timeout = _span(request, "timeout")
        async with _Wait(self._reserver, queue, request, want=1, request_id=request_id, timeout=timeout) as wait:
            while (result := await wait.result(interval)) is None:
                progress = pb.Progress(
                    counts=messages.counts(await queue.standing()),
                    hindrances=await self._hindrances(queue, request.cpu_site),
                )
                await call.send(pb.NextFileResponse(progress=progress))
            if isinstance(result, Given):
                files = await self._files(standing, request.worker_id, request.cpu_site, result.rows)
                # From here on the file counts as handed over: a caller who leaves during the write may have read it.
                wait.handed_over()
                await call.send(pb.NextFileResponse(reserved=files[0]))
            elif isinstance(result, Ended):
                await call.send(pb.NextFileResponse(project_ended=messages.project_ended(result.standing)))
            else:
                await call.send(pb.NextFileResponse(timed_out=await self._timed_out(result, queue, request.cpu_site)))

    async def ReserveFiles(self, request: pb.ReserveFilesRequest, call: Call) -> pb.ReserveFilesResponse:
        """Wait for files, in one answer."""
        if not 0 <= request.max_files <= _MOST:
            raise invalid("max_files", f"max_files {request.max_files}: expected 1 to {_MOST}, or 0 for 1")
        queue, standing = await self._work_on(request.project_id, request.worker_id, call, request.cpu_site)
        request_id = messages.request_uuid(request.request_id)
        if request_id is not None and (request.resend or call.is_retry()):
            rows = await self._store.redeliver(request.project_id, request.worker_id, request_id)
            if rows:
                files = await self._files(standing, request.worker_id, request.cpu_site, rows, shift=0)
                return pb.ReserveFilesResponse(files=files)
        timeout = _span(request, "timeout")
        async with _Wait(
            self._reserver, queue, request, want=request.max_files or 1, request_id=request_id, timeout=timeout
        ) as wait:
            while (result := await wait.result(None)) is None:
                pass
            if isinstance(result, Given):
                files = await self._files(standing, request.worker_id, request.cpu_site, result.rows)
                wait.handed_over()
                return pb.ReserveFilesResponse(files=files)
        if isinstance(result, Ended):
            return pb.ReserveFilesResponse(project_ended=messages.project_ended(result.standing))
        return pb.ReserveFilesResponse(timed_out=await self._timed_out(result, queue, request.cpu_site))

    async def _files(
        self, standing: Standing, worker_id: str, cpu_site: str, rows: Sequence[Row], *, shift: int = 1
    ) -> list[pb.ReservedFile]:
        handles = await self._offering.handles(standing, worker_id, cpu_site, rows, shift=shift)
        return [pb.ReservedFile(handle=handle, project_attributes_json=standing.attributes) for handle in handles]

    async def _timed_out(self, result: Waited, queue: ProjectQueue, cpu_site: str) -> pb.TimedOut:
        cause = pb.TimedOut.CAUSE_DRAINING if result.draining else pb.TimedOut.CAUSE_TIMEOUT
        counts = messages.counts(await queue.standing())
        return pb.TimedOut(cause=cause, counts=counts, hindrances=await self._hindrances(queue, cpu_site))

    async def _hindrances(self, queue: ProjectQueue, cpu_site: str) -> project_pb2.Hindrances:
        return messages.hindrances(await self._reserver.hindrances(queue, cpu_site))

    async def Work(self, requests: AsyncIterator[pb.WorkRequest], call: Call) -> None:
        """Run a worker's session."""
        first = await anext(requests, None)
        if first is None or not first.HasField("start"):
            raise invalid("start", "the first message must have `start`")
        start = first.start
        session_id = messages.request_uuid(start.session_id, "start.session_id")
        if session_id is None:
            raise invalid("start.session_id", "a session has an id: a UUID")
        if len(start.holding) > _MOST:
            raise invalid("start.holding", f"{len(start.holding)} leases: at most {_MOST}")
        queue, _ = await self._work_on(start.project_id, start.worker_id, call, start.cpu_site, within="start.")
        session = Session(self._store, self._reserver, self._settler, self._offering, queue, start, session_id)
        await session.run(requests, first, call.send)

    # --- reporting ---------------------------------------------------------------------------------------------------

    async def Report(self, request: pb.ReportRequest, call: Call) -> pb.ReportResponse:
        """Take reports."""
        if len(request.reports) > MOST_REPORTS:
            raise invalid("reports", f"{len(request.reports)} reports in one request: at most {MOST_REPORTS}")
        await self._work_on(request.project_id, request.worker_id, call)
        request_id = messages.request_uuid(request.request_id)
        outcomes = [outcome_of(report, f"reports[{number}]") for number, report in enumerate(request.reports)]
        handle_ids = await self._handle_ids(request)
        said: list[Said] = [
            (handle_id, report.attempt, 0, request.worker_id, outcome, request_id, report.code, report.message)
            for handle_id, report, outcome in zip(handle_ids, request.reports, outcomes, strict=True)
        ]
        settled = await self._settler.settle(request.project_id, said) if said else []
        refusals = [
            one.refusal and refusal(one.refusal, request.project_id, request.worker_id, _name(report))
            for one, report in zip(settled, request.reports, strict=True)
        ]
        if len(refusals) == 1 and isinstance(refusals[0], Refusal):
            raise refusals[0]
        handles = await self._handles_after(request, settled) if request.with_handles else {}
        return pb.ReportResponse(
            results=[
                pb.ReportResult(
                    handle=handles.get(handle_id),
                    refusal=refused.reason if refused else "",
                    refusal_message=refused.message if refused else "",
                )
                for handle_id, refused in zip(handle_ids, refusals, strict=True)
            ]
        )

    async def _handle_ids(self, request: pb.ReportRequest) -> list[int]:
        """Handle ids of the reports, those given as DIDs looked up; 0 = not in the project."""
        dids = []
        for number, report in enumerate(request.reports):
            if not report.handle_id:
                if not report.HasField("did"):
                    raise invalid(f"reports[{number}]", "neither handle_id nor did is given")
                dids.append((report.did.namespace, report.did.name))
        found = await self._store.find_handles(request.project_id, list(set(dids))) if dids else {}
        handle_ids = [
            report.handle_id or found.get((report.did.namespace, report.did.name), 0) for report in request.reports
        ]
        if len(handle_ids) > 1:
            _refuse_repetition(handle_ids)
        return handle_ids

    async def _handles_after(
        self, request: pb.ReportRequest, settled: Sequence[Settled]
    ) -> dict[int, project_pb2.Handle]:
        handle_ids = [one.row["handle_id"] for one in settled if one.row is not None]
        rows = await self._store.handles_by_id(request.project_id, handle_ids)
        # as they were right after the report: by now somebody else may have them
        after = {one.row["handle_id"]: one.row for one in settled if one.row is not None}
        return {
            row["handle_id"]: messages.handle(
                request.project_id, dict(row) | dict(after[row["handle_id"]]) | {"worker_id": None, "lease_until": None}
            )
            for row in rows
        }

    async def RenewLease(self, request: pb.RenewLeaseRequest, call: Call) -> pb.RenewLeaseResponse:
        """Extend leases."""
        if len(request.leases) > _MOST:
            raise invalid("leases", f"{len(request.leases)} leases in one request: at most {_MOST}")
        queue, _ = await self._work_on(request.project_id, request.worker_id, call)
        leases = [(lease.handle_id, lease.attempt) for lease in request.leases]
        rows = await self._store.renew(request.project_id, request.worker_id, leases)
        held = {(row["handle_id"], row["attempts"]) for row in rows}
        gone = [lease for lease in leases if lease not in held]
        return pb.RenewLeaseResponse(
            lost=await explain_losses(self._store, request.project_id, request.worker_id, gone),
            expire_time=messages.timestamp(rows[0]["lease_until"]) if rows else None,
            project_state=messages.PROJECT_STATE[(await queue.standing()).state],
            draining=self._reserver.draining,
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    async def ListReserved(self, request: pb.ListReservedRequest, call: Call) -> None:
        """Stream what is reserved."""
        await self._reserver.queue(request.project_id).standing()
        rows = await self._store.reserved_handles(request.project_id, request.worker_id or None)
        for begin in range(0, len(rows), _MOST):
            batch = rows[begin : begin + _MOST]
            handles = await self._reader.shaped(request.project_id, batch, with_replicas=request.with_replicas)
            await call.send(pb.ListReservedResponse(handles=handles))

    async def GetHandle(self, request: pb.GetHandleRequest, _call: Call) -> pb.GetHandleResponse:
        """Return one handle."""
        await self._reserver.queue(request.project_id).standing()
        did = (request.did.namespace, request.did.name)
        handle_id = request.handle_id
        if not handle_id:
            handle_id = (await self._store.find_handles(request.project_id, [did])).get(did, 0)
        rows = await self._store.handles_by_id(request.project_id, [handle_id])
        if not rows:
            name = str(request.handle_id) if request.handle_id else ":".join(did)
            raise refusal("HANDLE_NOT_FOUND", request.project_id, "", name)
        handles = await self._reader.shaped(request.project_id, rows, with_replicas=True)
        return pb.GetHandleResponse(handle=handles[0])

    # --- who may -----------------------------------------------------------------------------------------------------

    async def _work_on(
        self, project_id: int, worker_id: str, call: Call, cpu_site: str = "", *, within: str = ""
    ) -> tuple[ProjectQueue, Standing]:
        """Return the project's queue if the caller may work on it. What reaches a statement that serves others too is checked here."""
        if "\x00" in cpu_site:
            raise invalid(f"{within}cpu_site", f"CPU site {cpu_site[:80]!r} contains NUL")
        if not worker_id or "\x00" in worker_id or len(worker_id.encode()) > _LONGEST_WORKER_ID:
            raise invalid(
                f"{within}worker_id",
                f"worker_id {worker_id[:80]!r}: expected 1 to {_LONGEST_WORKER_ID} bytes without NUL",
            )
        queue = self._reserver.queue(project_id)
        standing = await queue.standing()
        caller = call.caller
        if not standing.welcomes(caller.username, caller.admin, caller.roles):
            raise Refusal(
                "NOT_A_WORKER",
                f"Not authorized: {caller.username} may not work on project {project_id}",
                metadata={"project_id": str(project_id), "user": caller.username},
            )
        return queue, standing


class _Wait:
    """A wish and its caller: whichever way the caller leaves, nothing stays behind."""

    def __init__(
        self,
        reserver: Reserver,
        queue: ProjectQueue,
        request: pb.NextFileRequest | pb.ReserveFilesRequest,
        *,
        want: int,
        request_id: UUID | None,
        timeout: float | None,
    ) -> None:
        self._reserver = reserver
        self._queue = queue
        self._timeout = timeout
        self._wish = Wish(request.worker_id, request.cpu_site, want, request_id, now_or_never=timeout == 0)
        self._timer: asyncio.TimerHandle | None = None
        self._handed_over = False
        self._told_parked = False

    async def __aenter__(self) -> Self:
        self._reserver.wish(self._queue, self._wish)
        if self._timeout:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._queue.withdraw, self._wish, Waited(draining=False))
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._wish.result is None:
            self._queue.withdraw(self._wish)
        elif isinstance(self._wish.result, Given) and not self._handed_over:
            self._reserver.give_back(self._queue.project_id, self._wish, self._wish.result.rows)

    def handed_over(self) -> None:
        """The caller has, or may have, what was given."""
        self._handed_over = True

    async def result(self, interval: float | None) -> Given | Ended | Waited | None:
        """Wait for the result. None = none yet: the wait has just begun, or the interval passed."""
        wish = self._wish
        if wish.result is None:
            if interval is None or not self._told_parked:
                await wish.change()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await wish.change()
            self._told_parked = True
        if isinstance(wish.result, Exception):
            raise wish.result
        return wish.result


def _refuse_repetition(handle_ids: Sequence[int]) -> None:
    seen: set[int] = set()
    for number, handle_id in enumerate(handle_ids):
        if handle_id in seen:
            raise invalid(f"reports[{number}].handle_id", f"handle {handle_id} is reported twice in one request")
        if handle_id:
            seen.add(handle_id)


def _span(request: Any, field: str) -> float | None:
    if not request.HasField(field):
        return None
    value = messages.seconds(getattr(request, field))
    if value < 0:
        raise invalid(field, f"{field} of {value:g} s is negative")
    return value


def _name(report: pb.FileReport) -> str:
    return str(report.handle_id) if report.handle_id else f"{report.did.namespace}:{report.did.name}"
