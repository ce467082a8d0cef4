"""Rules of refresh tokens: what they look like, which one comes next, and what one that comes back means.

A refresh token is `drr_` and, in base64url, the session id (16 bytes) and a secret (32 bytes). Of the secret only its SHA-256 is stored.
The next secret follows from the deployment's key, the session, the secret before and the request that used it: the same request gets
the same one again, and nobody else can work it out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

_PREFIX = "drr_"
_ID = 16
_SECRET = 32


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token, taken apart."""

    session: UUID
    secret: bytes = field(repr=False)

    @classmethod
    def first(cls, session: UUID) -> RefreshToken:
        """Make the first one of a session."""
        return cls(session, secrets.token_bytes(_SECRET))

    @classmethod
    def parse(cls, text: str) -> RefreshToken | None:
        """Read one; None if the text cannot be one."""
        if not text.startswith(_PREFIX):
            return None
        try:
            raw = base64.b64decode(text.removeprefix(_PREFIX), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        return cls(UUID(bytes=raw[:_ID]), raw[_ID:]) if len(raw) == _ID + _SECRET else None

    @property
    def text(self) -> str:
        """What the client gets."""
        return _PREFIX + base64.urlsafe_b64encode(self.session.bytes + self.secret).decode()

    @property
    def hash(self) -> bytes:
        """What is stored."""
        return hashlib.sha256(self.secret).digest()

    def next(self, key: bytes, request: UUID) -> RefreshToken:
        """Return the one that follows when this request uses it."""
        message = b"refresh" + self.session.bytes + request.bytes + self.secret
        return RefreshToken(self.session, hmac.digest(key, message, "sha256"))


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a session's refresh tokens; `rotated` is when the one before was used, in seconds since 1970."""

    hash: bytes | None
    previous_hash: bytes | None
    previous_request: UUID | None
    rotated: float


class Verdict(Enum):
    """What becomes of a refresh token that comes in."""

    ROTATE = "it serves, and the next one takes its place"
    REPEAT = "its request has been answered: the same answer again"
    LATE = "somebody else has just used it: refused, and the session goes on"
    COPIED = "it was used long ago: there is a copy of it, and the session must end"
    UNKNOWN = "never given out"


def judge(stored: Stored, token: RefreshToken, request: UUID, now: float, grace: float) -> Verdict:
    """Judge a refresh token. `grace` is in seconds: two programs of one user may use the same token at the same moment."""
    if stored.hash is not None and hmac.compare_digest(stored.hash, token.hash):
        return Verdict.ROTATE
    if stored.previous_hash is None or not hmac.compare_digest(stored.previous_hash, token.hash):
        return Verdict.UNKNOWN
    if stored.previous_request == request:
        return Verdict.REPEAT
    return Verdict.LATE if now - stored.rotated <= grace else Verdict.COPIED
