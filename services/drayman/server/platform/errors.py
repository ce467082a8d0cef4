"""How a service refuses: a stable reason, the right gRPC code, and what would be accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "drayman"

_CODES: Mapping[grpc.StatusCode, tuple[str, ...]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        "INVALID_FIELD",
        "INCOMPLETE_FILE_LIST",
        "DUPLICATE_FILE",
        "UNKNOWN_NAME",
        "MALFORMED_MESSAGE",
        "CONTENT_MISMATCH",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (
        "TOKEN_MISSING",
        "TOKEN_EXPIRED",
        "TOKEN_IMMATURE",
        "TOKEN_INVALID",
        "LOGIN_REFUSED",
        "TOKEN_REVOKED",
        "REFRESH_REFUSED",
        "CERTIFICATE_MISSING",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_UNTRUSTED",
        "CERTIFICATE_UNREGISTERED",
        "FOREIGN_TOKEN_EXPIRED",
        "FOREIGN_TOKEN_REFUSED",
        "FOREIGN_TOKEN_UNREGISTERED",
    ),
    grpc.StatusCode.PERMISSION_DENIED: (
        "ADMIN_ONLY",
        "NOT_OWNER",
        "NOT_A_WORKER",
        "WRONG_WORKER",
        "NOT_RESERVED",
        "SERVICE_ONLY",
        "NOT_REGISTRY_OWNER",
        "NOT_AN_UPLOADER",
        "SPOOFING_REFUSED",
        "ROLE_MISSING",
    ),
    grpc.StatusCode.FAILED_PRECONDITION: (
        "STALE_ATTEMPT",
        "PROJECT_INACTIVE",
        "LAST_ADMIN",
        "TLS_REQUIRED",
        "SEALING_KEY_MISSING",
        "NOT_ON_PROBATION",
        "LINKED_TO",
        "VERSION_DAMAGED",
        "JOB_STATE",
    ),
    grpc.StatusCode.NOT_FOUND: (
        "PROJECT_NOT_FOUND",
        "HANDLE_NOT_FOUND",
        "RSE_NOT_FOUND",
        "USER_NOT_FOUND",
        "ROLE_NOT_FOUND",
        "SESSION_NOT_FOUND",
        "REGISTRY_PROJECT_NOT_FOUND",
        "ASSET_NOT_FOUND",
        "VERSION_NOT_FOUND",
        "FILE_NOT_FOUND",
        "TASK_NOT_FOUND",
        "JOB_NOT_FOUND",
        "SANDBOX_NOT_FOUND",
    ),
    grpc.StatusCode.ALREADY_EXISTS: (
        "RSE_EXISTS",
        "USER_EXISTS",
        "ROLE_EXISTS",
        "REGISTRY_PROJECT_EXISTS",
        "VERSION_EXISTS",
        "SANDBOX_EXISTS",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        "OVERLOADED",
        "MESSAGE_TOO_LARGE",
        "LOGIN_THROTTLED",
        "TOO_MANY_SECRETS",
        "QUOTA_EXCEEDED",
        "STORAGE_FULL",
        "SANDBOX_TOO_LARGE",
    ),
    grpc.StatusCode.UNAVAILABLE: ("UNAVAILABLE", "IDENTITY_PROVIDER_AWAY"),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEADLINE",),
    grpc.StatusCode.UNIMPLEMENTED: ("NOT_OFFERED",),
    grpc.StatusCode.DATA_LOSS: ("CONTENT_LOST",),
    grpc.StatusCode.INTERNAL: ("DEFECT",),
}

#: Reason -> gRPC code, for every name of `drayman.errors.v1.Reason` but UNSPECIFIED.
CODE_OF: Mapping[str, grpc.StatusCode] = {reason: code for code, reasons in _CODES.items() for reason in reasons}


# A status travels in header fields, and from 8 KiB on peers refuse those at random. The message counts three times: percent-encoded
# and, in the details, twice in base64. What is offended by a novel need not recite it.
_LONGEST_MESSAGE = 800  # bytes of UTF-8
_LONGEST_VALUE = 300


@dataclass(slots=True)
class Refusal(Exception):
    """A call that is answered with an error status. Raise it from a rule, a store or a servicer.

    `reason` is a name of `drayman.errors.v1.Reason` without its prefix; `field` is the path of the request field at fault;
    `metadata` holds the offending values as text; `retry_after` is in seconds.
    """

    reason: str
    message: str
    field: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    retry_after: float | None = None

    def __post_init__(self) -> None:
        """Keep `str(refusal)` readable, and short enough to travel."""
        self.message = _cut(self.message, _LONGEST_MESSAGE)
        self.field = _cut(self.field, _LONGEST_VALUE)
        self.metadata = {key: _cut(value, _LONGEST_VALUE) for key, value in self.metadata.items()}
        Exception.__init__(self, self.message)

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code that belongs to the reason."""
        return CODE_OF[self.reason]

    def details(self) -> bytes:
        """Encode the `google.rpc.Status` that travels as `grpc-status-details-bin`."""
        parts = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)]
        packed = [_pack(part) for part in parts]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            packed.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        encoded: bytes = status.SerializeToString()
        return encoded


def invalid(field_path: str, message: str, **metadata: object) -> Refusal:
    """Say that a field has a value that can never be right."""
    return Refusal("INVALID_FIELD", message, field_path, {key: str(value) for key, value in metadata.items()})


def _cut(text: str, size: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= size else encoded[:size].decode(errors="ignore") + "…"


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
