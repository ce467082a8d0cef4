"""An upload on its way into an object store."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from drayman.server.registry.content import Adopted, ContentLost, FolderTaken, Hashes, Incoming
from drayman.server.registry.object_requests import PIECE, Objects, Range, each
from drayman.server.registry.tree import Tree, open_root

INCOMING = "..incoming"

_SUMMARY = "..summary"
_IN_MEMORY = 8 * PIECE


@dataclass(slots=True)
class _Part:
    """What there is of a file that is not complete."""

    stored: dict[int, int] = field(default_factory=dict)
    """Sizes of its objects by the offsets at which they begin; each begins where the one before ends."""
    tail: bytearray = field(default_factory=bytearray)
    """What follows and has not been stored."""

    @property
    def begin(self) -> int:
        """Where the tail begins."""
        return max((offset + size for offset, size in self.stored.items()), default=0)

    @property
    def end(self) -> int:
        """How much there is."""
        return self.begin + len(self.tail)


class ObjectIncoming(Incoming):
    """An upload on its way into an object store. See Incoming.

    `made`: it is there. `files/<path>`: complete files. `parts/<number>/<offset>`: the pieces of a file.
    `joins/<path>`: the file is complete; its pieces are joined when it is published, as an object cannot be added to.
    `publishing`: what is in the place is of this upload.
    """

    def __init__(self, objects: Objects, upload_id: UUID) -> None:
        self._objects = objects
        self._folder = f"{INCOMING}/{upload_id}"
        self._made = f"{self._folder}/made"
        self._publishing = f"{self._folder}/publishing"
        self._there = False
        self._parts: dict[int, _Part] = {}

    async def prepare(self) -> bool:
        """See Incoming."""
        before = await self._objects.size(self._made) is not None
        if not before:
            # what somebody who discarded it did not come to
            await self._objects.delete_below(self._folder)
            await self._objects.put(self._made, b"")
        self._there = True
        return before

    async def state(self, files: Sequence[tuple[int, str, int]]) -> dict[int, int]:
        """See Incoming."""
        await self._check()
        there, joins, parts = await self._look()
        arrived: dict[int, int] = {}
        kept = {self._made}
        self._parts = {}
        for number, path, size in files:
            key, join = self._file(path), self._join(path)
            part = parts.get(number, _Part())
            if there.get(key) == size:
                kept.add(key)
            elif joins.get(path) == (number, size) and part.end == size:
                kept.add(join)
                kept |= {self._piece(number, offset) for offset in part.stored}
            else:
                # of a file that is not complete at least a byte is wanted: with that it is completed
                offset = min(part.end, size - 1)
                if offset > 0:
                    self._parts[number] = part
                    kept |= {self._piece(number, begin) for begin in part.stored}
                    arrived[number] = offset
                continue
            arrived[number] = size
        await self._objects.delete([key for key in there if key not in kept])
        return arrived

    async def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """See Incoming."""
        await self._check()
        await each(lambda file: self._objects.put(self._file(file[0]), file[1]), files)

    async def append(self, number: int, offset: int, content: bytes) -> None:
        """See Incoming."""
        await self._check()
        part = self._parts.setdefault(number, _Part())
        if offset > part.end:
            raise ContentLost(f"of file {number} there are {part.end} bytes, not {offset}")
        if offset < part.end:
            await self._cut(number, part, offset)
        part.tail += content
        while len(part.tail) >= PIECE:
            await self._store(number, part, PIECE)
        while sum(len(other.tail) for other in self._parts.values()) > _IN_MEMORY:
            most = max(self._parts, key=lambda other: len(self._parts[other].tail))
            await self._store(most, self._parts[most], PIECE)

    async def flush(self) -> None:
        """See Incoming."""
        for number, part in list(self._parts.items()):
            if part.tail:
                await self._store(number, part, PIECE)

    async def complete(self, number: int, path: str) -> None:
        """See Incoming."""
        await self._check()
        part = self._parts.get(number)
        if part is None:
            there = await each(self._objects.size, [self._file(path), self._join(path)])
            if there == [None, None]:
                raise ContentLost(f"nothing of {path!r} has arrived")
            return
        if not part.stored:
            await self._objects.put(self._file(path), part.tail)
        else:
            if part.tail:
                await self._store(number, part, PIECE)
            note = json.dumps({"number": number, "size": part.end})
            await self._objects.put(self._join(path), note.encode())
            # of an earlier, shorter content
            await self._objects.delete([self._file(path)])
        self._parts.pop(number, None)

    async def part_hashes(self, number: int, length: int) -> Hashes:
        """See Incoming."""
        part = self._parts.get(number, _Part())
        if part.end < length:
            raise ContentLost(f"of file {number} there are {part.end} bytes, not {length}")
        ranges = []
        left = length
        for begin, size in sorted(part.stored.items()):
            ranges.append((self._piece(number, begin), 0, min(size, left)))
            left -= ranges[-1][2]
        hashes = await self._objects.hashes(ranges)
        hashes.update(part.tail[:left])
        return hashes

    async def file_hashes(self, path: str) -> Hashes:
        """See Incoming."""
        size = await self._objects.size(self._file(path))
        if size is not None:
            ranges = [(self._file(path), 0, size)]
        else:
            number, size = await self._note(path)
            _, _, parts = await self._look()
            ranges = self._ranges(number, parts)
        hashes = await self._objects.hashes(ranges)
        if hashes.size != size:
            raise ContentLost(f"of {path!r} there are {hashes.size} bytes, not {size}")
        return hashes

    async def adopt(
        self,
        path: str,
        source: Path,
        consume: bool,
        *,
        within: Path | None = None,
        known: os.stat_result | None = None,
    ) -> Adopted | None:
        """See Incoming. Always by a copy."""
        del consume, known
        await self._check()
        top = source.parent if within is None else within
        hashes = await self._objects.put_file(self._file(path), lambda: _open(source, top))
        return Adopted(hashes.size, hashes.md5.digest(), hashes.sha256.digest(), linked=False)

    async def empty_directories(self, paths: Sequence[str]) -> None:
        """There are none."""
        del paths
        await self._check()

    async def links(self, links: Sequence[tuple[str, str]]) -> None:
        """There are none; what was in their places is removed."""
        await self._check()
        await self._objects.delete([self._file(path) for path, _ in links])

    async def verify(self, files: Sequence[tuple[str, int, bytes, bytes | None]]) -> None:
        """See Incoming."""

    async def seal(self, folder: str, documents: Sequence[tuple[str, bytes]]) -> None:
        """See Incoming."""
        del folder
        await self.put(documents)

    async def publish(self, folder: str) -> bool:
        """See Incoming."""
        there, joins, parts = await self._look()
        if self._made not in there:
            if not await self._objects.is_folder(folder):
                raise ContentLost("of this upload there is nothing (any more)")
            await self._end(list(there))
            return True
        if self._publishing not in there:
            if await self._objects.is_folder(folder):
                raise FolderTaken(f"there is a {folder!r} already, which is not of this upload")
            await self._objects.put(self._publishing, folder.encode())
        try:
            await self._place(folder, there, joins, parts)
        except ContentLost:
            # another process is at it too, and was faster
            if not await self.published(folder):
                raise
            return True
        await self._end(list(there))
        return False

    async def published(self, folder: str) -> bool:
        """See Incoming."""
        return await self._objects.size(self._made) is None and await self._objects.is_folder(folder)

    async def discard(self) -> None:
        """See Incoming."""
        self._parts = {}
        there, _, _ = await self._look(notes=False)
        await self._end(list(there))

    async def _place(
        self, folder: str, there: dict[str, int], joins: dict[str, tuple[int, int]], parts: dict[int, _Part]
    ) -> None:
        prefix = self._file("")
        files = [key for key in there if key.startswith(prefix)]
        summary = self._file(_SUMMARY)

        async def copy(key: str) -> None:
            await self._objects.copy(key, f"{folder}/{key.removeprefix(prefix)}", there[key])

        async def join(path: str) -> None:
            number, size = joins[path]
            stored = parts.get(number, _Part()).end
            if stored != size:
                raise ContentLost(f"of {path!r} there are {stored} bytes, not {size}")
            await self._objects.join(f"{folder}/{path}", self._ranges(number, parts))

        await each(copy, [key for key in files if key != summary])
        await each(join, joins)
        if summary in there:
            await copy(summary)

    async def _end(self, there: Sequence[str]) -> None:
        """Delete everything: first what tells that there is an upload, so that nobody goes on with half of one."""
        self._there = False
        await self._objects.delete([self._made])
        await self._objects.delete([key for key in there if key not in {self._made, self._publishing}])
        await self._objects.delete([self._publishing])

    async def _check(self) -> None:
        if not self._there:
            if await self._objects.size(self._made) is None:
                raise ContentLost("of this upload there is nothing (any more)")
            self._there = True

    async def _look(self, *, notes: bool = True) -> tuple[dict[str, int], dict[str, tuple[int, int]], dict[int, _Part]]:
        """What there is: sizes by keys; (number, size) of files to be joined, by paths; the pieces of files, by numbers."""
        there: dict[str, int] = {}
        joins: list[str] = []
        parts: dict[int, _Part] = {}
        async for key, size in self._objects.below(self._folder):
            there[key] = size
            kind, _, rest = key.removeprefix(f"{self._folder}/").partition("/")
            if kind == "joins":
                joins.append(rest)
            elif kind == "parts":
                number, _, offset = rest.partition("/")
                part = parts.setdefault(int(number), _Part())
                if part.begin == int(offset):
                    part.stored[int(offset)] = size
        found = await each(self._note, joins) if notes else []
        return there, dict(zip(joins, found, strict=False)), parts

    async def _note(self, path: str) -> tuple[int, int]:
        note = json.loads(await self._objects.get(self._join(path)))
        return int(note["number"]), int(note["size"])

    async def _store(self, number: int, part: _Part, size: int) -> None:
        content, begin = bytes(part.tail[:size]), part.begin
        await self._objects.put(self._piece(number, begin), content)
        part.stored[begin] = len(content)
        del part.tail[:size]

    async def _cut(self, number: int, part: _Part, end: int) -> None:
        """Drop what follows the offset."""
        if end >= part.begin:
            del part.tail[end - part.begin :]
            return
        part.tail.clear()
        doomed = [begin for begin in part.stored if begin + part.stored[begin] > end]
        first = min(doomed)
        if first < end:
            part.tail += await self._objects.get_range(self._piece(number, first), 0, end - first)
        for begin in doomed:
            del part.stored[begin]
        await self._objects.delete([self._piece(number, begin) for begin in doomed])

    def _ranges(self, number: int, parts: Mapping[int, _Part]) -> list[Range]:
        stored = parts.get(number, _Part()).stored
        return [(self._piece(number, begin), 0, size) for begin, size in sorted(stored.items())]

    def _file(self, path: str) -> str:
        return f"{self._folder}/files/{path}"

    def _join(self, path: str) -> str:
        return f"{self._folder}/joins/{path}"

    def _piece(self, number: int, offset: int) -> str:
        return f"{self._folder}/parts/{number:d}/{offset:020d}"


def _open(source: Path, top: Path) -> int:
    root = open_root(top)
    try:
        with Tree(root) as outside:
            return outside.open_file(source.relative_to(top).as_posix())
    finally:
        os.close(root)
