"""Keeps a session going: the next token before the last one expires, whoever of several processes or threads gets it.

A session lies in the file beside the token library, for everybody with this home folder, or in memory, for this process: after a login
that nobody kept, or where there is no place to write or no lock to be had.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from drayman.client.bearer_discovery import BearerTokenError
from drayman.client.errors import DraymanError, InvalidRequestError, UnauthenticatedError, UnavailableError
from drayman.client.login_exchange import refresh
from drayman.client.session_file import KeptSession, LockBusyError, SessionBook, SessionFile
from drayman.client.session_token import Session, due, expiration, expired, issued, session_id_of
from drayman.client.token_library import TokenLibrary

#: Seconds that a renewal may take: while the old token serves, and when it does not any more.
_BRIEFLY = 5.0
_PATIENTLY = 30.0
#: Seconds before looking again what another process does that renews the session.
_GLANCE = 0.05
#: Seconds before auth, which did not answer, is asked again while the old token serves; doubled each time up to the second.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
#: Seconds before a login that was refused is tried again.
_AFTER_REFUSAL = 60.0
#: A difference of clocks, in seconds, that is none.
_SAME_TIME = 5.0


class _NoLockError(Exception):
    """There is no lock to be had, or no place to write."""


#: Logs in again, with what is left of the login. Raises DraymanError, and what reading files raises.
Again = Callable[[], Session]


class SessionKeeper:
    """The token that the token library has for `url`, or that of a login of this client. Threads may share it.

    A forked child must not use up its parent's refresh token: a session in memory stays with the process that logged in, also when a keeper
    is pickled; the other one has the token while it lasts.
    """

    def __init__(self, url: str | None, library: TokenLibrary | None = None) -> None:
        self._url = url
        self.library = library if library is not None else TokenLibrary()
        self._file = SessionFile(self.library)
        # of a login of this client: where, the last token, and how to do it again; the session itself in memory, or its id in the file
        self._auth_url = ""
        self._token: str | None = None
        self._again: Again | None = None
        self._mine: KeptSession | None = None
        self._in_file = ""
        self._shared = False
        self._last: str | None = None
        self._skew = 0.0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._flight = threading.Lock()
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._no_login_before = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_flight", "_again", "_mine")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _again=None, _mine=None)
        self._begin()

    # --- logins ------------------------------------------------------------------------------------------------------

    @property
    def bound(self) -> bool:
        """Whether this client has logged in: its token then goes before all that was found."""
        return self._token is not None

    def take(self, session: Session, auth_url: str, again: Again | None) -> None:
        """Use a session that just began, in memory. `again` begins another one when it has ended."""
        if self._pid != os.getpid():
            self._begin()
        self._note_clock(session.token)
        self._mine = KeptSession(session, self._url or auth_url, auth_url)
        self._in_file, self._shared = "", False
        self._auth_url, self._token, self._again = auth_url, session.token, again

    def keep(self) -> bool:
        """Put the token of the login into the library, and its session into the file: for others, and for later.

        Returns whether they can renew it; if not, only this client can. Raises OSError if the library cannot be written either.
        """
        mine = self._mine
        if mine is None:
            return bool(self._in_file)
        self._shared = True
        if self.library.path is None:
            self.library.put(mine.url, mine.session.token)
        if mine.session.refresh_token and mine.session.session_id:
            with contextlib.suppress(OSError, LockBusyError), self._file.locked(_PATIENTLY) as book:
                book.add(mine)
                self._file.write(book)
                self._in_file, self._mine = mine.session.session_id, None
        self.library.put(mine.url, mine.session.token)
        return self._mine is None

    def forget(self) -> None:
        """Forget the session here and in the files. Raises OSError if they cannot be written."""
        token = self._look()[0]
        self.let_go()
        session_id = session_id_of(token or "")
        try:
            if session_id in self._file.read().sessions:
                with self._file.locked(_PATIENTLY) as book:
                    book.remove(session_id)
                    self._file.write(book)
        except LockBusyError as error:
            raise OSError(str(error)) from None
        finally:
            if self._url is not None:
                self.library.remove(self._url)

    def let_go(self) -> None:
        """Use what the library has, and no login of this client any more."""
        self._mine, self._in_file, self._token, self._again, self._last = None, "", None, None, None

    # --- tokens ------------------------------------------------------------------------------------------------------

    def token(self) -> str | None:
        """Return the token to call with now, None if there is none. If all have expired it is one of them: the service says so then."""
        return self._look()[0]

    def session(self) -> Session | None:
        """Return the session whose token that is; None if it cannot be renewed."""
        kept = self._look()[1]
        return kept.session if kept is not None else None

    def state(self) -> tuple[str | None, bool]:
        """Return the token to call with, and whether `renew` should be asked first. This is what every call pays."""
        token = self._token or self._from_library()
        if token is not None and not due(token, self._now()):
            return token, False
        token, kept = self._look()
        return token, self._wants(token, kept)

    def renew(self, refused: str | None = None) -> str | None:
        """Return a token to call with, a new one if it is time, or if a service refused this one; None if there is none.

        Where nothing better can be had it is the old one. Raises UnavailableError if that has expired, or was refused, and auth is away.
        """
        if self._pid != os.getpid():
            self._begin()
            self._mine = None
        token = self.token()
        usable = refused is None and self._serves(token)
        if not self._flight.acquire(blocking=not usable):
            return token  # another thread is at it
        try:
            return self._renewed(refused, usable=usable)
        except UnavailableError as error:
            self._rest(error.retry_after)
            if usable:
                return token
            raise
        finally:
            self._flight.release()

    def _renewed(self, refused: str | None, *, usable: bool) -> str | None:
        token, kept = self._look()
        if refused is None and not self._wants(token, kept):
            return token
        if refused is not None and token != refused and self._serves(token):
            return token  # somebody has been at it
        session = None
        if kept is not None and not self._ends_with_token(kept):
            try:
                session = self._next(kept, refused, usable=usable)
            except LockBusyError as error:
                if usable:  # another process is at it
                    self._not_before = time.monotonic() + _GLANCE
                    return token
                raise UnavailableError(str(error)) from None
            except _NoLockError:
                # it would be taken from those who have both: the token serves until it expires, and they may have written another one
                self._rest()
                if usable:
                    return token
            else:
                if session is None:
                    self._ended()
        session = session or self._log_in_again()
        if session is None:
            return self.token()
        self._pause = _FIRST_PAUSE
        return session.token

    def _look(self) -> tuple[str | None, KeptSession | None]:
        """Return the token and, if it can be renewed, its session."""
        mine = self._mine
        if mine is not None and self._pid == os.getpid():
            return mine.session.token, mine if mine.session.refresh_token else None
        book = self._file.read()
        if self._token is not None:
            kept = book.sessions.get(self._in_file)
            if kept is not None:
                self._token = _later(self._token, kept.session.token)
                return self._token, kept
            if self._serves(self._token):
                return self._token, None
        token = self._from_library()
        session_id = session_id_of(token) if token is not None else book.current.get(self._url or "", "")
        kept = book.sessions.get(session_id)
        if kept is None or kept.url != self._url:
            return token or self._token or self._last, None
        return _later(token, kept.session.token), kept

    def _from_library(self) -> str | None:
        return self.library.get(self._url) if self._url is not None else None

    def _serves(self, token: str | None) -> bool:
        return token is not None and not expired(token, self._now())

    def _wants(self, token: str | None, kept: KeptSession | None) -> bool:
        """Whether it is time for another token, and there is a way to one."""
        if token is not None and not due(token, self._now()):
            return False
        now = time.monotonic()
        if (kept is None or self._ends_with_token(kept)) and (self._again is None or now < self._no_login_before):
            return False
        return now >= self._not_before or not self._serves(token)

    def _ends_with_token(self, kept: KeptSession) -> bool:
        """Whether the session ends with its last token: nothing better can be had of it."""
        end, last = kept.session.session_end, expiration(kept.session.token)
        return end is not None and last is not None and last > end.timestamp() - 0.5

    # --- renewals ----------------------------------------------------------------------------------------------------

    def _next(self, kept: KeptSession, refused: str | None, *, usable: bool) -> Session | None:
        """Get the next tokens of a session; None if it has ended. Raises UnavailableError, LockBusyError, _NoLockError."""
        timeout = _BRIEFLY if usable else _PATIENTLY
        if self._mine is not None:
            return self._next_in_memory(self._mine, timeout)
        try:
            return self._next_in_file(kept.session.session_id, refused, 0.0 if usable else _PATIENTLY, timeout)
        except OSError as error:
            raise _NoLockError from error

    def _ended(self) -> None:
        """The session is over: what others have written since then counts, and only then its last token, so that a service says so."""
        if self._token is not None:
            self._last = self._token
        self._mine, self._in_file, self._token = None, "", None

    def _rest(self, at_least: float | None = None) -> None:
        self._not_before = time.monotonic() + max(self._pause, at_least or 0.0)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _next_in_memory(self, mine: KeptSession, timeout: float) -> Session | None:
        mine = self._mine = replace(mine, request_id=mine.request_id or str(uuid4()))
        session = self._exchange(mine, timeout)
        if session is not None:
            self._mine = replace(mine, session=session, request_id="")
            self._token = session.token
        return session

    def _next_in_file(self, session_id: str, refused: str | None, wait: float, timeout: float) -> Session | None:
        with self._file.locked(wait) as book:
            entry = book.sessions.get(session_id)
            if entry is None:
                return None
            if entry.session.token != refused and not due(entry.session.token, self._now()):
                self._publish(book, entry)
                return entry.session
            if not entry.request_id:
                # before the call: whoever comes next, should this process end now, repeats it and does not ask for something else
                entry = book.sessions[session_id] = replace(entry, request_id=str(uuid4()))
                self._file.write(book)
            session = self._exchange(entry, timeout)
            if session is None:
                book.remove(session_id)
                with contextlib.suppress(OSError):
                    self._file.write(book)
                return None
            if self._in_file == session_id:
                self._token = session.token
            entry = book.sessions[session_id] = replace(entry, session=session, request_id="")
            # if that fails the next renewal repeats this one, and gets the same refresh token again
            with contextlib.suppress(OSError):
                self._file.write(book)
            self._publish(book, entry)
            return session

    def _exchange(self, kept: KeptSession, timeout: float) -> Session | None:
        """Use the refresh token; None if the session has ended. Raises UnavailableError."""
        try:
            session = refresh(kept.auth_url, kept.session.refresh_token, kept.request_id, timeout)
        except (UnauthenticatedError, InvalidRequestError):
            return None
        except DraymanError as error:
            text = f"the session cannot be renewed: {error.message}"
            raise UnavailableError(text, code=error.code, retry_after=error.retry_after) from None
        except (ValueError, OSError) as error:  # a URL that is not taken here, a CA file that is not there
            raise UnavailableError(f"the session cannot be renewed: {error}") from None
        self._note_clock(session.token)
        return session

    def _publish(self, book: SessionBook, entry: KeptSession) -> None:
        """Put the token where other programs look for it, unless another login is there."""
        session_id, token = entry.session.session_id, entry.session.token
        there = self.library.get(entry.url)
        mine = book.current.get(entry.url) == session_id if there is None else session_id_of(there) == session_id
        if mine and there != token:
            with contextlib.suppress(OSError):
                self.library.put(entry.url, token)

    def _log_in_again(self) -> Session | None:
        """Begin another session with what is left of the login; None if there is nothing, or it is refused. Raises UnavailableError."""
        again, shared = self._again, self._shared
        if again is None or time.monotonic() < self._no_login_before:
            return None
        try:
            session = again()
        except UnavailableError:
            raise
        except (DraymanError, BearerTokenError, ValueError, OSError) as error:
            self._no_login_before = time.monotonic() + _AFTER_REFUSAL
            if isinstance(error, DraymanError) and error.reason == "LOGIN_REFUSED":
                self._again = None  # a password that is wrong now will not be right later, and each try counts
            return None
        self.take(session, self._auth_url, again)
        if shared:
            with contextlib.suppress(OSError):
                self.keep()
        return session

    # --- clocks ------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Return the time by the clock of auth, as far as it is known."""
        return time.time() - self._skew

    def _note_clock(self, token: str) -> None:
        made = issued(token)
        skew = time.time() - made if made is not None else 0.0
        self._skew = skew if abs(skew) > _SAME_TIME else 0.0


def _later(one: str | None, other: str) -> str:
    """Return the token that expires later."""
    return one if one is not None and (expiration(one) or 0.0) > (expiration(other) or 0.0) else other
