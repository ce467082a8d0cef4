"""Files on their way into a folder: each one appears when it is whole and verified. Synchronous: for threads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from drayman.client.errors import ServiceDefectError
from drayman.client.registry_progress import Meter
from drayman.client.registry_values import Entry

#: Where files are while they arrive, within the folder. No file of a version can have such a name.
PARTS = "..arriving"
_BLOCK = 1 << 20


class Damaged(ServiceDefectError):
    """What arrived is not what the registry says of it. `resumed`: a part of it was here from an earlier connection."""

    def __init__(self, entry: Entry, *, resumed: bool = False) -> None:
        super().__init__(
            f"{entry.path!r} is not what the registry says of it", code=grpc.StatusCode.DATA_LOSS, reason="CONTENT_LOST"
        )
        self.entry = entry
        self.resumed = resumed


class Arrivals:
    """Entries of a version that are to be in a folder. One thread at a time."""

    def __init__(self, folder: Path, entries: Iterable[Entry], meter: Meter) -> None:
        self._folder = folder
        self._meter = meter
        self._left = {entry.path: entry for entry in entries}
        self._made: set[str] = set()
        self._parts: dict[str, _Part] = {}
        for path in self._left:
            _check(path)

    @property
    def left(self) -> list[Entry]:
        """Files that are not there yet."""
        return list(self._left.values())

    def begin(self) -> None:
        """Look what is there already, make the empty directories. Raises OSError."""
        (self._folder / PARTS).mkdir(parents=True, exist_ok=True)
        for entry in self.left:
            if entry.empty_directory:
                (self._folder / entry.path).mkdir(parents=True, exist_ok=True)
                self._arrived(entry, entry.size)
            elif self._is_there(entry):
                self._arrived(entry, entry.size)
            elif not entry.size:
                self._put(entry, b"")

    def offsets(self, entries: Sequence[Entry]) -> list[int]:
        """How much of each file arrived over an earlier connection."""
        return list(map(self._offset, entries))

    def _offset(self, entry: Entry) -> int:
        try:
            size = _part_path(self._folder, entry).stat().st_size
        except FileNotFoundError:
            return 0
        return size if size < entry.size else 0

    def take(self, pieces: Sequence[tuple[Entry, int, Any]]) -> None:
        """Take pieces (file, offset, content) in order. Raises Damaged, OSError."""
        for entry, offset, content in pieces:
            if not offset and len(content) == entry.size:
                self._put(entry, content)
                self._meter.bytes += len(content)
                continue
            part = self._parts.get(entry.path)
            if part is None:
                part = self._parts[entry.path] = _Part(self._folder, entry, offset)
            part.write(offset, content)
            self._meter.bytes += len(content)
            if part.size == entry.size:
                del self._parts[entry.path]
                part.finish(self._place(entry))
                self._arrived(entry, 0)

    def close(self) -> None:
        """Close what is open: it can be gone on with."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def end(self) -> None:
        """Remove what is ours."""
        self.close()
        parts = self._folder / PARTS
        for path in parts.iterdir():
            path.unlink()
        parts.rmdir()

    def forget(self, entry: Entry) -> None:
        """Drop what arrived of a file."""
        self.close()
        _part_path(self._folder, entry).unlink(missing_ok=True)

    def _is_there(self, entry: Entry) -> bool:
        """Whether the folder has the file, as it is in the registry."""
        path = f"{self._folder}/{entry.path}"
        try:
            there = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(there.st_mode) or there.st_size != entry.size:
            return False
        check = _hash(entry)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - for very many of them
            while block := file.read(_BLOCK):
                check.update(block)
        return bool(check.hexdigest() == (entry.sha256 or entry.md5))

    def _put(self, entry: Entry, content: bytes) -> None:
        check = _hash(entry)
        check.update(content)
        if check.hexdigest() != (entry.sha256 or entry.md5):
            raise Damaged(entry)
        place = self._place(entry)
        temporary = f"{self._folder}/{PARTS}/{os.getpid()}"
        # for very many of them: no objects in between
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, place)  # noqa: PTH105 - as above
        self._arrived(entry, 0)

    def _place(self, entry: Entry) -> str:
        """Path of a file, in a directory that is there."""
        above, _, _ = entry.path.rpartition("/")
        if above not in self._made:
            (self._folder / above).mkdir(parents=True, exist_ok=True)
            self._made.add(above)
        return f"{self._folder}/{entry.path}"

    def _arrived(self, entry: Entry, size: int) -> None:
        del self._left[entry.path]
        self._meter.files += 1
        self._meter.bytes += size


class _Part:
    """A file that arrives in pieces."""

    def __init__(self, folder: Path, entry: Entry, offset: int) -> None:
        self.entry = entry
        self.size = offset
        self._resumed = offset > 0
        self._path = _part_path(folder, entry)
        self._hash = _hash(entry)
        self._file: BinaryIO = self._path.open("r+b" if offset else "wb", buffering=0)
        while left := offset - self._file.tell():
            block = self._file.read(min(_BLOCK, left))
            if not block:
                raise Damaged(entry, resumed=True)
            self._hash.update(block)
        self._file.truncate()

    def write(self, offset: int, content: bytes) -> None:
        if offset != self.size:
            raise Damaged(self.entry, resumed=self._resumed)
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(content)
        self.size += len(content)

    def finish(self, place: str) -> None:
        self.close()
        if self._hash.hexdigest() != (self.entry.sha256 or self.entry.md5):
            raise Damaged(self.entry, resumed=self._resumed)
        self._path.replace(place)

    def close(self) -> None:
        self._file.close()


def _part_path(folder: Path, entry: Entry) -> Path:
    """Where the pieces of a file gather: another content has another place."""
    name = hashlib.sha256(f"{entry.path}\n{entry.size}\n{entry.md5}\n{entry.sha256}".encode()).hexdigest()
    return folder / PARTS / name


def _hash(entry: Entry) -> Any:
    return hashlib.sha256() if entry.sha256 else hashlib.md5(usedforsecurity=False)


def _check(path: str) -> None:
    """Let no path lead out of the folder, whatever a service says."""
    if not path or "\0" in path or any(part in ("", ".") or part.startswith("..") for part in path.split("/")):
        raise ServiceDefectError(f"a file that cannot be: {path!r}", code=grpc.StatusCode.INTERNAL)
