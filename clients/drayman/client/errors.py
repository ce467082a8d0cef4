"""One tree for everything a Drayman service can refuse with.

The class follows from the gRPC code; `reason` is the stable name of `drayman.errors.v1.Reason` without its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class DraymanError(Exception):
    """A call failed.

    `code` is the gRPC code, `reason` the stable reason ("" if something between here and the service answered), `message` the text,
    `field` the path of the request field at fault ("" if none is), `metadata` the offending values, and `retry_after` the seconds
    after which a retry makes sense (None if none does).
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field = field
        self.metadata: Mapping[str, str] = metadata or {}
        self.retry_after = retry_after


class InvalidRequestError(DraymanError):
    """INVALID_ARGUMENT or OUT_OF_RANGE: the request can never be right."""


class UnauthenticatedError(DraymanError):
    """UNAUTHENTICATED: no token, a bad or expired one, or a refused login."""


class ForbiddenError(DraymanError):
    """PERMISSION_DENIED: known, but not allowed to."""


class NotFoundError(DraymanError):
    """NOT_FOUND."""


class AlreadyExistsError(DraymanError):
    """ALREADY_EXISTS."""


class PreconditionError(DraymanError):
    """FAILED_PRECONDITION or ABORTED: not in this state."""


class OverloadedError(DraymanError):
    """RESOURCE_EXHAUSTED: a limit; see `retry_after`."""


class UnavailableError(DraymanError):
    """UNAVAILABLE, or CANCELLED by the other side: no service answers, after all retries."""


class DeadlineError(DraymanError):
    """DEADLINE_EXCEEDED: no answer in time."""


class NotOfferedError(DraymanError):
    """UNIMPLEMENTED: this deployment does not run that service."""


class ServiceDefectError(DraymanError):
    """INTERNAL, UNKNOWN or DATA_LOSS: a defect of the service."""


_CLASSES: Mapping[grpc.StatusCode, type[DraymanError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.ABORTED: PreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    # a call that was on its way to a server that shut down; one that its caller cancels raises CancelledError instead
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNIMPLEMENTED: NotOfferedError,
    grpc.StatusCode.INTERNAL: ServiceDefectError,
    grpc.StatusCode.UNKNOWN: ServiceDefectError,
    grpc.StatusCode.DATA_LOSS: ServiceDefectError,
}


def from_rpc_error(error: Any) -> DraymanError:
    """Return the DraymanError that a grpc.RpcError means: grpc.aio.AioRpcError, or what threads' stubs raise, which is a call as well."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    reason, field, metadata, retry_after = "", "", {}, None
    for detail in _details(error):
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if _unpack(detail, info):
            reason, metadata = info.reason, dict(info.metadata)
        elif _unpack(detail, request) and request.field_violations:
            field = request.field_violations[0].field
        elif _unpack(detail, retry):
            retry_after = _seconds(retry.retry_delay)
    return _CLASSES.get(code, DraymanError)(
        message, code=code, reason=reason, field=field, metadata=metadata, retry_after=retry_after
    )


def _details(error: Any) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def _unpack(detail: Any, message: Message) -> bool:
    """Read a detail if it is of this kind; one that is damaged must not hide the error itself."""
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        return False


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
