"""Folders outside the registry to which links may lead: what lies there is taken for good and lasting by the deployment.

A file with one absolute folder a line. Blank lines and lines that begin with `#` say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from drayman.server.platform.settings import SettingsError


class Whitelist:
    """The folders of a deployment."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        self._folders = tuple(folders)

    @classmethod
    def parse(cls, text: str) -> Whitelist:
        """Read folders. Raises ValueError that names the line and what is expected."""
        folders = []
        for number, line in enumerate(text.splitlines(), 1):
            folder = line.strip()
            if not folder or folder.startswith("#"):
                continue
            if not folder.startswith("/"):
                raise ValueError(f"line {number}: {line[:80]!r}: expected the absolute path of a folder")
            if "\0" in folder:
                raise ValueError(f"line {number}: {line[:80]!r}: a path cannot contain NUL")
            folders.append(os.path.normpath("/" + folder.lstrip("/")))
        return cls(folders)

    @classmethod
    def load(cls, path: str) -> Whitelist:
        """Read the file at `path`; empty = no folder. Raises SettingsError."""
        if not path:
            return cls()
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"registry_whitelist {path!r}: {error.strerror}") from error
        except ValueError as error:  # UnicodeDecodeError is one as well
            raise SettingsError(f"registry_whitelist {path!r}: {error}") from error

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders."""
        return tuple(map(Path, self._folders))

    def covers(self, target: str) -> bool:
        """Whether a normalised absolute path lies in one of the folders, by its text and where it leads in the end.

        By its text alone a link in such a folder could lead to whatever the service can read.
        """
        return any(_is_below(target, folder) for folder in self._folders) and self.end_of(target) is not None

    def end_of(self, target: str) -> tuple[Path, Path] | None:
        """Where a path leads in the end, and before it the folder of the list in which that lies; None if it lies in none."""
        real = os.path.realpath(target)
        for folder in self._folders:
            for end in (folder, os.path.realpath(folder)):
                if _is_below(real, end):
                    return Path(end), Path(real)
        return None


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder if folder.endswith("/") else folder + "/")
