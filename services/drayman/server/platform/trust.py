"""What a service knows by which it judges session tokens: keys, what users may do now, sessions that were ended, and how fresh that is.

Auth pushes it (`trust_watch`); nothing here does I/O. A token says what held when it was made; what was pushed since goes before it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jwt

from drayman.server.platform.errors import Refusal

_FIRST_WORD = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: what a verified token says, and what has changed since.

    `session` is the id of the session that the token belongs to, `version` that of the user's standing when it was made.
    """

    username: str
    admin: bool
    roles: frozenset[str]
    expires: float
    token: str = dataclasses.field(repr=False)
    session: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user may do now. Tokens of a version below `valid_from` are refused."""

    version: int
    valid_from: int
    admin: bool
    roles: frozenset[str]


class Trust:
    """What auth has told. `silence` is how many seconds it stays good without a further word of auth."""

    def __init__(self, silence: float) -> None:
        self.keys: Mapping[str, jwt.PyJWK] = {}
        self.issuer = ""
        self._silence = silence
        self._standings: dict[str, Standing] = {}
        self._ended: dict[str, float] = {}
        self._heard = -math.inf
        self._complete = asyncio.Event()
        self._tell: list[Callable[[frozenset[str] | None], None]] = []

    def subscribe(self, hear: Callable[[frozenset[str] | None], None]) -> None:
        """Call `hear(names)` when something about these users has changed; None = perhaps about everybody."""
        self._tell.append(hear)

    # --- what auth tells ---------------------------------------------------------------------------------------------

    def learn(
        self, standings: Mapping[str, Standing], ended: Iterable[tuple[str, str, float]], *, complete: bool
    ) -> None:
        """Take in what changed, or, if it is `complete`, everything. `ended` has (session id, user, until when it matters)."""
        ended = list(ended)
        now = time.time()
        if complete:
            # what was known and is not repeated has lost its meaning: no token of it is left
            self._standings, self._ended = dict(standings), {}
        else:
            for name, standing in standings.items():
                known = self._standings.get(name)
                if known is None or known.version < standing.version:  # what is told twice may come late
                    self._standings[name] = standing
        self._ended = (
            {session: until for session, until in self._ended.items() if until > now} if ended else self._ended
        )
        self._ended.update((session, until) for session, _, until in ended)
        self._heard = time.monotonic()
        self._complete.set()
        concerned = frozenset([*standings, *(name for _, name, _ in ended)])
        if complete or concerned:
            for tell in self._tell:
                tell(None if complete else concerned)

    def learn_keys(self, jwks_json: str, issuer: str) -> None:
        """Take in the published keys: all of them."""
        fresh = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.loads(jwks_json)).keys if key.key_id}
        withdrawn = self.keys.keys() - fresh.keys() or issuer != self.issuer
        self.keys, self.issuer = fresh, issuer
        if withdrawn:
            for tell in self._tell:
                tell(None)

    # --- what follows from it ----------------------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether auth was heard of lately enough."""
        return time.monotonic() - self._heard <= self._silence

    async def require_fresh(self) -> None:
        """Wait a little for auth's first word. Raises Refusal (UNAVAILABLE) if there is none, or none for too long."""
        try:
            async with asyncio.timeout(_FIRST_WORD):
                await self._complete.wait()
        except TimeoutError:
            raise Refusal(
                "UNAVAILABLE", "auth has not been heard of: nobody's token can be judged", retry_after=1.0
            ) from None
        if not self.fresh:
            message = f"auth has not been heard of for {self._silence:g} s: no token can be trusted just now"
            raise Refusal("UNAVAILABLE", message, retry_after=1.0)

    def judge(self, caller: Caller) -> Caller:
        """Return the caller with what they may do now. Raises Refusal (TOKEN_REVOKED)."""
        if caller.session in self._ended:
            raise Refusal("TOKEN_REVOKED", "Token revoked: its session was ended")
        standing = self._standings.get(caller.username)
        if standing is None or standing.version <= caller.version:
            return caller
        if caller.version < standing.valid_from:
            raise Refusal("TOKEN_REVOKED", "Token revoked: made before all tokens of this user were revoked")
        return dataclasses.replace(caller, admin=standing.admin, roles=standing.roles)
