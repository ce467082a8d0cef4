"""Downloads: one stream for any number of files, in order, links followed by the rows.

Every file that is sent whole is hashed on its way and compared with what was stored; of ranges only the length can be checked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import version_pb2
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import messages, names
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, ContentLost
from drayman.server.registry.entries import Entry
from drayman.server.registry.store import Store

#: Bytes of content in one message, and files.
_MESSAGE = 1 << 20
_FILES = 1000
#: Bytes up to which a file shares a message with others.
_SMALL = 256 << 10
#: Entries that are told at once. Those of longer versions come in between.
_BATCH = 5000


@dataclass(frozen=True, slots=True)
class _Wish:
    """A file, or the part of it that is wanted."""

    number: int
    entry: Entry
    key: str
    offset: int
    length: int

    @property
    def is_whole(self) -> bool:
        return self.length == self.entry.size


class Downloads:
    """Sends files."""

    def __init__(self, store: Store, content: Content) -> None:
        self._store = store
        self._content = content

    async def send(self, request: pb.DownloadRequest, call: Call) -> None:
        """Serve a download. Raises Refusal."""
        address = VersionAddress(request.project, request.asset, request.version)
        version = await self._store.version(address)
        found = await self._find(version.version_id, request)
        wishes = _wishes(found, address, request)
        for first in range(0, len(found) or 1, _BATCH):
            batch = found[first : first + _BATCH]
            # many of them keep the loop busy for a while
            entries = await asyncio.to_thread(_entries, batch) if len(batch) > _FILES else _entries(batch)
            await call.send(pb.DownloadResponse(entries=entries))
            try:
                await self._send_contents(wishes[first : first + _BATCH], call)
            except ContentLost as error:
                raise _lost(str(error)) from error

    async def presign(self, request: pb.PresignFilesRequest, seconds: int) -> pb.PresignFilesResponse:
        """Return URLs. Raises Refusal."""
        if self._content.local_root is not None:
            raise Refusal(
                "NOT_OFFERED", "the registry is a local folder: there are no URLs; download, or read the folder"
            )
        address = VersionAddress(request.project, request.asset, request.version)
        version = await self._store.version(address)
        if request.paths:
            found = [await self._entry(version.version_id, path) for path in request.paths]
        else:
            found = [entry for entry in await self._store.entries(version.version_id) if not entry.is_directory]
        response = pb.PresignFilesResponse()
        for entry in found:
            url = await self._content.presign((entry.holder or address.file(entry.path)).key, seconds)
            if url is None:
                raise Refusal("NOT_OFFERED", "the registry's storage has no URLs to give")
            response.files.add(entry=_entry_message(entry), url=url)
        return response

    # --- what is wanted ----------------------------------------------------------------------------------------------

    async def _find(self, version_id: int, request: pb.DownloadRequest) -> list[Entry]:
        """Read the entries that are asked for, by path."""
        path = request.path
        if not path or path.endswith("/"):
            if request.offset or request.length:
                raise invalid("offset", "a range of a directory: expected the path of one file")
            found = await self._store.entries(version_id, path)
            if path and not found:
                entry = await self._store.entry(version_id, path.rstrip("/"))
                if entry is None or not entry.is_directory:
                    raise _not_found(path)
                found = [entry]
            return _only(found, request.only) if request.only else found
        if request.only:
            raise invalid(
                "only", f"some files of {names.shown(path)}, which is not a directory: end its path with a slash"
            )
        return [await self._entry(version_id, path)]

    async def _entry(self, version_id: int, path: str) -> Entry:
        entry = await self._store.entry(version_id, path)
        if entry is None:
            raise _not_found(path)
        return entry

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send_contents(self, wishes: Sequence[_Wish], call: Call) -> None:
        """Send contents, those of small files together. The next ones are read while the last ones travel."""
        sending: asyncio.Task[None] | None = None
        try:
            async with aclosing(self._pieces(wishes)) as messages_:
                async for message in messages_:
                    if sending is not None:
                        await sending
                    sending = asyncio.create_task(call.send(message))
            if sending is not None:
                await sending
        finally:
            if sending is not None and not sending.done():
                sending.cancel()
                await asyncio.wait([sending])

    async def _pieces(self, wishes: Sequence[_Wish]) -> AsyncGenerator[pb.DownloadResponse, None]:
        small: list[_Wish] = []
        size = 0
        for wish in wishes:
            if not wish.length:
                continue
            if wish.is_whole and wish.length <= _SMALL:
                if small and (size + wish.length > _MESSAGE or len(small) >= _FILES):
                    yield await self._together(small)
                    small, size = [], 0
                small.append(wish)
                size += wish.length
                continue
            if small:  # in order
                yield await self._together(small)
                small, size = [], 0
            async with aclosing(self._alone(wish)) as pieces:
                async for piece in pieces:
                    yield piece
        if small:
            yield await self._together(small)

    async def _together(self, wishes: Sequence[_Wish]) -> pb.DownloadResponse:
        contents = await self._content.read_small([wish.key for wish in wishes], [wish.length for wish in wishes])
        if len(wishes) > 1:
            return await asyncio.to_thread(_message, wishes, contents)
        return _message(wishes, contents)

    async def _alone(self, wish: _Wish) -> AsyncGenerator[pb.DownloadResponse, None]:
        """Send a big file, or a part of one."""
        offset = wish.offset
        check = _Check(wish.entry) if wish.is_whole else None
        blocks = cast("Any", self._content.read(wish.key, wish.offset, wish.length))
        async with aclosing(blocks) as contents:
            async for content in contents:
                if check is not None:
                    await asyncio.to_thread(check.update, content)
                    if offset + len(content) == wish.entry.size:
                        check.end()
                yield pb.DownloadResponse(pieces=[pb.Piece(file=wish.number, offset=offset, content=content)])
                offset += len(content)


class _Check:
    """Compares a content with its entry: by SHA-256, or MD5 where that is not known."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._hash = hashlib.sha256() if entry.sha256 is not None else hashlib.md5(usedforsecurity=False)

    def update(self, content: bytes) -> None:
        self._hash.update(content)

    def end(self) -> None:
        """Raise Refusal if what was hashed is something else."""
        if self._hash.digest() != (self._entry.sha256 or self._entry.md5):
            raise _lost(f"{names.shown(self._entry.path)} is not what was stored")


