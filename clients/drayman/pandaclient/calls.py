"""A call to the service, and what its failures look like.

PanDA, section 2 of its behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from drayman.client.credentials import bearer
from drayman.client.errors import (
    DeadlineError,
    DraymanError,
    NotOfferedError,
    OverloadedError,
    ServiceDefectError,
    UnauthenticatedError,
    UnavailableError,
    from_rpc_error,
)
from drayman.pandaclient import settings
from drayman.pandaclient.connections import CONNECTIONS
from drayman.pandaclient.token_sources import Bearer

_Stub = TypeVar("_Stub")
_Reply = TypeVar("_Reply")

#: The longest that a call may take, in seconds.
_CALL_SECONDS = 600.0
#: The status of everything that is no answer.
FAILED = 255

#: What a session token that is over is refused with.
_OVER = ("TOKEN_EXPIRED", "TOKEN_REVOKED")


class CallFailed(Exception):
    """A call that got no answer, or a refusal. `answered`: the service has looked at the request and said no."""

    def __init__(self, text: str, *, answered: bool) -> None:
        super().__init__(text)
        self.text = text
        self.answered = answered


def call(kind: Callable[[grpc.Channel], _Stub], ask: Callable[[_Stub, dict[str, Any]], _Reply]) -> _Reply:
    """Call the service as whoever the token says. `ask` gets the stub and the arguments that go with a call. Raises CallFailed."""
    try:
        stub = CONNECTIONS.stub(kind, settings.url())
        bearing = Bearer()
        try:
            return ask(stub, _arguments(bearing.token))
        except grpc.RpcError as error:
            problem = from_rpc_error(error)
        if problem.reason not in _OVER or not bearing.renewed():
            raise problem
        return ask(stub, _arguments(bearing.token))
    except grpc.RpcError as error:
        found = from_rpc_error(error)
        raise CallFailed(_text(found), answered=_answered(found)) from None
    except DraymanError as error:
        raise CallFailed(_text(error), answered=_answered(error)) from None
    except (OSError, ValueError) as error:  # a token file, a URL that is none, a text that is not Unicode
        raise CallFailed(str(error), answered=False) from None


def _arguments(token: str | None) -> dict[str, Any]:
    return {"timeout": _CALL_SECONDS, "metadata": bearer(token)}


def _answered(error: DraymanError) -> bool:
    """Whether a failure is a refusal of the request (status 0), not of the token and not on the way (status 255)."""
    if isinstance(error, UnauthenticatedError):
        # none at all is as a connection without credentials; a user who is shut out is named
        return error.reason == "TOKEN_MISSING" or "user" in error.metadata
    lost = (UnavailableError, DeadlineError, NotOfferedError, ServiceDefectError)
    if isinstance(error, OverloadedError):
        return error.reason != "OVERLOADED"
    return bool(error.reason) and not isinstance(error, lost)


def _text(error: DraymanError) -> str:
    return f"{error.message} ({error.reason or error.code.name})"
