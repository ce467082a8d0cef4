"""Where the bytes of sandboxes are: a folder, or an object store.

obstore is called in threads, by its calls that block: see the registry's decision 0010 for why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from drayman.server.platform.errors import Refusal

if TYPE_CHECKING:
    from obstore import GetResult

log = structlog.get_logger(__name__)

_CHUNK = 1 << 20
_S3 = "s3://"
#: What is said of a disk or bucket that is full, in whatever words.
_FULL = (
    "No space left",
    "os error 28",
    "os error 122",
    "QuotaExceeded",
    "StorageFull",
    "InsufficientCapacity",
    "507 Insufficient Storage",
)


class SandboxBytes:
    """Files by name, whole or not at all."""

    def __init__(self, address: str) -> None:
        """Take a folder, which is made, or `s3://BUCKET/PREFIX`.

        Raises ValueError for what is neither, OSError for a folder that cannot be.
        """
        self._folder: Path | None = None
        self._store: LocalStore | S3Store
        if address.startswith(_S3):
            bucket, _, prefix = address.removeprefix(_S3).partition("/")
            self._store = S3Store(bucket, prefix=prefix or None)
        elif "://" in address:
            raise ValueError(f"{address!r} is neither a folder nor s3://BUCKET/PREFIX")
        else:
            self._folder = Path(address).absolute()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self._folder)

    async def put(self, name: str, chunks: AsyncIterator[bytes], limit: int) -> tuple[int, bytes]:
        """Store what comes; returns its size and its last 8 bytes. Raises Refusal: SANDBOX_TOO_LARGE, STORAGE_FULL.

        What `chunks` raises is raised, and nothing is stored.
        """
        try:
            with tempfile.TemporaryFile() as file:
                size, trailer = await _spool(file, chunks, limit)
                with _speaking():
                    await asyncio.to_thread(self._keep, name, file)
        except OSError as error:  # of the file that all of it is kept in on its way
            raise _plain(error) from error
        return size, trailer

    async def has(self, name: str) -> bool:
        """Whether a file is there. Raises Refusal (UNAVAILABLE)."""
        try:
            with _speaking():
                await asyncio.to_thread(obstore.head, self._store, name)
        except FileNotFoundError:
            return False
        return True

    async def open(self, name: str) -> tuple[int, AsyncGenerator[bytes, None]] | None:
        """Begin to read a file: its size and its bytes, which come even if it is removed meanwhile; None = it is not there.

        Raises Refusal (UNAVAILABLE), and so do the bytes.
        """
        try:
            with _speaking():
                result: GetResult = await asyncio.to_thread(obstore.get, self._store, name)
        except FileNotFoundError:
            return None
        return int(result.meta["size"]), _pieces(result)

    async def older(self, seconds: float) -> list[str]:
        """Return the names of the files that were stored longer ago."""
        return await asyncio.to_thread(self._older, datetime.now(UTC) - timedelta(seconds=seconds))

    async def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            if self._folder is not None:
                await asyncio.to_thread((self._folder / name).unlink)
            else:
                await asyncio.to_thread(obstore.delete, self._store, name)

    def _older(self, than: datetime) -> list[str]:
        if (
            self._folder is not None
        ):  # obstore does not tell of files that it had not finished when its process was killed
            with os.scandir(self._folder) as found:
                return [each.name for each in found if each.is_file() and each.stat().st_mtime < than.timestamp()]
        return [item["path"] for page in obstore.list(self._store) for item in page if item["last_modified"] < than]

    def _keep(self, name: str, file: IO[bytes]) -> None:
        file.seek(0)
        obstore.put(self._store, name, file)
        if self._folder is not None:
            for path in (self._folder / name, self._folder):  # who is told that it is there finds it after a crash
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


async def _pieces(result: GetResult) -> AsyncGenerator[bytes, None]:
    chunks = iter(result.stream(min_chunk_size=_CHUNK))
    with _speaking():
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            # gRPC takes 4 MiB at most, unless somebody said otherwise
            content = memoryview(bytes(chunk))
            for begin in range(0, len(content), _CHUNK):
                yield bytes(content[begin : begin + _CHUNK])


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Say what a folder or a store has to complain of in our words; FileNotFoundError is raised as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, BaseError) as error:
        raise _plain(error) from error


def _plain(error: Exception) -> Refusal:
    if any(word in str(error) for word in _FULL):
        return Refusal("STORAGE_FULL", "there is no room for the sandbox")
    log.warning("sandboxes cannot be had", error=str(error)[:500])
    return Refusal("UNAVAILABLE", "sandboxes cannot be stored and read just now", retry_after=5.0)


async def _spool(file: IO[bytes], chunks: AsyncIterator[bytes], limit: int) -> tuple[int, bytes]:
    size, trailer = 0, b""
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise Refusal("SANDBOX_TOO_LARGE", f"a sandbox of this kind has at most {limit} bytes")
        trailer = (trailer + chunk[-8:])[-8:]
        await asyncio.to_thread(file.write, chunk)
    return size, trailer
