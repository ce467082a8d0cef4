"""The registry's bytes in a local folder. Calls of the operating system are made in threads."""

import contextlib
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

from drayman.server.registry.content import BLOCK, Content, ContentLost, Found, Hashes
from drayman.server.registry.file_bytes import copy_bytes, hash_of, read_all, write_all
from drayman.server.registry.local_incoming import INCOMING, TRASH, LocalIncoming
from drayman.server.registry.threads import Stop, Threads
from drayman.server.registry.tree import Reader, Tree, open_root, parts_of, speaking, sync

_T = TypeVar("_T")

_TEMPORARY = "temporary-"
_FORGOTTEN_SECONDS = 3600
_SYNC_SINGLY = 2
_WALK = 500
_QUICK_THREADS = 8
_LONG_THREADS = 4


class LocalContent(Content):
    """A local folder. See Content."""

    def __init__(self, root: Path, whitelist: Sequence[Path]) -> None:
        """Use `open`."""
        self._path = root
        self._root = open_root(root)
        self._reader = Reader(root, whitelist)
        self._threads = Threads("registry", _QUICK_THREADS, _LONG_THREADS)

    @classmethod
    async def open(cls, root: Path, *, whitelist: Sequence[Path] = ()) -> Self:
        """Open a folder, which is made if it is not there. Raises OSError if it cannot be used."""
        # made before anything else can run: once, at the start
        root.mkdir(parents=True, exist_ok=True)
        content = cls(root.resolve(), whitelist)
        for name in (INCOMING, TRASH):
            with contextlib.suppress(FileExistsError):
                # nobody else looks into them: what is in them is not published, or not any more
                os.mkdir(name, 0o700, dir_fd=content._root)
        return content

    @property
    def local_root(self) -> Path | None:
        """The folder, without links."""
        return self._path

    def incoming(self, upload_id: str | UUID) -> LocalIncoming:
        """See Content."""
        return LocalIncoming(self._root, UUID(str(upload_id)), self._threads)

    async def incoming_ids(self) -> list[str]:
        """See Content."""
        return [found.path.rpartition("/")[2] for found in await self._do(lambda tree: tree.scan(INCOMING))]

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """See Content."""
        descriptor = await self._do(lambda tree: self._reader.open(tree, key), undo=os.close)
        try:
            end = offset + length
            while offset < end:
                block = await self._threads.run(partial(_block, descriptor, min(BLOCK, end - offset), offset))
                if not block:
                    raise ContentLost(f"{key!r} ends at {offset}, not at {end}")
                yield block
                offset += len(block)
        finally:
            os.close(descriptor)

    async def read_small(self, keys: Sequence[str], sizes: Sequence[int] | None = None) -> list[bytes]:
        """See Content."""
        return await self._do(
            lambda tree: [
                self._whole(tree, key, None if sizes is None else sizes[index]) for index, key in enumerate(keys)
            ]
        )

    async def hashes(self, key: str) -> Hashes:
        """See Content."""

        def job(stop: Stop) -> Hashes:
            with speaking(), Tree(self._root) as tree:
                descriptor = self._reader.open(tree, key)
                try:
                    return hash_of(descriptor, stop)
                finally:
                    os.close(descriptor)

        return await self._threads.run_long(job)

    async def write_documents(self, documents: Mapping[str, bytes]) -> None:
        """See Content."""

        def job(tree: Tree) -> None:
            written = {_temporary(): key for key in documents}
            with _replacing(tree, written):
                for temporary, key in written.items():
                    with tree.new_file(temporary, make=False) as descriptor:
                        write_all(descriptor, documents[key])
                        if len(written) <= _SYNC_SINGLY:
                            os.fsync(descriptor)
                if len(written) > _SYNC_SINGLY:
                    sync(tree, "")

        await self._do(job)

    async def remove_document(self, key: str) -> None:
        """See Content."""
        await self._do(lambda tree: tree.drop(key))

    async def make_folder(self, folder: str) -> None:
        """See Content."""

        def job(tree: Tree) -> None:
            tree.folder(folder, make=True)
            tree.keep(folder)

        await self._do(job)

    async def copy(self, from_key: str, to_key: str) -> None:
        """See Content."""

        def job(stop: Stop) -> None:
            with speaking(), Tree(self._root) as tree:
                temporary = _temporary()
                with _replacing(tree, {temporary: to_key}):
                    source = self._reader.open(tree, from_key)
                    try:
                        with tree.new_file(temporary, make=False) as descriptor:
                            copy_bytes(source, descriptor, stop)
                            os.fsync(descriptor)
                    finally:
                        os.close(source)

        await self._threads.run_long(job)

    async def relink(self, key: str, text: str) -> None:
        """See Content."""

        def job(tree: Tree) -> None:
            temporary = _temporary()
            with _replacing(tree, {temporary: key}):
                tree.link(temporary, text)

        await self._do(job)

    async def exists(self, folder: str) -> bool:
        """See Content."""
        return await self._do(lambda tree: tree.is_folder(folder))

    async def remove(self, folder: str) -> None:
        """See Content. Raises ValueError for the root and for what is ours."""
        first = parts_of(folder)[:1]
        if not first or first[0] in {INCOMING, TRASH}:
            raise ValueError(f"{folder!r} is no folder that can be removed")
        trash = f"{TRASH}/{uuid.uuid4().hex}"

        def out_of_sight(tree: Tree) -> bool:
            if tree.stat(folder) is None:
                return False
            tree.move(folder, trash)
            tree.keep_name(folder.rpartition("/")[0])
            return True

        if await self._do(out_of_sight):
            await self._threads.run_long(partial(self._remove_tree, trash))

    async def empty_trash(self) -> None:
        """See Content."""

        def leftovers(tree: Tree) -> list[str]:
            return [found.path for found in tree.scan(TRASH) if not _in_use(tree, found)]

        for path in await self._do(leftovers):
            await self._threads.run_long(partial(self._remove_tree, path))

    async def listing(self, folder: str) -> list[Found]:
        """See Content."""
        return [_below(folder, found) for found in await self._do(lambda tree: tree.scan(folder))]

    async def walk(self, folder: str) -> AsyncIterator[Found]:
        """See Content."""
        with Tree(self._root) as tree:
            walking = tree.walk(folder)
            while batch := await self._threads.run(partial(_next, walking)):
                for found in batch:
                    yield _below(folder, found)

    async def room(self) -> int | None:
        """See Content."""

        def job(tree: Tree) -> int:
            room = os.fstatvfs(tree.folder(""))
            return room.f_bavail * room.f_frsize

        return await self._do(job)

    async def presign(self, key: str, seconds: int) -> str | None:
        """There is no such thing."""
        del key, seconds
        return None

    async def close(self) -> None:
        """See Content."""
        self._threads.close()
        os.close(self._root)

    async def _do(self, job: Callable[[Tree], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        def work() -> _T:
            with speaking(), Tree(self._root) as tree:
                return job(tree)

        return await self._threads.run(work, undo=undo)

    def _whole(self, tree: Tree, key: str, size: int | None) -> bytes:
        descriptor = self._reader.open(tree, key)
        try:
            found = os.fstat(descriptor).st_size
            if size is not None and found != size:
                raise ContentLost(f"{key!r} has {found} bytes, not {size}")
            return read_all(descriptor, found)
        finally:
            os.close(descriptor)

    def _remove_tree(self, path: str, stop: Stop) -> None:
        del stop  # what is left is removed the next time, but there is no reason to leave it
        with speaking(), Tree(self._root) as tree:
            tree.remove(path)


def _block(descriptor: int, size: int, offset: int) -> bytes:
    with speaking():
        return os.pread(descriptor, size, offset)


def _next(walking: Iterator[Found]) -> list[Found]:
    with speaking():
        return list(islice(walking, _WALK))


def _below(folder: str, found: Found) -> Found:
    return Found(found.path.removeprefix(f"{folder}/") if folder else found.path, found.kind, found.size, found.text)


def _temporary() -> str:
    return f"{TRASH}/{_TEMPORARY}{uuid.uuid4().hex}"


@contextlib.contextmanager
def _replacing(tree: Tree, places: Mapping[str, str]) -> Iterator[None]:
    """Make new files (temporary name -> key) within it; at its end they are put in their places, to last. After an error none is left."""
    try:
        yield
        for temporary, key in places.items():
            tree.move(temporary, key)
    except BaseException:
        for temporary in places:
            tree.drop(temporary)
        raise
    for folder in {key.rpartition("/")[0] for key in places.values()}:
        tree.keep_name(folder)


def _in_use(tree: Tree, found: Found) -> bool:
    """Whether it may be what another process is about to put in its place."""
    if not found.path.startswith(f"{TRASH}/{_TEMPORARY}"):
        return False
    there = tree.stat(found.path)
    return there is not None and not stat.S_ISDIR(there.st_mode) and time.time() - there.st_mtime < _FORGOTTEN_SECONDS
