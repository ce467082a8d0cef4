"""What a call of the mirror can fail with: one tree, whatever class a program catches.

    MCError
      WebAPIError                 URL, StatusCode, Message, Body, json()
        APIError                  every refusal of a service is one of these
          NotFoundError           404
          AuthenticationError     401
          ServerError             5xx
            TimeoutError          504; a builtin TimeoutError as well

Data Dispatcher, sections 4 and 18 (trap 32) of its behaviour: `APIError`, `ServerError`, `NotFoundError` and `TimeoutError` are what
programs import from the api module, `MCError`, `WebAPIError` and `AuthenticationError` what was raised.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from typing import Any

import grpc

from drayman.client.errors import DraymanError

_STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class MCError(Exception):
    """Root of the tree."""


class WebAPIError(MCError):
    """A call was refused or got no answer.

    `URL` names the server and the RPC, `StatusCode` is the HTTP status that the documentation gives (int), `Message` the service's
    text. `Body` is a JSON object with `message`, `reason` (the stable name of `drayman.errors.v1.Reason`, "" if it was no service
    that answered) and `metadata` (the offending values); `json()` decodes it.
    """

    def __init__(self, url: str, status_code: int, message: str, body: str = "") -> None:
        super().__init__(f"{status_code} {message} ({url})")
        self.URL = url
        self.StatusCode = status_code
        self.Message = message
        self.Body = body or _body(message, "", {})

    def json(self) -> Any:
        """Return the decoded body. Raises ValueError if it was made from something that is no JSON."""
        return json.loads(self.Body)

    def __reduce__(self) -> tuple[type[WebAPIError], tuple[str, int, str, str]]:
        # or the exception could not leave a worker process of a pool
        return type(self), (self.URL, self.StatusCode, self.Message, self.Body)


class APIError(WebAPIError):
    """A call failed; all that the client raises are of this class."""


class NotFoundError(APIError):
    """Status 404: there is no such project, file or RSE."""


class AuthenticationError(APIError):
    """Status 401: no token, a bad or expired one, or a refused login."""


class ServerError(APIError):
    """Status 5xx: the service cannot do it, at all or just now."""


class TimeoutError(ServerError, builtins.TimeoutError):  # noqa: A001 - the documented name
    """Status 504: no answer within the client's `timeout`."""


def api_error(url: str, status_code: int, message: str, body: str = "") -> APIError:
    """Return the error of the class that belongs to a status."""
    kind: type[APIError] = ServerError if status_code >= 500 else APIError
    kind = {401: AuthenticationError, 404: NotFoundError, 504: TimeoutError}.get(status_code, kind)
    return kind(url, status_code, message, body)


def from_drayman_error(error: DraymanError, url: str) -> APIError:
    """Return the documented error that a service's refusal means."""
    status = 413 if error.reason == "MESSAGE_TOO_LARGE" else _STATUSES.get(error.code, 500)
    return api_error(url, status, error.message, _body(error.message, error.reason, error.metadata))


def _body(message: str, reason: str, metadata: Mapping[str, str]) -> str:
    return json.dumps({"message": message, "reason": reason, "metadata": dict(metadata)}, ensure_ascii=False)
