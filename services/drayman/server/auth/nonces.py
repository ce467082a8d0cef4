"""Login nonces: stateless until they have served.

A nonce is `base64url(expiry | random | signature)`: 8 bytes of microseconds since 1970, 16 random bytes, and 32 bytes of HMAC-SHA-256
over both. Every replica that has the key can check it, and giving one out stores nothing. The random part identifies it when it
has served.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from dataclasses import dataclass

_EXPIRY = 8
_RANDOM = 16
_SIGNED = _EXPIRY + _RANDOM
_LENGTH = _SIGNED + hashlib.sha256().digest_size
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Nonce:
    """A nonce that was given out here: its identity (16 bytes) and when it expires, in seconds since 1970."""

    identity: bytes
    expires: float


class Nonces:
    """Makes and recognises nonces. `key` is the deployment's secret, `lifetime` is in seconds."""

    def __init__(self, key: bytes, lifetime: float) -> None:
        self._key = key
        self._lifetime = lifetime

    def new(self, now: float) -> tuple[str, float]:
        """Make a nonce; returns its text and when it expires, in seconds since 1970."""
        expiry = int((now + self._lifetime) * _MICROSECONDS)
        signed = expiry.to_bytes(_EXPIRY, "big") + os.urandom(_RANDOM)
        return base64.urlsafe_b64encode(signed + self._sign(signed)).decode(), expiry / _MICROSECONDS

    def recognise(self, text: str, now: float) -> Nonce | None:
        """Return the nonce, or None if it was not made with this key or has expired."""
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        signed, signature = raw[:_SIGNED], raw[_SIGNED:]
        if len(raw) != _LENGTH or not hmac.compare_digest(signature, self._sign(signed)):
            return None
        expires = int.from_bytes(signed[:_EXPIRY], "big") / _MICROSECONDS
        return Nonce(signed[_EXPIRY:], expires) if now < expires else None

    def _sign(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, "sha256")
