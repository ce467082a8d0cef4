"""What a proof of identity comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from drayman.server.auth.digest import Secret
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal


@dataclass(frozen=True, slots=True)
class Proven:
    """Somebody has proved to be this user, if there is such a user.

    `ends` is when the session must end, in seconds since 1970, None = never; `refusal` is what they hear if they may not log in after
    all; `rspauth` proves to a client that we know the password as well.
    """

    username: str
    method: str
    refusal: Refusal
    ends: float | None = None
    rspauth: str = ""
    secret: Secret | None = None
    detail: Mapping[str, object] = field(default_factory=dict)


class NotProven(Exception):
    """A proof that fails: what the caller is told, and why it failed, which is for the audit log."""

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(why)
        self.refusal = refusal
        self.why = why


class Proof(Protocol):
    """One kind of credential."""

    @property
    def guessable(self) -> bool:
        """Whether it could be guessed: attempts then count against the user, not only against the address."""

    def check_form(self, credential: Any, call: Call) -> None:
        """Raise Refusal (INVALID_FIELD, NOT_OFFERED, TLS_REQUIRED) for what can never be right; no attempt is counted."""

    async def prove(self, credential: Any, call: Call) -> Proven:
        """Check it. Raises NotProven, and Refusal (IDENTITY_PROVIDER_AWAY)."""


def login_refused() -> Refusal:
    """Refuse a login: one answer whatever the cause, so that it tells nobody who exists."""
    return Refusal("LOGIN_REFUSED", "Authentication failed")
