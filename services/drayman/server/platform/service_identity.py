"""How the services of a deployment know each other: a short token made with the key that all of them share."""

from __future__ import annotations

import time

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
        now = int(time.time())
        return jwt.encode({"iss": _ISSUER, "iat": now, "exp": now + _LIFETIME}, self._key, algorithm=_ALGORITHM)

    def made(self, token: str) -> bool:
        """Whether a token was made with the key, just now."""
        try:
            jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                leeway=_SKEW,
                options={"require": ["exp", "iat", "iss"]},
            )
        except (jwt.PyJWTError, ValueError):
            return False
        return True
