"""Session tokens: who they name, and the keys that sign them."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from uuid import uuid4

import jwt

from drayman.server.auth.keys import SigningKey
from drayman.server.auth.store import Store, User
from drayman.server.platform.tokens import ALGORITHM

#: Tokens are valid from a little before they are made: the clock of the service that checks them may be behind ours.
CLOCK_SKEW = 30.0

#: How long a key is published before it signs. Services fetch the keys when a token names one they do not know, but at most once a
#: second: a service that has fetched just before the key appeared is ready to fetch again when the first token comes.
PUBLISHED_BEFORE = 2.0

#: A key is kept this much longer than its latest token needs, so that not every login writes to the key's row.
_SLACK = 86_400.0


@dataclass(frozen=True, slots=True)
class Session:
    """A session token and what it says; `expires` in seconds since 1970."""

    token: str = field(repr=False)
    username: str
    expires: int


class Sessions:
    """Makes session tokens and rotates the key that signs them.

    Nothing is cached: a rotation by another replica holds from the moment it is committed.
    """

    def __init__(self, store: Store, issuer: str, lifetime: float) -> None:
        self._store = store
        self.issuer = issuer
        self._lifetime = lifetime

    async def issue(self, user: User, lifetime: float | None = None) -> Session:
        """Make a token for a user; `lifetime` in seconds, None = as after a login."""
        now = time.time()
        expires = math.ceil(now + (self._lifetime if lifetime is None else lifetime))
        key = await self._key_until(expires)
        claims = {
            "iss": self.issuer,
            "sub": user.name,
            "iat": int(now),
            "nbf": int(now - CLOCK_SKEW),
            "exp": expires,
            "jti": uuid4().hex,
            "adm": user.admin,
            "roles": list(user.roles),
        }
        token = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.key_id})
        return Session(token, user.name, expires)

    async def rotate(self) -> str:
        """Sign with a new key from now on; returns its id. The old ones stay published while a token of theirs is valid."""
        key = SigningKey.generate()
        async with self._store.changes() as changes:
            await changes.insert_key(key, PUBLISHED_BEFORE)
        # counted from the commit, while the database counts from a moment before it: when this has passed, the key signs
        await asyncio.sleep(PUBLISHED_BEFORE)
        return key.key_id

    async def _key_until(self, expires: int) -> SigningKey:
        """Return the key that signs, having made sure that it stays published until then."""
        while True:
            key, needed_until = await self._store.signing_key()
            if needed_until >= expires or await self._store.need_key(key.key_id, expires + _SLACK):
                return key
