"""Checks session tokens against what auth published: once per token, then from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import jwt

from drayman.server.platform.errors import Refusal
from drayman.server.platform.trust import Caller, Trust

ALGORITHM = "EdDSA"

_REMEMBERED = 50_000
_SOONEST_FETCH = 1.0


class TokenVerifier:
    """Verifies EdDSA session tokens.

    What it has verified it remembers, until something about the user changes. Keys are pushed by auth before they sign; `fetch`
    brings them when a token names one that is not known nevertheless, at most once a second.
    """

    def __init__(self, trust: Trust, fetch: Callable[[], Awaitable[None]]) -> None:
        self._trust = trust
        self._fetch = fetch
        self._fetched = -_SOONEST_FETCH
        self._fetching: asyncio.Task[None] | None = None
        self._known: dict[str, Caller] = {}
        self._tokens_of: dict[str, set[str]] = {}
        trust.subscribe(self._forget)

    async def verify(self, token: str) -> Caller:
        """Return the caller, or raise Refusal (UNAUTHENTICATED; UNAVAILABLE if auth has been silent for too long)."""
        caller = self.remembered(token)
        return caller if caller is not None else await self._verify_anew(token)

    def remembered(self, token: str) -> Caller | None:
        """Return the caller of a token seen before, without any I/O; None if it has to be verified."""
        caller = self._known.get(token)
        if caller is None or not self._trust.fresh:
            return None
        if caller.expires <= time.time():
            self._forget(frozenset([caller.username]))
            raise Refusal("TOKEN_EXPIRED", "Token expired")
        return caller

    async def _verify_anew(self, token: str) -> Caller:
        key_id = _key_id(token)
        await self._trust.require_fresh()
        if key_id not in self._trust.keys and time.monotonic() - self._fetched >= _SOONEST_FETCH:
            await self._fetch_once()
        key = self._trust.keys.get(key_id)
        if key is None:
            raise Refusal("TOKEN_INVALID", "Token verification failed: signed by a key that auth does not publish")
        caller = self._trust.judge(self._check(token, key))
        if len(self._known) >= _REMEMBERED:
            self._forget(None)
        self._known[token] = caller
        self._tokens_of.setdefault(caller.username, set()).add(token)
        return caller

    def _forget(self, usernames: frozenset[str] | None) -> None:
        if usernames is None:
            self._known.clear()
            self._tokens_of.clear()
            return
        for name in usernames:
            for token in self._tokens_of.pop(name, ()):
                self._known.pop(token, None)

    async def _fetch_once(self) -> None:
        """Fetch the keys; callers that come meanwhile wait for the same fetch."""
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch())
            self._fetching.add_done_callback(self._fetch_over)
        await asyncio.shield(self._fetching)

    def _fetch_over(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and task.exception() is None:
            self._fetched = time.monotonic()

    def _check(self, token: str, key: jwt.PyJWK) -> Caller:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._trust.issuer,
                leeway=0,
                options={"require": ["exp", "sub"], "verify_iat": False, "verify_aud": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise Refusal("TOKEN_EXPIRED", "Token expired") from error
        except jwt.ImmatureSignatureError as error:
            raise Refusal("TOKEN_IMMATURE", "Token immature") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise Refusal("TOKEN_INVALID", f"Token verification failed: {error}") from error
        roles, version = claims.get("roles", []), claims.get("ver", 0)
        if not isinstance(roles, list) or not isinstance(version, int):
            raise Refusal("TOKEN_INVALID", "Token verification failed: roles is no list, or ver no number")
        return Caller(
            username=claims["sub"],
            admin=claims.get("adm") is True,
            roles=frozenset(map(str, roles)),
            expires=float(claims["exp"]),
            token=token,
            session=str(claims.get("sid", "")),
            version=version,
        )


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Refusal("TOKEN_INVALID", "Token verification failed: not a session token") from error
    if header.get("alg") != ALGORITHM:
        shown = str(header.get("alg"))[:32]
        raise Refusal("TOKEN_INVALID", f"Invalid token algorithm: {shown!a}, expected {ALGORITHM}")
    return str(header.get("kid"))
