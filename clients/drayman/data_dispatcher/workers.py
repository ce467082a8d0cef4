"""The worker's side: take a file, say what became of it.

Data Dispatcher, sections 1.2, 1.5 and 2.2 of its behaviour.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from typing import Any, Final

import grpc

from drayman.data_dispatcher import arguments, shapes
from drayman.data_dispatcher.arguments import FileName, ProjectId
from drayman.data_dispatcher.core import ClientCore
from drayman.data_dispatcher.exceptions import NotFoundError
from drayman.data_dispatcher.worker_id import made_up_id, write_id
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2

_DRAINING_PAUSE = 0.5
# A long wait is asked for in pieces, in seconds: a call that was lost on its way is noticed, and after a server was added or came back
# the waiting spread over all of them again.
_PIECE = 120.0
_LATE = 30.0


class _Documented(float):
    """A documented default: it looks like one, and can be told from the same number given."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{self:g}"


_STAGGER: Final = _Documented(10)


class WorkerCalls(ClientCore):
    """The methods of workers. A worker is whoever uses a worker id; a reservation belongs to the id."""

    def new_worker_id(self, new_id: str | None = None, worker_id_file: str | os.PathLike[str] | None = None) -> str:
        """Make `new_id`, or a generated one, the client's worker id, write it to a file, and return it.

        The file is the one given here, else `.data_dispatcher_worker_id` in the working directory; the constructor's file is not
        touched. Raises OSError if it cannot be written. Section 1.2.
        """
        self.WorkerID = new_id or made_up_id()
        write_id(worker_id_file or self.DefaultWorkerIDFile, self.WorkerID)
        return self.WorkerID

    @staticmethod
    def random_worker_id(prefix: str = "") -> str:
        """Return `prefix` and 8 random hex digits; changes nothing. Section 1.2."""
        return made_up_id(prefix)

    def next_file(
        self,
        project_id: ProjectId,
        cpu_site: str | None = None,
        worker_id: str | None = None,
        timeout: float | None = None,
        stagger: float | None = _STAGGER,
    ) -> dict[str, Any] | bool:
        """Reserve a file, waiting for one if need be.

        Returns a handle dict with `project_attributes` and with those `replicas` that can be read now, nearest first; True if
        `timeout` seconds passed without a file (None = no limit, 0 = do not wait); False if the project is over: not active any more,
        or nothing left that is not done or failed. `cpu_site` and `worker_id` None = the client's own.

        The service tells a waiting client at once, so the random delay of up to `stagger` seconds, which spreads polling clients, is
        only made if `stagger` is passed, and not beyond `timeout`.

        Raises NotFoundError for a missing project, APIError with status 401 (token), 403 (not the owner, a listed user, a member of a
        listed role or an administrator) or 400 (empty worker id), ServerError with status 503 if no service answers for `RetryBudget`
        seconds. After an interruption a reservation that was made meanwhile is received, not lost.

        Needs a login. Sections 1.5, 2.2 and 5.3; section 18, traps 1 and 4 to 7.
        """
        end = None if timeout is None else time.monotonic() + max(timeout, 0)
        if stagger and stagger is not _STAGGER:
            delay = random.uniform(0, stagger)  # noqa: S311 - no secret
            time.sleep(min(delay, _left(end, delay)))
        request = pb.NextFileRequest(
            project_id=self._project_id(project_id),
            worker_id=worker_id or self.WorkerID,
            cpu_site=cpu_site or self.CPUSite or "",
            request_id=str(uuid.uuid4()),
        )
        backoff = self._backoff()
        while True:
            piece = min(_left(end, _PIECE), _PIECE)
            request.timeout.CopyFrom(arguments.exact_span(piece))
            try:
                event = self._hear(request, piece + _LATE)
            except grpc.RpcError as error:
                self._pause_or_raise(error, backoff, request, late_passes=True)
                request.resend = True
                continue
            backoff.succeeded(self.InitialRetry)
            if event.HasField("reserved"):
                return shapes.reserved_dict(event.reserved.handle, event.reserved.project_attributes_json)
            if event.HasField("project_ended"):
                return False
            if _left(end, 1) == 0:
                return True
            if event.timed_out.cause != pb.TimedOut.CAUSE_TIMEOUT:
                # everybody who waited there goes elsewhere now
                pause = random.uniform(0, _DRAINING_PAUSE)  # noqa: S311 - no secret
                time.sleep(min(pause, _left(end, pause)))

    def file_done(self, project_id: ProjectId, did: FileName, worker_id: str | None = None) -> dict[str, Any]:
        """Say that a reserved file is processed; returns its handle dict without replicas.

        `did` is `namespace:name`, or a dict with both, such as what next_file returned. `worker_id` None = the client's own.

        Raises NotFoundError for a missing project or a file that is not in it, APIError with status 403 if another worker holds the
        file or nobody does (reported already, timed out, restarted), or if the caller may not work on the project, 401 without a login.

        Section 2.2; section 18, traps 3, 30, 31 and 34.
        """
        return self._report(project_id, did, pb.OUTCOME_DONE, worker_id)

    def file_failed(
        self, project_id: ProjectId, did: FileName, retry: bool = True, worker_id: str | None = None
    ) -> dict[str, Any]:
        """Say that a reserved file could not be processed; returns its handle dict without replicas.

        `retry` = it may be handed out again, after less tried ones; otherwise it has failed for good. Arguments and errors as for
        file_done. Sections 2.2 and 5.2.
        """
        outcome = pb.OUTCOME_FAILED_RETRY if retry else pb.OUTCOME_FAILED_FINAL
        return self._report(project_id, did, outcome, worker_id)

    def reserved_handles(self, project_id: ProjectId, worker_id: str | None = None) -> list[dict[str, Any]]:
        """Return the handle dicts of what a worker (None = this one) holds, without replicas. Needs no login.

        Raises NotFoundError. Section 2.2.
        """
        worker = worker_id or self.WorkerID
        request = pb.ListReservedRequest(project_id=self._project_id(project_id), worker_id=worker)
        handles = self._collect(self._handles().ListReserved, request)
        return shapes.handle_dicts(handle for handle in handles if handle.worker_id == worker)

    def _hear(self, request: pb.NextFileRequest, deadline: float) -> pb.NextFileResponse:
        """Read one stream to its end and return what it ended with. Raises grpc.RpcError."""
        call = self._handles().NextFile(request, timeout=deadline, metadata=tuple(self._metadata()))
        last = pb.NextFileResponse()
        try:
            for event in call:
                last = event
        finally:
            call.cancel()  # whoever is interrupted here wants no file any more
        return last

    def _report(
        self, project_id: ProjectId, did: FileName, outcome: pb.Outcome, worker_id: str | None
    ) -> dict[str, Any]:
        number, worker, file = self._project_id(project_id), worker_id or self.WorkerID, arguments.did(did)
        try:
            return self._report_one(number, worker, file, outcome)
        except NotFoundError as error:
            if error.json()["reason"] != "HANDLE_NOT_FOUND":
                raise
            for other in arguments.other_readings(did):
                try:
                    return self._report_one(number, worker, other, outcome)
                except NotFoundError:
                    continue
            raise

    def _report_one(self, project_id: int, worker: str, did: project_pb2.Did, outcome: pb.Outcome) -> dict[str, Any]:
        request = pb.ReportRequest(
            project_id=project_id,
            worker_id=worker,
            reports=[pb.FileReport(did=did, outcome=outcome)],
            request_id=str(uuid.uuid4()),
            with_handles=True,
        )
        reply = self._call(self._handles().Report, request)
        return shapes.handle_dict(reply.results[0].handle)


def _left(end: float | None, without: float) -> float:
    """Return the seconds that are left, `without` if there is no end."""
    return without if end is None else max(end - time.monotonic(), 0)
