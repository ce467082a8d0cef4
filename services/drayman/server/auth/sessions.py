"""Sessions: how they begin, go on and get their tokens; and the keys that sign these."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import jwt

from drayman.server.auth import refresh_tokens
from drayman.server.auth.audit import Author, Event
from drayman.server.auth.key_store import KeyStore
from drayman.server.auth.keys import SigningKey
from drayman.server.auth.proof import NotProven, Proven
from drayman.server.auth.refresh_tokens import RefreshToken, Verdict
from drayman.server.auth.sealing import sealed_signing_key
from drayman.server.auth.session_store import SessionStore, Subject
from drayman.server.auth.store import Store
from drayman.server.platform.errors import Refusal
from drayman.server.platform.tokens import ALGORITHM

#: Tokens are valid from a little before they are made: the clock of the service that checks them may be behind ours.
CLOCK_SKEW = 30.0

#: How long a key is published before it signs. Services hear of it within a second.
PUBLISHED_BEFORE = 2.0

#: A key is kept this much longer than its latest token needs, so that not every login writes to the key's row.
_SLACK = 86_400.0


@dataclass(frozen=True, slots=True)
class Token:
    """A session token and what it says; `expires` in seconds since 1970."""

    text: str = field(repr=False)
    username: str
    expires: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login or a refresh gives: times in seconds since 1970, `ends` None = refreshes are without end."""

    token: Token
    refresh: RefreshToken
    expires: float
    ends: float | None


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Spans in seconds: of a token, of a session without a refresh, and how long two may use one refresh token."""

    token: float
    session: float
    grace: float


class Sessions:
    """Begins, refreshes and ends sessions, and rotates the key that signs their tokens.

    Nothing is cached: a rotation by another replica holds from the moment it is committed. `key` is the deployment's own, from which
    refresh tokens follow.
    """

    def __init__(
        self, store: Store, sessions: SessionStore, keys: KeyStore, issuer: str, key: bytes, lifetimes: Lifetimes
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._keys = keys
        self.issuer = issuer
        self._key = key
        self._lifetimes = lifetimes

    async def begin(self, proven: Proven, author: Author) -> Grant:
        """Begin the session of somebody who has proved who they are. Raises NotProven if they may not log in."""
        now = time.time()
        if proven.ends is not None and proven.ends <= now:
            raise NotProven(proven.refusal, "the proof expires at once")
        expires = _earlier(now + self._lifetimes.session, proven.ends)
        token_until = math.ceil(_earlier(now + self._lifetimes.token, expires))
        signing = await self._key_until(token_until)
        refresh = RefreshToken.first(uuid4())
        async with self._sessions.logins() as logins:
            subject = await logins.subject(proven.username)
            if subject is None or subject.disabled:
                raise NotProven(proven.refusal, "no such user" if subject is None else "disabled")
            if proven.secret is not None and not await logins.has_secret(subject.name, proven.secret):
                raise NotProven(proven.refusal, "the password was changed just now")
            await logins.insert(
                refresh.session,
                subject.name,
                proven.method,
                author,
                expires=expires,
                ends=proven.ends,
                token_until=token_until,
                refresh_hash=refresh.hash,
            )
            detail = {"session": str(refresh.session), **proven.detail}
            await logins.record(Event("LOGIN", author, subject.name, method=proven.method, detail=detail))
        token = self._token(signing, subject, refresh.session, token_until, now)
        return Grant(token, refresh, expires, proven.ends)

    async def issue(self, name: str, lifetime: float | None, author: Author) -> Token:
        """Make a token for a user, which cannot be refreshed; `lifetime` in seconds, None = that of a session.

        Raises Refusal (USER_NOT_FOUND): disabled users get none, as if they did not exist.
        """
        now = time.time()
        expires = math.ceil(now + (self._lifetimes.session if lifetime is None else lifetime))
        signing = await self._key_until(expires)
        session = uuid4()
        async with self._sessions.logins() as logins:
            subject = await logins.subject(name)
            if subject is None or subject.disabled:
                what = "not found" if subject is None else "is disabled"
                raise Refusal("USER_NOT_FOUND", f"user {name} {what}", "username", {"user": name})
            await logins.insert(
                session, name, "issued", author, expires=expires, ends=None, token_until=expires, refresh_hash=None
            )
            detail = {"session": str(session), "lifetime": expires - int(now)}
            await logins.record(Event("TOKEN_ISSUED", author, name, detail=detail))
        return self._token(signing, subject, session, expires, now)

    async def refresh(self, presented: RefreshToken, request: UUID, author: Author) -> Grant:
        """Let a session go on. Raises NotProven (REFRESH_REFUSED)."""
        now = time.time()
        signing = await self._key_until(math.ceil(now + self._lifetimes.token))
        async with self._sessions.logins() as logins:
            stored = await logins.lock_session(presented.session)
            if stored is None:
                raise NotProven(_refused(), "no such session")
            verdict = refresh_tokens.judge(stored.tokens, presented, request, now, self._lifetimes.grace)
            if verdict in (Verdict.ROTATE, Verdict.REPEAT):
                subject = await logins.subject(stored.username)
                if subject is None or subject.disabled:
                    raise NotProven(_refused(), "disabled")
                expires = _earlier(now + self._lifetimes.session, stored.ends)
                token_until = math.ceil(_earlier(now + self._lifetimes.token, expires))
                following = presented.next(self._key, request)
                if verdict is Verdict.ROTATE:
                    await logins.rotate(presented.session, request, following.hash)
                await logins.refresh(presented.session, expires=expires, token_until=token_until)
                token = self._token(signing, subject, presented.session, token_until, now)
                return Grant(token, following, expires, stored.ends)
            if verdict is not Verdict.COPIED:
                # with as many statements as for a session that is not there: what they take tells nobody which ones there are
                raise NotProven(_refused(), verdict.value)
        async with self._store.changes() as changes:
            await changes.end_session(stored.username, presented.session)
            detail = {"session": str(presented.session)}
            await changes.record(
                Event("REFRESH_REUSED", author, stored.username, refused=True, reason=verdict.value, detail=detail)
            )
        raise NotProven(_refused(), verdict.value)

    async def rotate(self, author: Author) -> str:
        """Sign with a new key from now on; returns its id. The old ones stay published while a token of theirs is valid."""
        key = SigningKey.generate()
        sealed = sealed_signing_key(self._keys.sealing, key)
        async with self._store.changes() as changes:
            await changes.insert_key(key.public(), sealed, PUBLISHED_BEFORE)
            await changes.record(Event("KEY_ROTATED", author, key.key_id))
        # counted from the commit, while the database counts from a moment before it: when this has passed, the key signs
        await asyncio.sleep(PUBLISHED_BEFORE)
        return key.key_id

    def _token(self, key: SigningKey, subject: Subject, session: UUID, expires: int, now: float) -> Token:
        claims = {
            "iss": self.issuer,
            "sub": subject.name,
            "iat": int(now),
            "nbf": int(now - CLOCK_SKEW),
            "exp": expires,
            "jti": uuid4().hex,
            "sid": str(session),
            "ver": subject.version,
            "adm": subject.admin,
            "roles": list(subject.roles),
        }
        text = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.key_id})
        return Token(text, subject.name, expires)

    async def _key_until(self, expires: int) -> SigningKey:
        """Return the key that signs, having made sure that it stays published until then."""
        while True:
            key, needed_until = await self._keys.signing_key()
            if needed_until >= expires or await self._keys.need_key(key.key_id, expires + _SLACK):
                return key


def _earlier(end: float, limit: float | None) -> float:
    """Return the earlier of two times, to the microsecond, as the database keeps it."""
    return round(end if limit is None else min(end, limit), 6)


def _refused() -> Refusal:
    return Refusal("REFRESH_REFUSED", "the session cannot be refreshed: log in again")
