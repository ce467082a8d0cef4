"""What a folder holds that can be uploaded: files, links, empty directories. Synchronous: for threads.

Nothing is followed by accident: directories are opened one below the other and never through a link, so that whoever may write there
cannot lead the reader away while it walks. What cannot be uploaded is refused with its path; only names that begin with `..` are left out.
"""

# ruff: noqa: PTH100, PTH116, PTH118, PTH119, PTH120 - a path is here what a link says: a text, which is not to be tidied

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

#: Entries beyond which a folder is refused: directories behind links can be counted more than once.
MOST_ENTRIES = 1_000_000

_RESERVED = ".."
_SHOWN = 200
_BLOCK = 256 << 10
#: Bytes that are read as long as a file is opened.
_FILE_COST = 16 << 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that takes the place of a file must not keep us waiting
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class TreeError(ValueError):
    """Something in a folder cannot be uploaded. `path` is its path within the folder, `problem` says why."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = os.fsencode(path).decode(errors="replace")
        self.problem = problem
        super().__init__(f"{_shown(path)}: {problem}")


class Kind(Enum):
    """What something in a folder is."""

    FILE = "file"
    #: a link to another file of the folder
    LOCAL = "local"
    #: a link to a file of the registry
    REGISTRY = "registry"
    #: a link to a file elsewhere that may be taken for a file
    OUTSIDE = "outside"
    #: an empty directory
    DIRECTORY = "directory"


@dataclass(slots=True)
class Found:
    """Something in a folder. `target`: of LOCAL the path in the folder, of REGISTRY that in the registry, of OUTSIDE an absolute one."""

    path: str
    kind: Kind
    size: int = 0
    target: str = ""
    #: of a file, as it was found
    seen: os.stat_result | None = None


@dataclass(frozen=True, slots=True)
class Digests:
    """Hashes of a content; MD5 only if it was asked for."""

    md5: bytes | None
    sha256: bytes


class Tree:
    """A folder, opened. Use it in `with`, or call `close`. One thread at a time.

    `ignore_dot` leaves out what begins with a dot. `registry` is the folder of the registry, if it is mounted here: links into it are links
    to its files. `outside` says of absolute paths whether links may lead there.

    Raises FileNotFoundError or NotADirectoryError for what is no folder, and other OSErrors.
    """

    def __init__(
        self,
        folder: str,
        *,
        ignore_dot: bool = False,
        registry: str | None = None,
        outside: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._root = os.path.abspath(folder)
        self._real = os.path.realpath(folder)
        self._ignored = "." if ignore_dot else _RESERVED
        self._registries = () if not registry else (os.path.abspath(registry), os.path.realpath(registry))
        self._outside = outside
        self._fd = os.open(self._real, _DIRECTORY)
        self._near: tuple[str, int] | None = None

    def close(self) -> None:
        """Close what is open."""
        self._leave()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what there is -----------------------------------------------------------------------------------------------

    def walk(self, go_on: Callable[[], bool] = lambda: True) -> list[Found]:
        """Find everything, sorted by path. `go_on` is asked now and then, and False ends it with InterruptedError. Raises TreeError."""
        found: list[Found] = []
        # path as it is uploaded, path of the real directory, and the real directories on the way to it
        waiting: list[tuple[str, str, tuple[str, ...]]] = [("", "", ())]
        while waiting:
            _go_on(go_on())
            path, real, above = waiting.pop()
            entries, folders = self._read(path, real, (*above, real))
            if path and not entries and not folders:
                entries = [Found(path, Kind.DIRECTORY)]
            found += entries
            waiting += folders
            if len(found) > MOST_ENTRIES:
                raise TreeError(path, f"there are more than {MOST_ENTRIES} files")
        known = {entry.path for entry in found}
        for entry in found:
            if entry.kind is Kind.LOCAL and entry.target not in known:
                raise TreeError(entry.path, f"a link to {_shown(entry.target)}, which is left out or no file")
        found.sort(key=lambda entry: entry.path)
        return found

    def _read(
        self, path: str, real: str, above: tuple[str, ...]
    ) -> tuple[list[Found], list[tuple[str, str, tuple[str, ...]]]]:
        """Read one directory. `path` and `real` differ behind a link to a directory: what lies there becomes links to the files."""
        found: list[Found] = []
        folders: list[tuple[str, str, tuple[str, ...]]] = []
        prefix = f"{path}/" if path else ""
        real_prefix = f"{real}/" if real else ""
        fd = self._open_folder(path, real)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith((_RESERVED, self._ignored)):
                        continue
                    here, there = prefix + name, real_prefix + name
                    _check_text(here)
                    seen = entry.stat(follow_symlinks=False)
                    kind = stat.S_IFMT(seen.st_mode)
                    if kind == stat.S_IFDIR:
                        folders.append((here, there, above))
                    elif kind == stat.S_IFLNK:
                        link = self._link(here, there, os.readlink(name, dir_fd=fd), above)
                        if isinstance(link, Found):
                            found.append(link)
                        else:
                            folders.append(link)
                    elif kind != stat.S_IFREG:
                        raise TreeError(here, f"{_KINDS.get(kind, 'no file')} cannot be uploaded")
                    elif path == real:
                        found.append(Found(here, Kind.FILE, seen.st_size, seen=seen))
                    else:
                        found.append(Found(here, Kind.LOCAL, target=there))
        except OSError as error:
            raise TreeError(path or ".", f"cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        return found, folders

    def _link(
        self, path: str, real: str, text: str, above: tuple[str, ...]
    ) -> Found | tuple[str, str, tuple[str, ...]]:
        """Say what a link is, by where it leads; `real` is the path where it lies."""
        at = f"{self._real}/{real}"
        target = os.path.normpath(os.path.join(os.path.dirname(at), text))
        try:
            seen = os.stat(at)
        except OSError as error:
            what = "in a circle" if error.errno == errno.ELOOP else f"to {_shown(text)}, which cannot be reached"
            raise TreeError(path, f"a link that leads {what}") from error
        is_folder = stat.S_ISDIR(seen.st_mode)
        inside = _below(target, (self._root, self._real))
        if is_folder:
            return self._linked_folder(path, text, os.path.realpath(at), above)
        if inside is not None:
            if not _is_same(f"{self._real}/{inside}", seen):
                raise TreeError(path, f"a link to {_shown(text)}, which leads elsewhere through another link")
            return Found(path, Kind.LOCAL, target=inside)
        # the folder of the registry may be reached by other paths than its own
        nearby = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        for candidate in (target, nearby):
            address = _below(candidate, self._registries)
            if address is not None:
                parts = address.split("/")
                if len(parts) < 4 or any(part.startswith(_RESERVED) for part in parts):
                    raise TreeError(path, f"a link to {_shown(text)}, which is no file of a version of the registry")
                return Found(path, Kind.REGISTRY, target=address)
        if not self._outside(target):
            raise TreeError(path, f"a link to {_shown(text)}, which is neither in the folder nor in the registry")
        if not stat.S_ISREG(seen.st_mode):
            raise TreeError(path, f"a link to {_shown(text)}, which is no file")
        return Found(path, Kind.OUTSIDE, seen.st_size, target, seen)

    def _linked_folder(
        self, path: str, text: str, real: str, above: tuple[str, ...]
    ) -> tuple[str, str, tuple[str, ...]]:
        inside = "" if real == self._real else _below(real, (self._real,))
        if inside is None:
            raise TreeError(path, f"a link to the directory {_shown(text)}, which is not in the folder")
        if inside in above:
            raise TreeError(path, f"a link to the directory {_shown(text)}, in which it lies itself")
        return path, inside, above

    # --- what it holds -----------------------------------------------------------------------------------------------

    def open(self, found: Found) -> int:
        """Open a FILE or OUTSIDE as it was found. Raises TreeError if it is not what it was."""
        try:
            if found.kind is Kind.OUTSIDE:
                fd = os.open(os.path.realpath(found.target), _FILE)
            else:
                folder, _, name = found.path.rpartition("/")
                fd = os.open(name, _FILE, dir_fd=self._enter(folder))
        except OSError as error:
            raise TreeError(found.path, f"cannot be read: {error.strerror}") from error
        try:
            check(fd, found)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def content(self, found: Found) -> bytes:
        """Read a whole file. Raises TreeError if it changes meanwhile."""
        fd = self.open(found)
        try:
            content = os.read(fd, found.size + 1)
            if len(content) != found.size:  # more than one read can give, or not what it was
                content += b"".join(blocks(fd))
            if len(content) != found.size:
                raise TreeError(found.path, "it changes while it is read")
            check(fd, found)
        except OSError as error:
            raise TreeError(found.path, f"cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        return content

    def digests(
        self, found: Found, tell: Callable[[int], bool] = lambda _bytes: True, *, with_md5: bool = True
    ) -> Digests:
        """Hash a file. `tell` hears how many bytes were read since it was last told, and False ends it with InterruptedError.

        Raises TreeError if the file changes meanwhile.
        """
        md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
        fd = self.open(found)
        try:
            for block in blocks(fd):
                if with_md5:
                    md5.update(block)
                sha256.update(block)
                size += len(block)
                _go_on(tell(len(block)))
            if size != found.size:
                raise TreeError(found.path, "it changes while it is read")
            check(fd, found)
        except InterruptedError:
            raise
        except OSError as error:
            raise TreeError(found.path, f"cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        return Digests(md5.digest() if with_md5 else None, sha256.digest())

    def _enter(self, folder: str) -> int:
        """Open a real directory, and keep it open for the next file of it."""
        if not folder:
            return self._fd
        if self._near is None or self._near[0] != folder:
            self._leave()
            self._near = (folder, self._open_folder(folder, folder))
        return self._near[1]

    def _leave(self) -> None:
        if self._near is not None:
            os.close(self._near[1])
            self._near = None

    def _open_folder(self, path: str, real: str) -> int:
        """Open a directory, one below the other and none through a link."""
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=self._fd)
            for name in filter(None, real.split("/")):
                above, fd = fd, -1
                try:
                    fd = os.open(name, _DIRECTORY, dir_fd=above)
                finally:
                    os.close(above)
        except OSError as error:
            raise TreeError(path or ".", f"cannot be read: {error.strerror}") from error
        return fd


def shares(files: Sequence[Found], count: int) -> list[list[Found]]:
    """Part files among threads: about as many bytes for each, where an empty file counts as well; files of one directory together."""
    parts: list[list[Found]] = [[] for _ in range(min(count, len(files)))]
    sizes = [0] * len(parts)
    for file in sorted(files, key=lambda file: -file.size):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(file)
        sizes[smallest] += file.size + _FILE_COST
    for part in parts:
        part.sort(key=lambda file: file.path)
    return parts


def digests_of(content: bytes) -> Digests:
    """Hash a content."""
    return Digests(hashlib.md5(content, usedforsecurity=False).digest(), hashlib.sha256(content).digest())


def blocks(fd: int) -> Iterator[memoryview]:
    """Read a file to its end. A block is good until the next one."""
    buffer = memoryview(bytearray(_BLOCK))
    while size := os.readv(fd, [buffer]):
        yield buffer[:size]


def check(fd: int, found: Found) -> None:
    """Raise TreeError if an open file is not, or not any more, what was found."""
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode) or found.seen is None or _identity(seen) != _identity(found.seen):
        raise TreeError(found.path, "it changes while it is read")


def _go_on(wanted: bool) -> None:
    if not wanted:
        raise InterruptedError("the reading was ended")


def _identity(seen: os.stat_result) -> tuple[int, int, int, int]:
    """Which file it is and when it was written: the same as long as its content is."""
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _is_same(path: str, seen: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), seen)
    except OSError:
        return False


def _below(path: str, folders: tuple[str, ...]) -> str | None:
    """Path from one of these folders to what lies below it; None if it lies below none."""
    for folder in folders:
        prefix = folder if folder.endswith("/") else f"{folder}/"
        if path.startswith(prefix) and len(path) > len(prefix):
            return path[len(prefix) :]
    return None


def _check_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise TreeError(path, "its name is no valid UTF-8") from error


def _shown(path: str) -> str:
    return ascii(path[:_SHOWN]) + ("..." if len(path) > _SHOWN else "")
