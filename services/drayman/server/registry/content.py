"""What the registry needs of the place where its bytes are: a local folder or an object store.

Keys are `/`-joined and relative to the root: `project/asset/version/path`; a folder is `project`, `project/asset` or
`project/asset/version`. Names of ours begin with `..`: `..incoming/<upload>` is what is being uploaded, `..trash/<random>`
what is being removed or about to be put in its place. Nothing here knows rows, rules or the wire.

A call that is cancelled returns when nothing of it is at work any more.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from os import stat_result
from pathlib import Path
from typing import Protocol
from uuid import UUID

BLOCK = 1 << 20
"""Bytes that are read and handed on at a time."""


class ContentError(Exception):
    """The place where the bytes are did not do what it was asked."""


class StorageFull(ContentError):
    """There is no room for what was to be written; nothing of it is left."""


class ContentLost(ContentError):
    """A file is not there, not whole, or no file."""


class ContentDamaged(ContentLost):
    """What had arrived of an upload is not there any more as it was; the rest is."""


class FolderTaken(ContentError):
    """Something that is not this upload's stands where its folder was to be put."""


class Kind(Enum):
    """What a name in a folder is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found under a name. Never what a link leads to."""

    path: str
    """Relative to the folder that was asked for."""
    kind: Kind
    size: int = 0
    """Of a file; 0 otherwise."""
    text: str = ""
    """Of a link: where it leads, as written."""


@dataclass(slots=True)
class Hashes:
    """What was hashed so far; more can follow."""

    size: int = 0
    md5: "hashlib._Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def update(self, content: bytes | bytearray | memoryview) -> None:
        """Hash the next bytes."""
        self.md5.update(content)
        self.sha256.update(content)
        self.size += len(content)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that was taken from another folder."""

    size: int
    md5: bytes
    sha256: bytes
    linked: bool
    """Whether it is the same file (a hard link), not a copy. The source is there either way."""


class Incoming(Protocol):
    """An upload on its way. Paths are relative to the version; files of it are numbered by the caller.

    A folder that was never prepared, was published or discarded raises ContentLost; whatever writes raises StorageFull.
    """

    async def prepare(self) -> bool:
        """Make the folder, unless it is there. Returns whether it was there: something may have arrived before."""

    async def state(self, files: Sequence[tuple[int, str, int]]) -> dict[int, int]:
        """What has arrived of files (number, path, size) that are expected, by number.

        The size of those that are complete, the offset (less than the size) from which on the others are wanted;
        nothing for those of which there is nothing. Whatever else is there is removed: files, links, directories.

        Sizes are believed. Bytes that arrived before the machine itself broke down have to be hashed again
        (`file_hashes`) by who does not trust its file system's order of writing.
        """

    async def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write whole files, replacing what is there."""

    async def append(self, number: int, offset: int, content: bytes) -> None:
        """Write the piece of a file that begins at an offset; what was there from that offset on is dropped.

        Raises ContentLost if there are fewer bytes than the offset says. In an object store the last few MiB may
        still be in memory afterwards: they are wanted again if the process ends before `complete` or `flush`.
        """

    async def flush(self) -> None:
        """Put away what is in memory, so that it is not wanted again: when a stream breaks."""

    async def complete(self, number: int, path: str) -> None:
        """Give a file all of whose bytes were appended its path. Repeating it does no harm."""

    async def part_hashes(self, number: int, length: int) -> Hashes:
        """Hash the first bytes of a file that is not complete, to go on from there. Raises ContentLost if there are fewer."""

    async def file_hashes(self, path: str) -> Hashes:
        """Hash a complete file."""

    async def verify(self, files: Sequence[tuple[str, int, bytes, bytes | None]]) -> None:
        """Hash complete files (path, size, MD5, SHA-256 if it is known) once more. Raises ContentDamaged if one is not that.

        For who goes on where somebody else has ended: if the machine lost its power, what that one saw may never have come to the disk.
        An object store has what it said that it has: there nothing is read.
        """

    async def adopt(
        self,
        path: str,
        source: Path,
        consume: bool,
        *,
        within: Path | None = None,
        known: stat_result | None = None,
    ) -> Adopted | None:
        """Take a file from another folder.

        By a hard link if it may be consumed, is the service account's own, has no other name and is on the same file
        system; else by a copy. The source is never removed here: that is for after the publication, so that an upload
        that fails has taken nothing away.
        Of `source`, what follows `within` (default: its last part) must not be a symbolic link.
        Returns what is there now, hashed as it was copied; None if it was linked and is still what `known` says of it
        (inode, size and time of change), which is what the caller hashed. Raises ContentLost if the source is no
        regular file or changes while it is copied.
        """

    async def empty_directory(self, path: str) -> None:
        """Make a directory. No object store has them."""
        await self.empty_directories([path])

    async def empty_directories(self, paths: Sequence[str]) -> None:
        """Make directories."""

    async def link(self, path: str, text: str) -> None:
        """Make a symbolic link, replacing what is there. No object store has them."""
        await self.links([(path, text)])

    async def links(self, links: Sequence[tuple[str, str]]) -> None:
        """Make symbolic links (path, text)."""

    async def write_document(self, path: str, content: bytes) -> None:
        """Write one of the files whose names begin with `..`."""
        await self.put([(path, content)])

    async def seal(self, folder: str, documents: Sequence[tuple[str, bytes]]) -> None:
        """Write the last files, and do what `publish` into this folder would have to do before anybody can see it.

        That is what takes long of it. Nothing may be written any more then; whoever does not publish it has to `prepare` again.
        """

    async def publish(self, folder: str) -> bool:
        """Put everything in its place, durably, in one step; what is needed above it is made.

        Can be repeated after a crash at any point, also by another process. Returns whether it was in its place already.
        An object store has no such step: there the object `..summary` comes last.
        Raises FolderTaken if something else is in that place, ContentLost if there is nothing to publish.
        """

    async def published(self, folder: str) -> bool:
        """Whether `publish` came to its end before: whoever goes on after a crash has nothing more to write then."""

    async def discard(self) -> None:
        """Remove everything. Nothing to remove is no error."""


