"""How the services of a deployment know each other: short tokens made with the key that all of them share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

_ALGORITHM = "HS256"
_ISSUER = "drayman services"
_LIFETIME = 60
_SKEW = 30


class ServiceIdentity:
    """The key shared by the services of a deployment, at least 32 characters."""

    def __init__(self, key: str) -> None:
        self._key = key

    def token(self) -> str:
        """Make a token that shows that its bearer has the key. It is good for a minute."""
        return self._sign({"iss": _ISSUER}, _LIFETIME)

    def made(self, token: str) -> bool:
        """Whether a token was made with the key, just now."""
        return self._read(token, issuer=_ISSUER) is not None

    def vouch(self, purpose: str, claims: Mapping[str, Any], seconds: float) -> str:
        """Sign claims for one purpose; who shows the text to a service of the deployment is believed them for so many seconds."""
        return self._sign({**claims, "iss": f"{_ISSUER}: {purpose}"}, int(seconds))

    def vouched(self, purpose: str, text: str) -> dict[str, Any] | None:
        """Read what was signed for a purpose; None if it was not, or not for that, or has run out."""
        return self._read(text, issuer=f"{_ISSUER}: {purpose}")

    def _sign(self, claims: dict[str, Any], seconds: int) -> str:
        now = int(time.time())
        return jwt.encode({**claims, "iat": now, "exp": now + seconds}, self._key, algorithm=_ALGORITHM)

    def _read(self, token: str, *, issuer: str) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=issuer,
                leeway=_SKEW,
                options={"require": ["exp", "iat", "iss"]},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        return claims
