"""Where the mirror's session token comes from, and how a newer one is noticed.

Data Dispatcher, section 1.3 of its behaviour; noticing is an improvement: there a running client kept what it had.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from drayman.client.token_library import TokenLibrary, expired


class TokenSources:
    """The `token` argument or the last login, else the token file, else `DRAYMAN_TOKEN`, else the library: the first not expired.

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
        if self._held is None and self._file is not None:
            self._read_file(self._file)

    @property
    def current(self) -> str | None:
        """The encoded token to call with. If all have expired, the last one: the service then says what is wrong with it."""
        token = _fresh(self._held) or self._from_file() or _fresh(self._environment) or self._from_library()
        self._last = token or self._last
        return self._last

    def use(self, token: Any) -> None:
        """Call with this token from now on; None = with what the other sources have."""
        self._held = self._last = encoded(token)

    def update(self) -> None:
        """Take the library's token if the library has changed since it was read."""
        if self.library.reload():
            self._held = self._from_library() or self._held

    def keep(self, token: str) -> None:
        """Call with the token of a login and put it into the library for the server's URL. Raises OSError if it cannot be written."""
        self.use(token)
        if self._url is not None:
            self.library.put(self._url, token)

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
