"""Where the mirror's session token comes from, how a newer one is noticed, and how that of a login stays valid.

Data Dispatcher, section 1.3 of its behaviour; the latter two are improvements: there a running client kept what it had.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

from drayman.client.errors import UnavailableError
from drayman.client.session_keeper import Again, SessionKeeper
from drayman.client.session_token import Session, expired
from drayman.client.token_library import TokenLibrary


class TokenSources:
    """The `token` argument or the last login, else the token file, else `DRAYMAN_TOKEN`, else the library: the first not expired.

    Tokens of a login, here or in the library, are replaced before they expire.

    Raises OSError if the token file is needed at once and cannot be read.
    """

    def __init__(
        self,
        url: str | None,
        token: Any = None,
        token_file: str | os.PathLike[str] | None = None,
        library: str | os.PathLike[str] | None = None,
    ) -> None:
        self._url = url
        self._held = _fresh(encoded(token))
        self._file = Path(token_file) if token_file else None
        self._file_token: str | None = None
        self._file_stamp = -1
        self._environment = _fresh(os.environ.get("DRAYMAN_TOKEN"))
        self._last: str | None = None
        self.library = TokenLibrary(library)
        self._keeper = SessionKeeper(url, self.library)
        self._sent = threading.local()
        if self._held is None and self._file is not None:
            self._read_file(self._file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_sent"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _sent=threading.local())

    @property
    def current(self) -> str | None:
        """The encoded token to call with. If all have expired, the last one: the service then says what is wrong with it."""
        token = self._given() or self._keeper.token()
        self._last = token or self._last
        return self._last

    def fresh(self) -> str | None:
        """Return the token for the next call of this thread, after getting a new one if it is time and auth answers."""
        token = self._given()
        if token is None:
            token, wanted = self._keeper.state()
            if wanted:
                # the service will say that it has expired: then there is time to wait
                with contextlib.suppress(UnavailableError):
                    token = self._keeper.renew()
        self._last = token or self._last
        self._sent.token = self._last
        return self._last

    def renew(self) -> bool:
        """Get another token than the one with which a call of this thread was just refused; whether there is one.

        Raises UnavailableError if auth is away.
        """
        sent = getattr(self._sent, "token", None)
        if sent is None or self._given() == sent:
            return False
        found = self._given() or self._keeper.renew(sent)
        return found is not None and found != sent

    def use(self, token: Any) -> None:
        """Call with this token from now on; None = with what the other sources have."""
        self._keeper.let_go()
        self._held = self._last = encoded(token)

    def update(self) -> None:
        """Take the library's token if the library has changed since it was read."""
        if self.library.reload():
            self._held = self._from_library() or self._held

    def take(self, session: Session, auth_url: str, again: Again | None) -> None:
        """Call with the tokens of a login and put it into the library for the server's URL, where that can be written.

        `again` logs in once more when the session has ended.
        """
        self._held = None
        self._last = session.token
        self._keeper.take(session, auth_url, again)
        if self._url is not None:
            with contextlib.suppress(OSError):
                self._keeper.keep()

    def _given(self) -> str | None:
        """Return the token that was given, unless there was a login since."""
        if self._keeper.bound:
            return None
        return _fresh(self._held) or self._from_file() or _fresh(self._environment)

    def _from_library(self) -> str | None:
        return self.library.get(self._url) if self._url is not None else None

    def _from_file(self) -> str | None:
        if self._file is not None:
            try:
                if self._file.stat().st_mtime_ns != self._file_stamp:
                    self._read_file(self._file)
            except OSError:
                pass  # what was read before serves as long as it is valid
        return _fresh(self._file_token)

    def _read_file(self, path: Path) -> None:
        self._file_stamp = path.stat().st_mtime_ns
        self._file_token = path.read_text(encoding="utf-8").strip() or None


def encoded(token: Any) -> str | None:
    """Return a token as text; takes text, bytes, and objects whose `encode()` or `str()` gives one."""
    if token is not None and not isinstance(token, str | bytes):
        token = token.encode() if hasattr(token, "encode") else str(token)
    if isinstance(token, bytes):
        token = token.decode()
    return token.strip() or None if isinstance(token, str) else None


def _fresh(token: str | None) -> str | None:
    return token if token and not expired(token) else None
