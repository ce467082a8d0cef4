"""An upload on its way into a local folder."""

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from drayman.server.registry.content import (
    Adopted,
    ContentDamaged,
    ContentLost,
    FolderTaken,
    Hashes,
    Incoming,
    Kind,
)
from drayman.server.registry.file_bytes import begin_sync, copy_bytes, hash_of, write_all
from drayman.server.registry.threads import Stop, Threads
from drayman.server.registry.tree import FILE_MODE, Tree, open_root, parts_of, speaking, sync

_T = TypeVar("_T")

INCOMING = "..incoming"
TRASH = "..trash"


class LocalIncoming(Incoming):
    """An upload on its way into a local folder. See Incoming.

    `files/` becomes the version; `parts/<number>` are files that are not complete.
    """

    def __init__(self, root: int, upload_id: uuid.UUID, threads: Threads) -> None:
        self._root = root
        self._folder = f"{INCOMING}/{upload_id}"
        self._files = f"{self._folder}/files"
        self._parts = f"{self._folder}/parts"
        self._threads = threads
        #: the folder it was sealed for, and whether that above it was last then
        self._sealed: tuple[str, bool] | None = None

    async def prepare(self) -> bool:
        """See Incoming."""

        def job(tree: Tree) -> bool:
            before = tree.is_folder(self._files)
            tree.folder(self._parts, make=True)
            tree.folder(self._files, make=True)
            return before

        return await self._do(job)

    async def state(self, files: Sequence[tuple[int, str, int]]) -> dict[int, int]:
        """See Incoming."""
        return await self._do(lambda tree: self._state(tree, files))

    async def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """See Incoming."""

        def job(tree: Tree) -> None:
            self._check(tree)
            for path, content in files:
                tree.write(self._at(path), content)

        await self._do(job)

    async def append(self, number: int, offset: int, content: bytes) -> None:
        """See Incoming."""

        def job(tree: Tree) -> None:
            folder, name = tree.place(self._part(number))
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, FILE_MODE, dir_fd=folder)
            try:
                there = os.fstat(descriptor).st_size
                if there < offset:
                    raise ContentLost(f"of file {number} there are {there} bytes, not {offset}")
                if there > offset:
                    os.ftruncate(descriptor, offset)
                if not offset:
                    os.fchmod(descriptor, FILE_MODE)
                try:
                    write_all(descriptor, content, offset)
                    begin_sync(descriptor, offset, len(content))
                except OSError:
                    # what was there stays there: with room it can go on
                    os.ftruncate(descriptor, offset)
                    raise
            finally:
                os.close(descriptor)

        await self._do(job)

    async def flush(self) -> None:
        """Nothing is in memory."""

    async def complete(self, number: int, path: str) -> None:
        """See Incoming."""

        def job(tree: Tree) -> None:
            part, place = self._part(number), self._at(path)
            if tree.stat(part) is None:
                if tree.stat(place) is None:
                    raise ContentLost(f"nothing of {path!r} has arrived")
                return
            tree.place(place, make=True)
            tree.move(part, place)

        await self._do(job)

    async def part_hashes(self, number: int, length: int) -> Hashes:
        """See Incoming."""
        return await self._hashes(self._part(number), length)

    async def file_hashes(self, path: str) -> Hashes:
        """See Incoming."""
        return await self._hashes(self._at(path), None)

    async def verify(self, files: Sequence[tuple[str, int, bytes, bytes | None]]) -> None:
        """See Incoming."""

        def job(stop: Stop) -> None:
            with speaking(), Tree(self._root) as tree:
                self._check(tree)
                for path, size, md5, sha256 in files:
                    self._verify(tree, path, (size, md5, sha256), stop)

        await self._threads.run_long(job)

    async def adopt(
        self,
        path: str,
        source: Path,
        consume: bool,
        *,
        within: Path | None = None,
        known: os.stat_result | None = None,
    ) -> Adopted | None:
        """See Incoming."""

        def job(stop: Stop) -> Adopted | None:
            top = source.parent if within is None else within
            with speaking(), Tree(self._root) as tree:
                self._check(tree)
                descriptor = open_root(top)
                try:
                    with Tree(descriptor) as outside:
                        file = outside.open_file(source.relative_to(top).as_posix())
                finally:
                    os.close(descriptor)
                try:
                    return self._adopt(tree, self._at(path), file, consume, known, stop)
                finally:
                    os.close(file)

        return await self._threads.run_long(job)

    async def empty_directories(self, paths: Sequence[str]) -> None:
        """See Incoming."""

        def job(tree: Tree) -> None:
            self._check(tree)
            for path in paths:
                tree.folder(self._at(path), make=True)

        await self._do(job)

    async def links(self, links: Sequence[tuple[str, str]]) -> None:
        """See Incoming."""

        def job(tree: Tree) -> None:
            self._check(tree)
            for path, text in links:
                tree.link(self._at(path), text)

        await self._do(job)

    async def seal(self, folder: str, documents: Sequence[tuple[str, bytes]]) -> None:
        """See Incoming."""
        _check_folder(folder)

        def job(tree: Tree) -> None:
            self._check(tree)
            for path, content in documents:
                tree.write(self._at(path), content)
            self._sealed = folder, self._make_last(tree, folder)

        await self._do(job)

    async def publish(self, folder: str) -> bool:
        """See Incoming."""
        _check_folder(folder)
        return await self._do(lambda tree: self._publish(tree, folder))

    async def published(self, folder: str) -> bool:
        """See Incoming."""
        return await self._do(lambda tree: not tree.is_folder(self._files) and tree.is_folder(folder))

    async def discard(self) -> None:
        """See Incoming."""
        trash = f"{TRASH}/{uuid.uuid4().hex}"

        def out_of_sight(tree: Tree) -> bool:
            with contextlib.suppress(FileNotFoundError):
                tree.move(self._folder, trash)
                return True
            return False

        def gone(stop: Stop) -> None:
            del stop
            with speaking(), Tree(self._root) as tree:
                tree.remove(trash)

        if await self._do(out_of_sight):
            await self._threads.run_long(gone)

    def _at(self, path: str) -> str:
        if not path:
            raise ValueError("a file has a path")
        return f"{self._files}/{path}"

    def _part(self, number: int) -> str:
        return f"{self._parts}/{number:d}"

    def _check(self, tree: Tree) -> None:
        if not tree.is_folder(self._files):
            raise ContentLost("of this upload there is nothing (any more)")

    def _state(self, tree: Tree, files: Sequence[tuple[int, str, int]]) -> dict[int, int]:
        self._check(tree)
        expected = {self._at(path): (number, size) for number, path, size in files}
        arrived: dict[int, int] = {}
        folders = []
        for found in tree.walk(self._files):
            if found.kind is Kind.DIRECTORY:
                folders.append(found.path)
                continue
            number, size = expected.get(found.path, (-1, -1))
            if found.kind is Kind.FILE and found.size == size:
                arrived[number] = size
            else:
                tree.drop(found.path)
        for folder in reversed(folders):
            tree.remove_empty(folder)
        sizes = {self._part(number): (number, size) for number, _, size in files if number not in arrived}
        for found in tree.scan(self._parts):
            number, size = sizes.get(found.path, (-1, 0))
            # of a file that is not complete at least a byte is wanted: with that it is completed
            offset = min(found.size, size - 1)
            if offset > 0:
                arrived[number] = offset
            else:
                tree.drop(found.path)
        return arrived

    def _verify(self, tree: Tree, path: str, expected: tuple[int, bytes, bytes | None], stop: Stop) -> None:
        try:
            with speaking():
                hashes = _hash_file(tree, self._at(path), stop)
        except ContentLost as error:
            raise ContentDamaged(f"{path!r} is gone: {error}") from error
        size, md5, sha256 = expected
        if (hashes.size, hashes.md5.digest()) != (size, md5) or sha256 not in {None, hashes.sha256.digest()}:
            raise ContentDamaged(
                f"{path!r} is not what has arrived: {size} bytes, MD5 {md5.hex()}; "
                f"there are {hashes.size} bytes, MD5 {hashes.md5.hexdigest()}, SHA-256 {hashes.sha256.hexdigest()}"
            )

    def _adopt(
        self, tree: Tree, place: str, file: int, consume: bool, known: os.stat_result | None, stop: Stop
    ) -> Adopted | None:
        before = os.fstat(file)
        own = before.st_uid == os.geteuid() and before.st_nlink == 1
        if consume and own and self._link_file(tree, place, file):
            if known is not None and _same(before, known):
                return None
            hashes = hash_of(file, stop)
        else:
            consume = False
            hashes = Hashes()
            with tree.new_file(place) as target:
                copy_bytes(file, target, stop, hashes)
        after = os.fstat(file)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            tree.drop(place)
            raise ContentLost("the file changed while it was read")
        return Adopted(hashes.size, hashes.md5.digest(), hashes.sha256.digest(), linked=consume)

    @staticmethod
    def _link_file(tree: Tree, place: str, file: int) -> bool:
        folder, name = tree.place(place, make=True)
        tree.drop(place)
        try:
            # by its descriptor: what bears the name by now may be something else
            os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError:
            return False  # another file system, or one without hard links: copying tells what else may be wrong
        os.fchmod(file, FILE_MODE)
        return True

    def _publish(self, tree: Tree, folder: str) -> bool:
        above, _, _ = folder.rpartition("/")
        if tree.is_folder(self._files):
            sealed, kept = self._sealed or ("", False)
            if sealed != folder:
                kept = self._make_last(tree, folder)
            tree.folder(above, make=True)
            # asked before: the rename itself would replace an empty folder
            if tree.stat(folder) is None and self._moved(tree, folder):
                if kept:
                    tree.keep_name(above)
                else:
                    tree.keep(above)
                tree.remove(self._folder)
                return False
        # there is something, and it is this upload's if another try has moved it there
        if tree.is_folder(self._files):
            raise FolderTaken(f"there is a {folder!r} already, which is not of this upload")
        if not tree.is_folder(folder):
            raise ContentLost("of this upload there is nothing (any more)")
        tree.keep(above)
        tree.remove(self._folder)
        return True

    def _make_last(self, tree: Tree, folder: str) -> bool:
        """Returns whether the folder above is there, and last as well."""
        there = tree.is_folder(folder.rpartition("/")[0])
        return sync(tree, self._files) and there

    def _moved(self, tree: Tree, folder: str) -> bool:
        try:
            tree.move(self._files, folder)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            return False
        return True

    async def _hashes(self, path: str, length: int | None) -> Hashes:
        def job(stop: Stop) -> Hashes:
            with speaking(), Tree(self._root) as tree:
                return _hash_file(tree, path, stop, length)

        return await self._threads.run_long(job)

    async def _do(self, job: Callable[[Tree], _T]) -> _T:
        def work() -> _T:
            with speaking(), Tree(self._root) as tree:
                return job(tree)

        return await self._threads.run(work)


def _check_folder(folder: str) -> None:
    if not parts_of(folder):
        raise ValueError("a version has a folder")


def _hash_file(tree: Tree, path: str, stop: Stop, length: int | None = None) -> Hashes:
    descriptor = tree.open_file(path)
    try:
        return hash_of(descriptor, stop, length)
    finally:
        os.close(descriptor)


def _same(found: os.stat_result, known: os.stat_result) -> bool:
    """Whether it is the same file and nobody has written to it."""
    return (found.st_dev, found.st_ino) == (known.st_dev, known.st_ino) and (
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    ) == (known.st_size, known.st_mtime_ns, known.st_ctime_ns)
