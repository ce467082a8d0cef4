"""Takes the bytes of an upload: puts the pieces together, hashes them while they arrive, and believes nothing.

What a stream may have in memory is bounded, and what all streams may: the next message is read when there is room for it. Small files are
hashed and written by the message, big ones by the piece, in order; different files do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from drayman.registry.v1 import content_service_pb2 as pb
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry.content import Hashes, Incoming
from drayman.server.registry.names import shown
from drayman.server.registry.upload_manifest import Announced
from drayman.server.registry.upload_memory import Memory

#: Bytes of one upload that are in memory at a time.
_MOST_BYTES = 8 << 20
#: What work on a piece takes besides the piece.
_TASK_BYTES = 4096
#: Bytes below which hashing is not worth a thread.
_BY_THE_WAY = 64 << 10
#: Files that are hashed again at a time when an upload is resumed.
_AT_ONCE = 16

_Result = TypeVar("_Result")


class _Part:
    """A file that arrives in pieces. What is done to them is done in the order in which they came: three lanes, each at its own pace."""

    __slots__ = ("hashes", "hashing_md5", "hashing_sha256", "left", "writing")

    def __init__(self, file: Announced, hashes: Hashes) -> None:
        self.hashes = hashes
        self.hashing_md5 = asyncio.Lock()
        self.hashing_sha256 = asyncio.Lock()
        self.writing = asyncio.Lock()
        #: bytes that are to come or at work, and one more for digests that are to follow
        self.left = file.size - hashes.size + file.digests_follow


class Receiver:
    """Of one upload. `group` runs what it does beside reading; its failures end the upload."""

    def __init__(
        self,
        files: list[Announced],
        incoming: Incoming,
        group: asyncio.TaskGroup,
        memory: Memory,
        hashing: Executor,
    ) -> None:
        self._files = files
        self._incoming = incoming
        self._group = group
        self._memory = (Memory(_MOST_BYTES), memory)
        self._hashing = hashing
        #: from where on files are wanted
        self._next: dict[int, int] = {}
        self._parts: dict[int, _Part] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._unhashed = frozenset(number for number, file in enumerate(files) if file.md5 is None)
        #: MD5 and SHA-256 of what is stored, by numbers, of files that were announced without
        self.found: dict[int, tuple[bytes, bytes]] = {}
        #: bytes that came
        self.received = 0

    async def expect(self, stored: Sequence[int], *, resumed: bool) -> list[tuple[int, int]]:
        """Say which of the files that have to be stored are wanted, and from where on."""
        files = self._files
        self._next = dict.fromkeys(stored, 0)
        if await self._incoming.prepare() and resumed:
            there = await self._incoming.state([(number, files[number].path, files[number].size) for number in stored])
            limit = asyncio.Semaphore(_AT_ONCE)
            async with asyncio.TaskGroup() as group:
                for number, offset in there.items():
                    group.create_task(self._recall(number, offset, limit))
        empty = [number for number, offset in self._next.items() if offset == files[number].size == 0]
        await self._take_whole([(number, b"") for number in empty])
        for number in empty:
            del self._next[number]
        return sorted(self._next.items())

    async def take(self, pieces: Iterable[pb.Piece]) -> None:
        """Take some pieces. Returns when there is room for more. Raises Refusal."""
        whole: list[tuple[int, bytes]] = []
        parts: list[tuple[int, int, bytes]] = []
        for piece in pieces:
            number, offset, content = piece.file, piece.offset, piece.content
            wanted = self._wanted(number, offset, len(content))
            self.received += len(content)
            if wanted is None or offset + len(content) <= wanted:
                continue  # it is there: it was sent before that was told
            if offset < wanted:
                content, offset = content[wanted - offset :], wanted
            end, size = offset + len(content), self._files[number].size
            if end == size:
                del self._next[number]
            else:
                self._next[number] = end
            if not offset and end == size and not self._files[number].digests_follow:
                whole.append((number, content))
            else:
                parts.append((number, offset, content))
        if whole:
            await self._begin(sum(len(content) for _, content in whole), self._take_whole, whole)
        for number, offset, content in parts:
            part = self._parts.get(number)
            if part is None:
                part = self._parts[number] = _Part(self._files[number], Hashes())
            await self._begin(len(content), self._take_part, part, number, offset, content)

    async def tell(self, digests: Mapping[int, Announced]) -> None:
        """Take what followed of files: what is known of them now, by numbers. Raises Refusal."""
        for number, file in digests.items():
            self._files[number] = file
            part = self._parts.get(number)
            if part is not None:
                part.left -= 1
                if not part.left:
                    await self._begin(0, self._end_part, part, number)

    async def complete(self) -> None:
        """Return when everything is stored. Raises Refusal if something is missing."""
        if self._running:
            await asyncio.wait(self._running)
        if self._next:
            number, offset = min(self._next.items())
            file = self._files[number]
            raise Refusal(
                "CONTENT_MISMATCH",
                f"{len(self._next)} files are not complete: of {shown(file.path)} {offset} of {file.size} bytes came",
                metadata={"path": file.path},
            )
        if self._parts:
            file = self._files[min(self._parts)]
            raise Refusal(
                "CONTENT_MISMATCH",
                f"the digests of {len(self._parts)} files did not follow: of {shown(file.path)}, for one",
                "digests",
                {"path": file.path},
            )

    def _wanted(self, number: int, offset: int, length: int) -> int | None:
        """From where on a file is wanted that a piece came of; None = not at all. Raises Refusal for a piece that cannot be."""
        if not 0 <= number < len(self._files):
            raise invalid("data.pieces.file", f"a piece of file {number}: the manifest has {len(self._files)}")
        file = self._files[number]
        if not file.has_content:
            raise invalid("data.pieces.file", f"a piece of {shown(file.path)}, which is a link or an empty directory")
        if offset < 0 or offset + length > file.size:
            raise Refusal(
                "CONTENT_MISMATCH",
                f"{shown(file.path)}: a piece of {length} bytes at {offset}, of a file that was announced with {file.size}",
                "data.pieces",
                {"path": file.path},
            )
        wanted = self._next.get(number)
        if wanted is not None and offset > wanted:
            raise invalid(
                "data.pieces.offset", f"{shown(file.path)}: a piece at {offset}, where that at {wanted} is next"
            )
        return wanted

    async def _begin(self, size: int, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Begin to work on bytes, once there is room for them."""
        size += _TASK_BYTES
        for memory in self._memory:
            await memory.take(size)
        coroutine = work(*arguments)
        try:
            task = self._group.create_task(coroutine)
        except BaseException:  # the group is ending, because something else failed
            coroutine.close()
            for memory in self._memory:
                memory.give_back(size)
            raise
        self._running.add(task)
        task.add_done_callback(lambda done: self._end(done, size))

    def _end(self, task: asyncio.Task[None], size: int) -> None:
        self._running.discard(task)
        for memory in self._memory:
            memory.give_back(size)

    async def _take_whole(self, contents: list[tuple[int, bytes]]) -> None:
        """Check and write files that came in one piece."""
        if not contents:
            return
        if sum(len(content) for _, content in contents) < _BY_THE_WAY:
            self._check_whole(contents)
        else:
            await self._in_thread(self._check_whole, contents)
        await self._incoming.put([(self._files[number].path, content) for number, content in contents])

    def _check_whole(self, contents: list[tuple[int, bytes]]) -> None:
        for number, content in contents:
            hashes = Hashes()
            hashes.update(content)
            self._check(number, hashes)

    async def _take_part(self, part: _Part, number: int, offset: int, content: bytes) -> None:
        """Hash and write a piece of a file, after those before it."""
        hashes = part.hashes
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._hash(part.hashing_md5, hashes.md5.update, content))
            lanes.create_task(self._hash(part.hashing_sha256, hashes.sha256.update, content))
            async with part.writing:
                await self._incoming.append(number, offset, content)
        hashes.size += len(content)
        part.left -= len(content)
        if not part.left:
            await self._end_part(part, number)

    async def _hash(self, turn: asyncio.Lock, update: Callable[[bytes], None], content: bytes) -> None:
        async with turn:
            if len(content) < _BY_THE_WAY:
                update(content)
            else:
                await self._in_thread(update, content)

    async def _end_part(self, part: _Part, number: int) -> None:
        """Check a file all of which is there, its digests too, and give it its name."""
        self._check(number, part.hashes)
        await self._incoming.complete(number, self._files[number].path)
        self._parts.pop(number, None)

    def _check(self, number: int, hashes: Hashes) -> None:
        """Raise Refusal for what is not what was announced; otherwise keep what was not."""
        file = self._files[number]
        if not _is(file, hashes):
            raise _mismatch(file, hashes)
        self._keep(number, hashes)

    def _keep(self, number: int, hashes: Hashes) -> None:
        if number in self._unhashed:
            self.found[number] = hashes.md5.digest(), hashes.sha256.digest()

    async def _recall(self, number: int, offset: int, limit: asyncio.Semaphore) -> None:
        """Look at what an earlier connection left of a file. It is hashed again: this manifest may say something else."""
        file = self._files[number]
        if not file.size:
            return
        async with limit:
            if offset < file.size:
                self._parts[number] = _Part(file, await self._incoming.part_hashes(number, offset))
                self._next[number] = offset
                return
            hashes = await self._incoming.file_hashes(file.path)
            if _is(file, hashes):
                self._keep(number, hashes)
                del self._next[number]

    async def _in_thread(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._hashing, work, *arguments)


def _is(file: Announced, hashes: Hashes) -> bool:
    same_md5 = file.md5 is None or hashes.md5.digest() == file.md5
    return hashes.size == file.size and same_md5 and hashes.sha256.digest() == file.sha256


def _mismatch(file: Announced, hashes: Hashes) -> Refusal:
    md5 = "" if file.md5 is None else f"MD5 {file.md5.hex()}, "
    return Refusal(
        "CONTENT_MISMATCH",
        f"{shown(file.path)} is not what was announced: {file.size} bytes, {md5}SHA-256 {(file.sha256 or b'').hex()}; "
        f"what came has {hashes.size} bytes, MD5 {hashes.md5.hexdigest()}, SHA-256 {hashes.sha256.hexdigest()}",
        "data.pieces",
        {"path": file.path},
    )
