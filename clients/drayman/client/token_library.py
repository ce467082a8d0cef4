"""The token library: a file with one `URL token` pair a line, where logins are kept.

Data Dispatcher, section 1.3 of its behaviour: mode 0600; the first of `$HOME/.token_library`, `./.token_library`, `/tmp/.token_library`
that exists and can be read counts, else it is created at the first of them that can be written. The URL is compared literally.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from drayman.client.session_token import expired

#: What tells one state of the file from another. The time alone does not: its clock ticks slowly, and logins come in scripts.
Stamp = tuple[int, int, int]

_NAME = ".token_library"
_SHARED = Path("/tmp") / _NAME  # noqa: S108 - the documented third place; what is not ours there is not trusted


class TokenLibrary:
    """Tokens by URL, in a file. `path` None = the documented search."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._given = Path(path) if path is not None else None
        self._loaded: tuple[Path, Stamp] | None = None
        self._tokens: dict[str, str] = {}
        self.reload()

    @property
    def path(self) -> Path | None:
        """The file that counts now; None if there is none yet."""
        return self._given if self._given is not None else next(_existing(_places()), None)

    def reload(self) -> bool:
        """Read the file if it has changed; whether it was read. Expired tokens are dropped, lines that are no pairs ignored."""
        path = self.path
        try:
            if path is None:
                return False
            stamp = stamp_of(path)
            if self._loaded == (path, stamp):
                return False
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        pairs = (line.split() for line in text.splitlines())
        self._tokens = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not expired(pair[1])}
        self._loaded = (path, stamp)
        return True

    def get(self, url: str) -> str | None:
        """Return the token kept for a URL, unless it has expired."""
        self.reload()
        token = self._tokens.get(url)
        return token if token is not None and not expired(token) else None

    def put(self, url: str, token: str) -> None:
        """Keep a token for a URL. Raises OSError if it cannot be written anywhere."""
        self.reload()
        self._tokens[url] = token
        self._write()

    def remove(self, url: str) -> None:
        """Forget the token of a URL. Raises OSError if the file cannot be written."""
        self.reload()
        if self._tokens.pop(url, None) is not None:
            self._write()

    def _write(self) -> None:
        text = "".join(f"{url} {token}\n" for url, token in self._tokens.items() if not expired(token))
        found = self.path
        problem: OSError = FileNotFoundError("no place for a token library")
        for place in [found] if found is not None else _places():
            try:
                replace_file(place, text)
                self._loaded = (place, stamp_of(place))
            except OSError as error:
                problem = error
            else:
                return
        raise problem


def stamp_of(path: Path) -> Stamp:
    """Return what tells one state of a file from another. Raises OSError."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _places() -> list[Path]:
    home = os.environ.get("HOME")
    return [*([Path(home) / _NAME] if home else []), Path.cwd() / _NAME, _SHARED]


def _existing(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        try:
            status = place.stat()
        except OSError:
            continue
        # Anybody may put a file into a shared folder: one of another owner could make us send our token elsewhere, or theirs.
        if status.st_uid == os.geteuid() and os.access(place, os.R_OK):
            yield place


def replace_file(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a file at once and for the owner only: another process sees the old or the new one; `durable`: so does who comes after a crash.

    Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
