"""The registry's bytes in an object store of the S3 kind.

There are no directories, links or renames there: an upload's objects are copied to their places when it is published, and nobody is told of
them before; readers follow links by the registry's rows.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from uuid import UUID

from drayman.server.registry.content import BLOCK, Content, ContentLost, Found, Hashes, Kind
from drayman.server.registry.object_incoming import INCOMING, ObjectIncoming
from drayman.server.registry.object_requests import Objects, each

_SUMMARY = "..summary"


class ObjectContent(Content):
    """A bucket, or what is below a prefix of one. See Content."""

    def __init__(self, objects: Objects) -> None:
        """Use `open`."""
        self._objects = objects

    @classmethod
    def open(cls, url: str) -> Self:
        """Open `s3://BUCKET` or `s3://BUCKET/PREFIX`; nothing is asked of it yet. Raises ValueError for another URL."""
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        if parts.scheme != "s3" or not parts.hostname or parts.query or parts.fragment or "//" in prefix:
            raise ValueError(f"{url!r} is not of the form s3://BUCKET/PREFIX")
        return cls(Objects(parts.netloc, prefix))

    @property
    def local_root(self) -> Path | None:
        """There is none."""
        return None

    def incoming(self, upload_id: str | UUID) -> ObjectIncoming:
        """See Content."""
        return ObjectIncoming(self._objects, UUID(str(upload_id)))

    async def incoming_ids(self) -> list[str]:
        """See Content."""
        folders, _ = await self._objects.level(INCOMING)
        return [folder.rpartition("/")[2] for folder in folders]

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """See Content."""
        pieces = self._objects.blocks(key, offset, length)
        try:
            if not length and await self._objects.size(key) is None:
                raise ContentLost(f"there is no {key!r}")
            async for piece in pieces:
                for begin in range(0, len(piece), BLOCK):
                    yield piece[begin : begin + BLOCK]
        finally:
            await pieces.aclose()

    async def read_small(self, keys: Sequence[str], sizes: Sequence[int] | None = None) -> list[bytes]:
        """See Content."""
        contents = await each(self._objects.get, keys)
        for key, content, size in zip(keys, contents, sizes or (), strict=False):
            if len(content) != size:
                raise ContentLost(f"{key!r} has {len(content)} bytes, not {size}")
        return contents

    async def hashes(self, key: str) -> Hashes:
        """See Content."""
        size = await self._objects.size(key)
        if size is None:
            raise ContentLost(f"there is no {key!r}")
        return await self._objects.hashes([(key, 0, size)])

    async def write_documents(self, documents: Mapping[str, bytes]) -> None:
        """See Content. There are no folders that could be missing."""
        await each(lambda key: self._objects.put(key, documents[key]), documents)

    async def remove_document(self, key: str) -> None:
        """See Content."""
        await self._objects.delete([self._objects.check(key)])

    async def make_folder(self, folder: str) -> None:
        """There are no folders."""

    async def copy(self, from_key: str, to_key: str) -> None:
        """See Content."""
        size = await self._objects.size(from_key)
        if size is None:
            raise ContentLost(f"there is no {from_key!r}")
        await self._objects.copy(from_key, to_key, size)

    async def relink(self, key: str, text: str) -> None:
        """See Content."""
        del text
        await self.remove_document(key)

    async def exists(self, folder: str) -> bool:
        """See Content."""
        return await self._objects.is_folder(folder)

    async def remove(self, folder: str) -> None:
        """See Content."""
        if self._objects.check(folder).partition("/")[0] == INCOMING:
            raise ValueError(f"{folder!r} is no folder that can be removed")
        await self._objects.delete([f"{folder}/{_SUMMARY}"])
        await self._objects.delete_below(folder)

    async def empty_trash(self) -> None:
        """There is none: what a removal has left is where it was, and is removed by removing it again."""

    async def listing(self, folder: str) -> list[Found]:
        """See Content."""
        folders, files = await self._objects.level(folder)
        if folder and not folders and not files:
            raise ContentLost(f"there is no {folder!r}")
        found = [Found(_below(folder, key), Kind.DIRECTORY) for key in folders]
        found += [Found(_below(folder, key), Kind.FILE, size) for key, size in files]
        return sorted(found, key=lambda item: item.path)

    async def walk(self, folder: str) -> AsyncIterator[Found]:
        """See Content. There are files only."""
        empty = bool(folder)
        async for key, size in self._objects.below(folder):
            empty = False
            yield Found(_below(folder, key), Kind.FILE, size)
        if empty:
            raise ContentLost(f"there is no {folder!r}")

    async def room(self) -> int | None:
        """Nobody knows."""
        return None

    async def presign(self, key: str, seconds: int) -> str | None:
        """See Content."""
        return await self._objects.sign(key, seconds)

    async def close(self) -> None:
        """See Content."""
        self._objects.close()


def _below(folder: str, key: str) -> str:
    return key.removeprefix(f"{folder}/") if folder else key
