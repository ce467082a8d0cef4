"""What a version holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drayman.server.registry import names
from drayman.server.registry.addresses import FileAddress

_MD5_BYTES = 16
_SHA256_BYTES = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a link, or an empty directory."""

    #: within the version
    path: str
    #: bytes; 0 for an empty directory
    size: int
    #: None for an empty directory
    md5: bytes | None
    #: None for an empty directory, and for what was never hashed with it
    sha256: bytes | None = None
    #: the file that was linked to
    target: FileAddress | None = None
    #: the file that holds the content, if the target is a link itself
    ancestor: FileAddress | None = None

    @property
    def is_directory(self) -> bool:
        """Whether this is an empty directory."""
        return self.md5 is None

    @property
    def is_link(self) -> bool:
        """Whether the content is stored elsewhere in the registry."""
        return self.target is not None

    @property
    def holder(self) -> FileAddress | None:
        """The file that holds the content of a link; None if the entry is no link."""
        return self.ancestor or self.target

    def check(self) -> None:
        """Raise ValueError for what cannot be an entry."""
        names.check_path(self.path)
        shown = names.shown(self.path)
        if self.size < 0:
            raise ValueError(f"{shown}: a size cannot be negative, got {self.size}")
        if self.md5 is None:
            if self.size or self.sha256 is not None or self.target is not None:
                raise ValueError(f"{shown}: an empty directory has no size, no hash and no link")
        elif len(self.md5) != _MD5_BYTES:
            raise ValueError(f"{shown}: an MD5 has {_MD5_BYTES} bytes, got {len(self.md5)}")
        if self.sha256 is not None and len(self.sha256) != _SHA256_BYTES:
            raise ValueError(f"{shown}: a SHA-256 has {_SHA256_BYTES} bytes, got {len(self.sha256)}")
        if self.ancestor is not None and self.target is None:
            raise ValueError(f"{shown}: an ancestor without a target: a link names what it leads to first")


def usage(entries: Iterable[Entry]) -> int:
    """Bytes that count towards a project's usage: those of entries that are no links."""
    return sum(entry.size for entry in entries if entry.target is None)


def check_tree(paths: Iterable[str]) -> None:
    """Raise ValueError if paths of files and empty directories cannot be in one version together: one twice, or one below another."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(f"{names.shown(path)} is there twice: each path once")
        seen.add(path)
    folders: set[str] = set()
    for path in seen:
        folder, slash, _ = path.rpartition("/")
        while slash and folder not in folders:
            if folder in seen:
                raise ValueError(
                    f"{names.shown(path)} is below {names.shown(folder)}, which is a file or an empty directory: "
                    "nothing can be below those"
                )
            folders.add(folder)
            folder, slash, _ = folder.rpartition("/")