class Content(Protocol):
    """The place where the registry's bytes are."""

    @property
    def local_root(self) -> Path | None:
        """The folder, if it is one."""

    def incoming(self, upload_id: str | UUID) -> Incoming:
        """An upload, by its UUID; nothing is made yet. Raises ValueError for what is none."""

    async def incoming_ids(self) -> list[str]:
        """The uploads of which there is something."""

    def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """Read a range of a file, in blocks.

        Links that stay in the registry or lead to a folder on the whitelist are followed. Raises ContentLost if it has
        not that many bytes. Close the iterator if you do not read to its end.
        """

    async def read_small(self, keys: Sequence[str], sizes: Sequence[int] | None = None) -> list[bytes]:
        """Read whole files, all at once. Raises ContentLost if one is not there or, with `sizes`, has another size."""

    async def hashes(self, key: str) -> Hashes:
        """Hash a file; links are followed as by `read`."""

    async def write_document(self, key: str, content: bytes) -> None:
        """Write a file so that no reader sees half of it, durably. The folder must exist (else: ContentLost)."""
        await self.write_documents({key: content})

    async def write_documents(self, documents: Mapping[str, bytes]) -> None:
        """Write files by their keys, each as by `write_document`."""

    async def remove_document(self, key: str) -> None:
        """Remove a file. Nothing to remove is no error."""

    async def make_folder(self, folder: str) -> None:
        """Make a folder and those above it, unless they are there."""

    async def copy(self, from_key: str, to_key: str) -> None:
        """Put a copy of a file in the place of a link (or of nothing), so that no reader sees half of it."""

    async def relink(self, key: str, text: str) -> None:
        """Put a symbolic link in the place of a file or link, in one step. An object store loses the object."""

    async def exists(self, folder: str) -> bool:
        """Whether there is a folder (in an object store: anything in it)."""

    async def remove(self, folder: str) -> None:
        """Remove a folder: out of sight in one step, then gone. Can be repeated; nothing to remove is no error.

        An object store loses the folder's own `..summary` first.
        """

    async def empty_trash(self) -> None:
        """Remove what removals that were interrupted have left."""

    async def listing(self, folder: str) -> list[Found]:
        """What is directly in a folder (`""` = the root), by name, ours included. Raises ContentLost if it is none."""

    def walk(self, folder: str) -> AsyncIterator[Found]:
        """Everything below a folder, by name, directories before what is in them; links are not followed.

        Raises ContentLost if it is none. Close the iterator if you do not walk to its end.
        """

    async def room(self) -> int | None:
        """Bytes that can still be written; None = nobody knows."""

    async def presign(self, key: str, seconds: int) -> str | None:
        """A URL from which a file can be fetched for a while; None where there is no such thing."""

    async def close(self) -> None:
        """End."""
