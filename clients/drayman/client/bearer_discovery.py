"""Where a bearer token of another issuer lies: the WLCG Bearer Token Discovery.

`BEARER_TOKEN`, then the file that `BEARER_TOKEN_FILE` names, then `bt_u<uid>` in `$XDG_RUNTIME_DIR`, then in `/tmp`. The first that is set
or exists counts; an empty one does not. One that cannot be read or holds no token is an error: nobody wants another token silently.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: What C calls space, and no more.
_SPACE = " \f\n\r\t\v"
#: RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LONGEST = 64 * 1024
_SHARED = Path("/tmp")  # noqa: S108 - the documented place; files of others are refused there


class BearerTokenError(Exception):
    """There is a place for a token, but no token that could be used; the text names the place."""


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token, and where it came from: the name of a variable, or of a variable and a file, or of a file."""

    token: str = field(repr=False)
    source: str


def discover_bearer_token(
    environment: Mapping[str, str] | None = None, *, shared: Path = _SHARED
) -> BearerToken | None:
    """Return the token that counts, None if there is none. `shared` is the folder of the last place. Raises BearerTokenError."""
    environment = os.environ if environment is None else environment
    given = environment.get("BEARER_TOKEN", "").strip(_SPACE)
    if given:
        return BearerToken(_checked(given, "BEARER_TOKEN"), "BEARER_TOKEN")
    named = environment.get("BEARER_TOKEN_FILE")
    if named:
        source = f"BEARER_TOKEN_FILE={named}"
        text = _read(Path(named), source)
        if text is None:
            raise BearerTokenError(f"{source}: no such file")
        if text:
            return BearerToken(_checked(text, source), source)
    name = f"bt_u{os.geteuid()}"
    runtime = environment.get("XDG_RUNTIME_DIR")
    for folder in [*([Path(runtime)] if runtime else []), shared]:
        source = str(folder / name)
        text = _read(folder / name, source)
        if text:
            return BearerToken(_checked(text, source), source)
    return None


def _checked(text: str, source: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise BearerTokenError(f"{source}: what is there is no bearer token (RFC 6750)")
    return text


def _read(path: Path, source: str) -> str | None:
    """Return what a file holds, without the space around it; None if there is no file."""
    try:
        shared = bool(path.parent.stat().st_mode & stat.S_IWOTH)
        # A link in a folder of everybody could lead to any file of ours, a pipe could keep us waiting.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if shared else 0)
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BearerTokenError(f"{source}: cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BearerTokenError(f"{source}: no regular file")
        if shared and status.st_uid != os.geteuid():
            raise BearerTokenError(f"{source}: belongs to another user, and others may write to its folder")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise BearerTokenError(f"{source}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > _LONGEST:
        raise BearerTokenError(f"{source}: longer than {_LONGEST} bytes")
    return data.decode("ascii", errors="replace").strip(_SPACE)
