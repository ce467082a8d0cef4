"""A folder on a local file system whose names are reached part by part, never through a symbolic link.

Everything here blocks; it is called from threads.
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from drayman.server.registry.content import ContentError, ContentLost, Found, Kind, StorageFull
from drayman.server.registry.file_bytes import write_all

FILE_MODE = 0o644
FOLDER_MODE = 0o755

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe must not hold the thread until somebody writes to it
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOST = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EIO}

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Turn what the operating system says into StorageFull and ContentLost, where it is that."""
    try:
        yield
    except OSError as error:
        named = f": {error.filename}" if error.filename is not None else ""
        if error.errno in _FULL:
            raise StorageFull(f"there is no room in the registry ({error.strerror})") from error
        if error.errno in _LOST:
            raise ContentLost(f"{error.strerror}{named}") from error
        raise


def parts_of(path: str) -> list[str]:
    """The parts of a relative path. Raises ValueError for one that could lead elsewhere."""
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is no path within the registry")
    return parts


class Tree:
    """A folder while something is done in it, with those below it that were opened on the way.

    A context manager; not for two threads at a time.
    """

    _KEPT = 128  # of a batch in one folder this is one; a deep path has more parts than a process may open

    def __init__(self, root: int) -> None:
        """`root`: descriptor of the folder; it stays the caller's."""
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def folder(self, path: str, *, make: bool = False) -> int:
        """A descriptor of a folder, good until the next call. Raises OSError if it is none, or a link on the way."""
        found = self._known(path)
        if found is not None:
            return found
        parts = parts_of(path)
        here, begin = self._root, 0
        for end in range(len(parts) - 1, 0, -1):
            above = self._known("/".join(parts[:end]))
            if above is not None:
                here, begin = above, end
                break
        for end in range(begin, len(parts)):
            here = self._enter("/".join(parts[: end + 1]), parts[end], here, make)
        return here

    def place(self, path: str, *, make: bool = False) -> tuple[int, str]:
        """The folder of a path, as by `folder`, and the name in it."""
        above, _, name = path.rpartition("/")
        parts_of(name)
        if not name:
            raise ValueError(f"{path!r} is no path of a file")
        return self.folder(above, make=make), name

    def write(self, path: str, content: bytes, *, make: bool = True) -> None:
        """Write a file, replacing what is there; of one that cannot be written nothing is left."""
        with self.new_file(path, make=make) as descriptor:
            write_all(descriptor, content)

    @contextlib.contextmanager
    def new_file(self, path: str, *, make: bool = True) -> Iterator[int]:
        """A descriptor of a new file in the place of what is there; after an error nothing is left of it."""
        folder, name = self.place(path, make=make)
        try:
            descriptor = os.open(name, _CREATE, FILE_MODE, dir_fd=folder)
        except FileExistsError:
            # never written over: it may be a link, or have another name elsewhere
            os.unlink(name, dir_fd=folder)
            descriptor = os.open(name, _CREATE, FILE_MODE, dir_fd=folder)
        try:
            os.fchmod(descriptor, FILE_MODE)
            yield descriptor
        except BaseException:
            self.drop(path)
            raise
        finally:
            os.close(descriptor)

    def link(self, path: str, text: str) -> None:
        """Make a symbolic link, replacing what is there."""
        folder, name = self.place(path, make=True)
        try:
            os.symlink(text, name, dir_fd=folder)
        except FileExistsError:
            os.unlink(name, dir_fd=folder)
            os.symlink(text, name, dir_fd=folder)

    def drop(self, path: str) -> None:
        """Remove a file or link, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            folder, name = self.place(path)
            os.unlink(name, dir_fd=folder)

    def move(self, path: str, to: str) -> None:
        """Rename, replacing a file or link that is there."""
        # a descriptor of our own: that of the other place may take the room of the first
        folder, name = self.place(path)
        folder = os.dup(folder)
        try:
            target, new_name = self.place(to)
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=target)
        finally:
            os.close(folder)
        self._forget(path)

    def stat(self, path: str) -> os.stat_result | None:
        """What is there, never what a link leads to; None = nothing."""
        try:
            if not path:
                return os.fstat(self._root)
            folder, name = self.place(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder."""
        found = self.stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def open_file(self, path: str) -> int:
        """A descriptor of a regular file, for reading. Raises OSError (ELOOP for a link), ContentLost if it is no file."""
        folder, name = self.place(path)
        descriptor = os.open(name, _READ, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ContentLost(f"{path!r} is no file")
        return descriptor

    def text_of(self, path: str) -> str:
        """Where a link leads, as written."""
        folder, name = self.place(path)
        return os.readlink(name, dir_fd=folder)

    def scan(self, path: str) -> list[Found]:
        """What is directly in a folder, by name; paths are relative to the tree."""
        descriptor = self.folder(path)
        prefix = f"{path}/" if path else ""
        with os.scandir(descriptor) as entries:
            found = [self._found(prefix, entry, descriptor) for entry in entries]
        return sorted((item for item in found if item is not None), key=lambda item: item.path)

    def walk(self, path: str) -> Iterator[Found]:
        """Everything below a folder, by name, a folder before what is in it; paths are relative to the tree."""
        waiting = self.scan(path)[::-1]
        while waiting:
            item = waiting.pop()
            yield item
            if item.kind is Kind.DIRECTORY:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    waiting.extend(self.scan(item.path)[::-1])

    def remove(self, path: str) -> None:
        """Remove a file or folder with all that is in it; what somebody else removes at the same time is no error."""
        if not self.is_folder(path):
            self.drop(path)
            return
        folders = [path]
        for folder in folders:  # grows
            with contextlib.suppress(FileNotFoundError):
                for item in self.scan(folder):
                    if item.kind is Kind.DIRECTORY:
                        folders.append(item.path)
                    else:
                        self.drop(item.path)
        for folder in reversed(folders):
            self.remove_empty(folder)

    def remove_empty(self, path: str) -> None:
        """Remove a folder if nothing is in it."""
        try:
            above, name = self.place(path)
            os.rmdir(name, dir_fd=above)
            self._forget(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise

    def keep_name(self, path: str) -> None:
        """Make what was renamed into a folder, or removed from it, last."""
        os.fsync(self.folder(path))

    def keep(self, path: str) -> None:
        """Make a folder and those above it last, and the names in them."""
        while path:
            os.fsync(self.folder(path))
            path = path.rpartition("/")[0]
        os.fsync(self._root)

    def _known(self, path: str) -> int | None:
        if not path:
            return self._root
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
        return found

    def _enter(self, path: str, name: str, above: int, make: bool) -> int:
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, FOLDER_MODE, dir_fd=above)
            descriptor = os.open(name, _FOLDER, dir_fd=above)
            os.fchmod(descriptor, FOLDER_MODE)
        self._open[path] = descriptor
        if len(self._open) > self._KEPT:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _forget(self, path: str) -> None:
        for known in [known for known in self._open if known == path or known.startswith(f"{path}/")]:
            os.close(self._open.pop(known))

    def _found(self, prefix: str, entry: "os.DirEntry[str]", folder: int) -> Found | None:
        path = prefix + entry.name
        try:
            if entry.is_symlink():
                return Found(path, Kind.LINK, text=os.readlink(entry.name, dir_fd=folder))
            if entry.is_dir(follow_symlinks=False):
                return Found(path, Kind.DIRECTORY)
            if entry.is_file(follow_symlinks=False):
                return Found(path, Kind.FILE, size=entry.stat(follow_symlinks=False).st_size)
        except FileNotFoundError:
            return None  # removed meanwhile
        return Found(path, Kind.OTHER)


class Reader:
    """Opens files of a registry, following links as far as that is allowed."""

    _HOPS = 8

    def __init__(self, root: Path, whitelist: Sequence[Path]) -> None:
        self._root = root
        self._listed = [Path(os.path.realpath(folder)) for folder in whitelist]

    def open(self, tree: Tree, key: str) -> int:
        """A descriptor of a file. Raises ContentLost if a link leads out of the registry or in a circle."""
        path = key
        for _ in range(self._HOPS):
            try:
                return tree.open_file(path)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
            text = tree.text_of(path)
            if text.startswith("/"):
                real = Path(os.path.normpath(text))
                if not real.is_relative_to(self._root):
                    return self._open_listed(key, text)
                path = real.relative_to(self._root).as_posix()
            else:
                # lexically: no folder on the way is a link
                path = os.path.normpath(f"{path.rpartition('/')[0]}/{text}")
            if path.split("/")[0] in {"", ".", ".."}:
                raise ContentLost(f"{key!r} is a link that leads out of the registry")
        raise ContentLost(f"{key!r} is a link that leads to no file")

    def _open_listed(self, key: str, text: str) -> int:
        real = Path(os.path.realpath(text))
        for folder in self._listed:
            if real.is_relative_to(folder):
                descriptor = os.open(folder, _FOLDER)
                try:
                    # once more part by part: what has become a link since is refused
                    with Tree(descriptor) as tree:
                        return tree.open_file(real.relative_to(folder).as_posix())
                finally:
                    os.close(descriptor)
        raise ContentLost(f"{key!r} is a link that leads out of the registry, to no folder on the whitelist")


def sync(tree: Tree, path: str) -> bool:
    """Make a folder and all in it last: all of its file system at once, or one by one where that cannot be done.

    Returns whether it was the whole file system.
    """
    try:
        everything = _libc.syncfs
    except AttributeError:
        everything = None
    if everything is not None:
        if everything(tree.folder(path)) == 0:
            return True
        code = ctypes.get_errno()
        if code not in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            raise OSError(code, os.strerror(code))
    sync_singly(tree, path)
    return False


def sync_singly(tree: Tree, path: str) -> None:
    """Make a folder and all in it last, file by file."""
    folders = [path]
    for item in tree.walk(path):
        if item.kind is Kind.DIRECTORY:
            folders.append(item.path)
        elif item.kind is Kind.FILE:
            descriptor = tree.open_file(item.path)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for folder in reversed(folders):
        os.fsync(tree.folder(folder))


def open_root(path: Path) -> int:
    """A descriptor of the folder that is the root of a tree. It may be reached through links. Raises ContentError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ContentError(f"{path} cannot be used: {error.strerror}") from error
