"""What a login gives, and what a session token says of itself. Nothing is verified here: that is for the services."""

from __future__ import annotations

import base64
import functools
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: A token is replaced so long before its end, in seconds, or a fifth of its life if that is less.
_AHEAD = 300.0
_SHARE = 5


@dataclass(frozen=True, slots=True)
class Session:
    """A login. Times are in UTC.

    `expires` is the token's end; `refresh_token` gets the next one, once, and is empty for a token that an administrator made. The session
    lasts until `session_expires`, which every renewal moves, up to `session_end`; None = not known, or never.
    """

    token: str = field(repr=False)
    username: str
    expires: datetime
    refresh_token: str = field(default="", repr=False)
    session_expires: datetime | None = None
    session_end: datetime | None = None

    @property
    def session_id(self) -> str:
        """The session's id, "" if the token names none."""
        return session_id_of(self.token)


def session_of(reply: Any) -> Session:
    """Read what a LoginResponse or a RefreshSessionResponse grants."""
    return Session(
        token=reply.token.token,
        username=reply.token.username,
        expires=reply.token.expire_time.ToDatetime(tzinfo=UTC),
        refresh_token=reply.refresh_token,
        session_expires=_moment(reply, "session_expire_time"),
        session_end=_moment(reply, "session_end_time"),
    )


def expiration(token: str) -> float | None:
    """Return the `exp` claim of an encoded token in seconds since 1970; None if it has none or is not one."""
    return _number(token, "exp")


def expired(token: str, now: float | None = None) -> bool:
    """Whether a token says that its time is over."""
    end = expiration(token)
    return end is not None and end <= (time.time() if now is None else now)


def issued(token: str) -> float | None:
    """Return the `iat` claim of an encoded token in seconds since 1970; None if it has none or is not one."""
    return _number(token, "iat")


def due(token: str, now: float) -> bool:
    """Whether it is time for the next token."""
    end, begin = expiration(token), issued(token)
    if end is None:
        return False
    life = end - begin if begin is not None else _AHEAD
    return now >= end - min(_AHEAD, max(life, 0.0) / _SHARE)


def session_id_of(token: str) -> str:
    """Return the `sid` claim of an encoded token; "" if it has none or is not one."""
    value = _claims(token).get("sid")
    return value if isinstance(value, str) else ""


def _number(token: str, name: str) -> float | None:
    value = _claims(token).get(name)
    try:
        return float(value)  # type: ignore[arg-type]  # what it is not is what is caught
    except (TypeError, ValueError, OverflowError):
        return None


@functools.lru_cache(maxsize=32)
def _claims(token: str) -> dict[str, object]:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (LookupError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _moment(message: Any, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    moment: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    return moment