def _message(wishes: Sequence[_Wish], contents: Sequence[bytes]) -> pb.DownloadResponse:
    pieces = []
    for wish, content in zip(wishes, contents, strict=True):
        check = _Check(wish.entry)
        check.update(content)
        check.end()
        pieces.append(pb.Piece(file=wish.number, content=content))
    return pb.DownloadResponse(pieces=pieces)


def _entry_message(entry: Entry) -> version_pb2.Entry:
    if entry.md5 is None:
        return version_pb2.Entry(path=entry.path, empty_directory=True)
    message = version_pb2.Entry(
        path=entry.path,
        size=entry.size,
        md5=entry.md5.hex(),
        sha256="" if entry.sha256 is None else entry.sha256.hex(),
    )
    if entry.target is not None:
        message.link.target.CopyFrom(messages.file_address(entry.target))
        if entry.ancestor is not None:
            message.link.ancestor.CopyFrom(messages.file_address(entry.ancestor))
    return message


def _entries(found: Sequence[Entry]) -> list[version_pb2.Entry]:
    return list(map(_entry_message, found))


def _only(found: Sequence[Entry], wanted: Sequence[pb.PartialFile]) -> list[Entry]:
    """Of entries those that are wanted."""
    paths = {part.path for part in wanted}
    chosen = [entry for entry in found if entry.path in paths]
    if len(chosen) < len(paths):
        missing = min(paths - {entry.path for entry in chosen})
        raise _not_found(missing)
    return chosen


def _wishes(found: Sequence[Entry], address: VersionAddress, request: pb.DownloadRequest) -> list[_Wish]:
    """Say what is wanted of each entry. Raises Refusal for a range that is not in the file."""
    offsets: Mapping[str, int] = {part.path: part.offset for part in request.only}
    wishes = []
    for number, entry in enumerate(found):
        offset = offsets.get(entry.path, request.offset)
        length = request.length or max(0, entry.size - offset)
        if offset < 0 or request.length < 0 or offset + length > entry.size:
            raise invalid(
                "only.offset" if request.only else "offset",
                f"{length} bytes from {offset} on of {names.shown(entry.path)}, which has {entry.size}",
                size=entry.size,
            )
        wishes.append(_Wish(number, entry, (entry.holder or address.file(entry.path)).key, offset, length))
    return wishes


def _not_found(path: str) -> Refusal:
    return Refusal("FILE_NOT_FOUND", f"the version has no {names.shown(path)}", "path", {"path": path})


def _lost(text: str) -> Refusal:
    return Refusal("CONTENT_LOST", text)
