"""Where a client's session token comes from, and how it stays valid."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from drayman.client.channel import DEFAULT_URL
from drayman.client.errors import DraymanError
from drayman.client.session_keeper import Again, SessionKeeper
from drayman.client.session_token import Session
from drayman.client.token_library import TokenLibrary

Metadata = Sequence[tuple[str, str]]

#: Refusals that another token of the same session may cure.
_CURABLE = ("TOKEN_EXPIRED", "TOKEN_REVOKED")


class Credentials:
    """The token to call with: the given one, else `DRAYMAN_TOKEN`, else what the token library holds for the URL.

    The library is looked at with each call, so that a login of another process is noticed. A token of a session that can be renewed, there
    or of a login of this client, is replaced before it expires. A token that was given, or stands in `DRAYMAN_TOKEN`, is used as it is.
    """

    def __init__(self, url: str | None = None, token: str | None = None, library: TokenLibrary | None = None) -> None:
        self._url = url or os.environ.get("DRAYMAN_URL") or DEFAULT_URL
        self._token = token or os.environ.get("DRAYMAN_TOKEN") or None
        self._library = library
        self._found: SessionKeeper | None = None
        self._flight: asyncio.Future[str | None] | None = None

    @property
    def url(self) -> str:
        """The deployment, as the token library calls it."""
        return self._url

    @property
    def token(self) -> str | None:
        """The encoded token, or None: calls are anonymous then."""
        return self._token or self._keeper.token()

    @property
    def session(self) -> Session | None:
        """The session that the token belongs to; None if it cannot be renewed."""
        return None if self._token else self._keeper.session()

    def use(self, token: str | None) -> None:
        """Call with this token from now on; None = with what the library has."""
        self._token = token
        self._keeper.let_go()

    def take(self, session: Session, again: Again | None = None) -> None:
        """Call with the tokens of a login from now on. `again` logs in once more when its session has ended; it runs in a thread."""
        self._token = None
        self._keeper.take(session, self._url, again)

    def keep(self) -> bool:
        """Put the login into the token library, for other processes; whether they can renew it. Raises OSError if it cannot be written."""
        return self._keeper.keep()

    def forget(self) -> None:
        """Forget the session, also in the token library. Raises OSError if that cannot be written."""
        self._token = None
        self._keeper.forget()

    def metadata(self) -> Metadata:
        """Return what goes with a call, as things are."""
        return bearer(self.token)

    async def fresh(self) -> Metadata:
        """Return what goes with a call, with the next token if it is time. Raises UnavailableError if the old one is of no use any more."""
        if self._token:
            return bearer(self._token)
        keeper = self._keeper
        token, wanted = keeper.state()
        return bearer(await self._joined(keeper.renew) if wanted else token)

    async def cures(self, problem: DraymanError, refused: Metadata) -> bool:
        """Whether a call that was refused so may be sent again with what `fresh` returns then. Raises UnavailableError."""
        if problem.reason not in _CURABLE or self._token or not refused:
            return False
        keeper = self._keeper
        before = token_of(refused)
        for _ in range(2):  # the first may join somebody who knows of no refusal
            after = await self._joined(lambda: keeper.renew(before))
            if after is not None and after != before:
                return True
        return False

    @property
    def _keeper(self) -> SessionKeeper:
        # who has a token needs no file
        if self._found is None:
            self._found = SessionKeeper(self._url, self._library)
        return self._found

    async def _joined(self, renew: Callable[[], str | None]) -> str | None:
        """Renew in a thread, once for all tasks that want to."""
        flight = self._flight
        if flight is None or flight.done() or flight.get_loop() is not asyncio.get_running_loop():
            flight = self._flight = asyncio.ensure_future(asyncio.to_thread(renew))
            flight.add_done_callback(_seen)
        return await asyncio.shield(flight)


def bearer(token: str | None) -> Metadata:
    """Return the metadata that carries a token; nothing if there is none."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def token_of(metadata: Metadata) -> str | None:
    """Return the token that metadata carries."""
    return next((value.removeprefix("Bearer ") for key, value in metadata if key == "authorization"), None)


def _seen(flight: asyncio.Future[str | None]) -> None:
    if not flight.cancelled():
        flight.exception()  # whoever waited may have been cancelled
