"""A call to the service, and what its failures look like.

PanDA, section 2 of its behaviour.
"""

from __future__ import annotations

import contextlib
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
from drayman.pandaclient.token_sources import Bearer, claims, held_token

_Stub = TypeVar("_Stub")
_Reply = TypeVar("_Reply")

#: The longest that a call may take, in seconds.
_CALL_SECONDS = 600.0
#: The status of everything that is no answer.
FAILED = 255

#: What a session token that is over is refused with.
_OVER = ("TOKEN_EXPIRED", "TOKEN_REVOKED")


class CallFailed(Exception):
    """A call that got no answer, or a refusal. `answered`: the service has looked at the request and said no, `reason` says why."""

    def __init__(self, text: str, *, answered: bool, reason: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.answered = answered
        self.reason = reason

    @property
    def anonymous(self) -> bool:
        """Whether the call carried no token, and needs one: what PanDA calls an insecure connection."""
        return self.answered and self.reason == "TOKEN_MISSING"

    @property
    def shut_out(self) -> bool:
        """Whether the service does not let the user in any more: their sessions were ended, or they are gone."""
        return self.answered and self.reason.startswith("TOKEN_") and not self.anonymous


def call(
    kind: Callable[[grpc.Channel], _Stub], ask: Callable[[_Stub, dict[str, Any]], _Reply], url: str | None = None
) -> _Reply:
    """Call the service as whoever the token says. `ask` gets the stub and the arguments that go with a call. Raises CallFailed.

    `url` None = where the settings say; else another server of the same deployment.
    """
    try:
        stub = CONNECTIONS.stub(kind, url or settings.url())
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
        raise _failed(found) from None
    except DraymanError as error:
        raise _failed(error) from None
    except (OSError, ValueError) as error:  # a token file, a URL that is none, a text that is not Unicode
        raise CallFailed(str(error), answered=False) from None


def shown(result: _Reply, verbose: bool) -> _Reply:
    """Return a result; print it first if that is wanted."""
    if verbose:
        print(result)
    return result


def _failed(error: DraymanError) -> CallFailed:
    text = _text(error)
    if error.reason == "TOKEN_REVOKED":
        text = f"user {_user()}: {text}"
    return CallFailed(text, answered=_answered(error), reason=error.reason)


def _arguments(token: str | None) -> dict[str, Any]:
    return {"timeout": _CALL_SECONDS, "metadata": bearer(token)}


def _user() -> str:
    """Return whose token it is, by what it says itself."""
    with contextlib.suppress(OSError, ValueError):
        return str(claims(held_token() or "").get("sub", "unknown"))
    return "unknown"


def _answered(error: DraymanError) -> bool:
    """Whether a failure is a refusal of the request (status 0), not of the token and not on the way (status 255)."""
    if isinstance(error, UnauthenticatedError):
        # none at all is as a connection without credentials; of a user who is shut out all tokens are revoked
        return error.reason in ("TOKEN_MISSING", "TOKEN_REVOKED") or "user" in error.metadata
    lost = (UnavailableError, DeadlineError, NotOfferedError, ServiceDefectError)
    if isinstance(error, OverloadedError):
        return error.reason != "OVERLOADED"
    return bool(error.reason) and not isinstance(error, lost)


def _text(error: DraymanError) -> str:
    return f"{error.message} ({error.reason or error.code.name})"
