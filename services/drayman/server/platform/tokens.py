"""Checks session tokens against auth's published keys: once per token, then from memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import jwt

from drayman.server.platform.errors import Refusal

ALGORITHM = "EdDSA"

_REMEMBERED = 50_000
_REFRESH_SECONDS = 300.0
_SOONEST_REFRESH = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as a verified token says."""

    username: str
    admin: bool
    roles: frozenset[str]
    expires: float
    token: str


@dataclass(frozen=True)
class PublishedKeys:
    """A JWK Set as auth publishes it, and the issuer whose tokens it verifies."""

    jwks_json: str
    issuer: str


KeySource = Callable[[], Awaitable[PublishedKeys]]


class TokenVerifier:
    """Verifies EdDSA session tokens.

    Keys are fetched when a token names one that is not known (at most once a second) and every five minutes, so that a
    rotation needs no restart and a withdrawn key stops being accepted.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._keys: dict[str, jwt.PyJWK] = {}
        self._issuer = ""
        self._fetched = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self._known: dict[str, Caller] = {}

    async def verify(self, token: str) -> Caller:
        """Return the caller, or raise Refusal (UNAUTHENTICATED)."""
        caller = self.remembered(token)
        return caller if caller is not None else await self._verify_anew(token)

    def remembered(self, token: str) -> Caller | None:
        """Return the caller of a token seen before, without any I/O; None if it has to be verified."""
        caller = self._known.get(token)
        if caller is None or time.monotonic() - self._fetched > _REFRESH_SECONDS:
            return None
        if caller.expires <= time.time():
            del self._known[token]
            raise Refusal("TOKEN_EXPIRED", "Token expired")
        return caller

    async def _verify_anew(self, token: str) -> Caller:
        key_id = _key_id(token)
        stale = time.monotonic() - self._fetched > _REFRESH_SECONDS
        if stale or (key_id not in self._keys and time.monotonic() - self._fetched > _SOONEST_REFRESH):
            await self._refresh()
        key = self._keys.get(key_id)
        if key is None:
            raise Refusal("TOKEN_INVALID", "Token verification failed: signed by a key that auth does not publish")
        caller = self._check(token, key)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = caller
        return caller

    async def _refresh(self) -> None:
        """Fetch the keys; callers that come meanwhile wait for the same fetch."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetch_over)
        await asyncio.shield(self._fetching)

    def _fetch_over(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        task.cancelled() or task.exception()  # seen, even when every waiter has gone

    async def _fetch(self) -> None:
        published = await self._source()
        keys = jwt.PyJWKSet.from_dict(json.loads(published.jwks_json)).keys
        fresh = {key.key_id: key for key in keys if key.key_id}
        if fresh.keys() != self._keys.keys() or published.issuer != self._issuer:
            self._known.clear()
        self._keys, self._issuer, self._fetched = fresh, published.issuer, time.monotonic()

    def _check(self, token: str, key: jwt.PyJWK) -> Caller:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                leeway=0,
                options={"require": ["exp", "sub"], "verify_iat": False, "verify_aud": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise Refusal("TOKEN_EXPIRED", "Token expired") from error
        except jwt.ImmatureSignatureError as error:
            raise Refusal("TOKEN_IMMATURE", "Token immature") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise Refusal("TOKEN_INVALID", f"Token verification failed: {error}") from error
        roles = claims.get("roles", [])
        if not isinstance(roles, list):
            raise Refusal("TOKEN_INVALID", "Token verification failed: roles is no list")
        return Caller(claims["sub"], claims.get("adm") is True, frozenset(map(str, roles)), float(claims["exp"]), token)


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Refusal("TOKEN_INVALID", "Token verification failed: not a session token") from error
    if header.get("alg") != ALGORITHM:
        raise Refusal("TOKEN_INVALID", f"Invalid token algorithm: {header.get('alg')}, expected {ALGORITHM}")
    return str(header.get("kid"))
