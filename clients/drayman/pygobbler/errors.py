"""What the registry refuses with, in the shape that scripts expect of `requests.HTTPError`, without needing requests."""

from __future__ import annotations

import grpc

from drayman.client.errors import DraymanError, NotFoundError, UnavailableError

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.ALREADY_EXISTS: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
}
#: Where the reason says more than the code.
_STATUS_OF_REASON = {"LINKED_TO": 409, "QUOTA_EXCEEDED": 507, "STORAGE_FULL": 507}


class RegistryError(OSError):
    """The registry refused.

    `status` is like an HTTP status: 400 for what cannot be right or is there already, 401 without a valid token, 403 for what one may not,
    404 for what is not there, 409 for what others link to, 507 beyond the quota or the space there is, 503 when there is too much to do,
    500 for everything else. `reason` is the text; `args` and `errno` are as `requests.HTTPError` has them.
    """

    #: there is none: the errors of `requests` have it
    response = None
    request = None

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type[RegistryError], tuple[int, str]]:
        return type(self), (self.status, self.reason)


def translated(error: DraymanError, missing: int = 404) -> OSError:
    """Return what a call raises; `missing` is the status for what is not there."""
    if isinstance(error, UnavailableError):
        return ConnectionError(error.message)
    if isinstance(error, NotFoundError):
        return RegistryError(missing, error.message)
    return RegistryError(_STATUS_OF_REASON.get(error.reason) or _STATUS.get(error.code, 500), error.message)
