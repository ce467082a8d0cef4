"""Sessions that several processes share: a file beside the token library, and a lock, since a refresh token serves once.

The library stays what other programs know, one `URL token` a line. The file is `<library>.sessions`, a JSON object of mode 0600; whoever
renews a session holds `<library>.sessions.lock` from reading the refresh token to having written the next one down.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drayman.client.session_token import Session, expiration, expired
from drayman.client.token_library import Stamp, TokenLibrary, replace_file, stamp_of

_VERSION = 1
_LARGEST = 4 * 1024 * 1024
#: Seconds between two looks at a lock that somebody holds.
_LOOKS = (0.005, 0.03)


class LockBusyError(Exception):
    """Somebody else holds the lock, for longer than one would wait."""


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A session, the `url` whose it is in the token library, and where auth is.

    `request_id` is that of a renewal whose answer is not known: the next attempt repeats it. "" = there is none.
    """

    session: Session
    url: str
    auth_url: str
    request_id: str = ""


@dataclass(slots=True)
class SessionBook:
    """Sessions by id, and which one was begun last for a URL."""

    sessions: dict[str, KeptSession] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)

    def add(self, kept: KeptSession) -> None:
        """Take up a session that just began."""
        self.sessions[kept.session.session_id] = kept
        self.current[kept.url] = kept.session.session_id

    def remove(self, session_id: str) -> None:
        """Forget a session, if it is there."""
        kept = self.sessions.pop(session_id, None)
        if kept is not None and self.current.get(kept.url) == session_id:
            del self.current[kept.url]


class SessionFile:
    """The sessions beside a token library."""

    def __init__(self, library: TokenLibrary) -> None:
        self._library = library
        # one value, for threads: when it was read, and what it was
        self._loaded: tuple[tuple[Path, Stamp] | None, SessionBook] = None, SessionBook()

    @property
    def path(self) -> Path | None:
        """The file; None while there is no token library."""
        library = self._library.path
        return library.with_name(f"{library.name}.sessions") if library is not None else None

    def read(self) -> SessionBook:
        """Return what the file holds now, not to be changed; nothing if it cannot be read or was never written."""
        try:
            path = self.path
            if path is None:
                return SessionBook()
            state = path, stamp_of(path)
            read, book = self._loaded
            if read != state:
                book = _parsed(_text(path))
                self._loaded = state, book
        except (OSError, ValueError):
            return SessionBook()
        return book

    @contextmanager
    def locked(self, wait: float) -> Iterator[SessionBook]:
        """Hold the lock, and yield what the file holds, to be changed and given to `write`.

        Raises LockBusyError if others hold it for `wait` seconds, and OSError where there is no lock to be had.
        """
        path = self.path
        if path is None:
            raise FileNotFoundError("there is no token library")
        handle = _own_file(path.with_name(f"{path.name}.lock"))
        try:
            _lock(handle, wait)
            try:
                yield self._latest(path)
            finally:
                # not left to closing: a process that was forked meanwhile would go on holding it
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)

    def write(self, book: SessionBook) -> None:
        """Write the book down, without sessions that are over. Only under the lock. Raises OSError."""
        path = self.path
        if path is None:
            raise FileNotFoundError("there is no token library")
        now = datetime.now(UTC)
        for session_id, kept in list(book.sessions.items()):
            end = kept.session.session_expires
            if end is not None and end <= now and expired(kept.session.token):
                book.remove(session_id)
        replace_file(path, json.dumps(_document(book), indent=1) + "\n", durable=True)
        self._loaded = None, SessionBook()

    def _latest(self, path: Path) -> SessionBook:
        """Read the file whatever was read before. Raises OSError for one of a newer version, which must not be written over."""
        try:
            return _parsed(_text(path))
        except FileNotFoundError:
            return SessionBook()
        except _NewerError:
            raise OSError(f"{path} was written by a newer version") from None
        except ValueError:
            return SessionBook()  # damaged: its sessions are lost, a login makes new ones


class _NewerError(ValueError):
    """A file of a newer version."""


def _own_file(path: Path) -> int:
    """Open a file for locking, making it if need be. Raises OSError, also if it is not ours: another could keep us waiting for ever."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.fstat(handle).st_uid != os.geteuid():
        os.close(handle)
        raise PermissionError(f"{path} belongs to somebody else")
    return handle


def _lock(handle: int, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise LockBusyError("another process is renewing the session") from None
            time.sleep(random.uniform(*_LOOKS))  # noqa: S311 - spreads a fleet
        else:
            return


def _text(path: Path) -> str:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to somebody else")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("too large")
    return data.decode()


def _document(book: SessionBook) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "current": book.current,
        "sessions": {session_id: _record(kept) for session_id, kept in book.sessions.items()},
    }


def _record(kept: KeptSession) -> dict[str, Any]:
    session = kept.session
    return {
        "url": kept.url,
        "auth_url": kept.auth_url,
        "username": session.username,
        "token": session.token,
        "refresh_token": session.refresh_token,
        "request_id": kept.request_id,
        "session_expires": _seconds(session.session_expires),
        "session_end": _seconds(session.session_end),
    }


def _parsed(text: str) -> SessionBook:
    """Read a file. Raises ValueError; of what is in it, entries that are none are left out."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("no sessions") from None
    version = document.get("version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ValueError("no sessions")  # noqa: TRY004 - a file's content is at fault
    if version > _VERSION:
        raise _NewerError
    book = SessionBook()
    for session_id, record in _members(document, "sessions").items():
        kept = _kept(record)
        if kept is not None and kept.session.session_id == session_id:
            book.sessions[session_id] = kept
    for url, session_id in _members(document, "current").items():
        if isinstance(session_id, str) and session_id in book.sessions:
            book.current[url] = session_id
    return book


def _kept(record: Any) -> KeptSession | None:
    if not isinstance(record, dict):
        return None
    names = ("url", "auth_url", "username", "token", "refresh_token", "request_id")
    texts = [record.get(name) for name in names]
    if not all(isinstance(text, str) for text in texts):
        return None
    url, auth_url, username, token, refresh_token, request_id = map(str, texts)
    expires = _moment(expiration(token))
    if expires is None:
        return None
    session = Session(
        token,
        username,
        expires,
        refresh_token,
        _moment(record.get("session_expires")),
        _moment(record.get("session_end")),
    )
    return KeptSession(session, url, auth_url, request_id)


def _members(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment is not None else None


def _moment(seconds: Any) -> datetime | None:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
