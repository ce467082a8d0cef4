"""Requests to an object store: bounded in number, and with what they say put in our words.

They are made in threads, by the calls of obstore that block. Its other calls leave something behind in threads of their
own that ends the process by SIGABRT if the interpreter ends at the same time (PyO3/pyo3-async-runtimes, issue 40).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from drayman.server.registry.content import ContentError, ContentLost, Hashes, StorageFull
from drayman.server.registry.file_bytes import read_all
from drayman.server.registry.threads import Stop, Threads
from drayman.server.registry.tree import speaking

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_I = TypeVar("_I")
_T = TypeVar("_T")

Range: TypeAlias = tuple[str, int, int]
"""Bytes of an object: key, where they begin, how many they are."""

PIECE = 8 << 20
"""Bytes of one request for content, in either direction."""

KEY_LIMIT = 1024
"""Bytes of the longest key that S3 takes."""

_AT_ONCE = 32
_DELETED_AT_ONCE = 1000
_LONG_AT_ONCE = 4
_COPY_LIMIT = 5 << 30  # what S3 copies by one request
_PARTS_LIMIT = 9_000  # S3: 10,000 parts make an object
# `timeout` is of a whole request: a server-side copy of a big object says nothing for long
_CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "timeout",
)
_FULL = ("StorageFull", "QuotaExceeded", "InsufficientCapacity", "507 Insufficient Storage")


class Objects:
    """The objects below a prefix of a bucket. Keys are relative to it."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """The rest comes from the environment: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, ..."""
        self._prefix = f"{prefix}/" if prefix else ""
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options=_client_options(os.environ),
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)},
        )
        self._threads = Threads("objects", _AT_ONCE, _LONG_AT_ONCE)

    def check(self, key: str) -> str:
        """Returns the key. Raises ValueError for one that the store would not take."""
        if not key or any(part in {"", ".", ".."} for part in key.split("/")):
            raise ValueError(f"{key!r} is no path within the registry")
        size = len(f"{self._prefix}{key}".encode())
        if size > KEY_LIMIT:
            raise ValueError(f"{key!r} has {size} bytes with its prefix; an object store takes {KEY_LIMIT}")
        return key

    async def get(self, key: str) -> bytes:
        """The content of an object."""
        self.check(key)
        return await self._ask(key, lambda: bytes(obstore.get(self._store, key).bytes()))

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Bytes of an object. Raises ContentLost if it has fewer."""
        self.check(key)
        return await self._threads.run(partial(self._get_range, key, offset, length))

    async def blocks(self, key: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Bytes of an object, piece by piece; the next one is under way while one is looked at."""
        end = offset + length
        ahead: asyncio.Task[bytes] | None = None
        try:
            while offset < end:
                size = min(PIECE, end - offset)
                piece = await (ahead or self.get_range(key, offset, size))
                offset += size
                ahead = None
                if offset < end:
                    ahead = asyncio.create_task(self.get_range(key, offset, min(PIECE, end - offset)))
                yield piece
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait([ahead])
                if not ahead.cancelled():
                    ahead.exception()  # looked at

    async def size(self, key: str) -> int | None:
        """The size of an object; None = there is none."""
        self.check(key)
        try:
            return await self._ask(key, lambda: obstore.head(self._store, key)["size"])
        except ContentLost:
            return None

    async def put(self, key: str, content: bytes | bytearray) -> None:
        """Write an object by one request."""
        self.check(key)
        await self._ask(key, lambda: obstore.put(self._store, key, bytes(content), use_multipart=False))

    async def join(self, key: str, ranges: Sequence[Range]) -> None:
        """Write an object from ranges of others; there is none before all of them have come."""
        size = sum(length for _, _, length in ranges)
        await self._threads.run_long(lambda stop: self._put_pieces(key, size, self._pieces(ranges, stop)))

    async def put_file(self, key: str, opened: Callable[[], int]) -> Hashes:
        """Write an object from a file, and hash what is written; `opened` returns a descriptor, which is closed.

        Raises ContentLost if the file changes meanwhile.
        """

        def job(stop: Stop) -> Hashes:
            with speaking():
                descriptor = opened()
            try:
                before = os.fstat(descriptor)
                hashes = Hashes()
                self._put_pieces(key, before.st_size, _pieces_of(descriptor, before.st_size, hashes, stop))
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                with _speaking(key):
                    obstore.delete(self._store, key)
                raise ContentLost("the file changed while it was read")
            return hashes

        return await self._threads.run_long(job)

    async def hashes(self, ranges: Sequence[Range]) -> Hashes:
        """Hash ranges of objects, one after the other. Raises ContentLost if one is shorter."""

        def job(stop: Stop) -> Hashes:
            hashes = Hashes()
            for piece in self._pieces(ranges, stop):
                hashes.update(piece)
            return hashes

        return await self._threads.run_long(job)

    async def copy(self, key: str, to: str, size: int) -> None:
        """Copy an object: within the store where it does that."""
        self.check(to)
        if size > _COPY_LIMIT:
            await self.join(to, [(key, 0, size)])
        else:
            await self._ask(key, lambda: obstore.copy(self._store, key, to))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. None there is no error."""
        if keys:
            await self._ask(keys[0], lambda: obstore.delete(self._store, list(keys)))

    async def delete_below(self, folder: str) -> None:
        """Delete everything in a folder."""
        keys: list[str] = []
        async for key, _ in self.below(folder):
            keys.append(key)
            if len(keys) == _DELETED_AT_ONCE:
                await self.delete(keys)
                keys.clear()
        await self.delete(keys)

    async def below(self, folder: str) -> AsyncIterator[tuple[str, int]]:
        """Keys and sizes of all objects in a folder, at any depth, by key."""
        stream = obstore.list(self._store, self.check(folder) if folder else None)
        while batch := await self._ask(folder, lambda: next(stream, None)):
            for found in batch:
                yield found["path"], found["size"]

    async def is_folder(self, folder: str) -> bool:
        """Whether there is anything in a folder."""
        stream = obstore.list(self._store, self.check(folder), chunk_size=1)
        return bool(await self._ask(folder, lambda: next(stream, None)))

    async def level(self, folder: str) -> tuple[list[str], list[tuple[str, int]]]:
        """What is directly in a folder: folders, and objects with their sizes. All by their keys."""
        prefix = self.check(folder) if folder else None
        found = await self._ask(folder, lambda: obstore.list_with_delimiter(self._store, prefix))
        return list(found["common_prefixes"]), [(item["path"], item["size"]) for item in found["objects"]]

    async def sign(self, key: str, seconds: int) -> str:
        """A URL from which an object can be fetched for a while."""
        self.check(key)
        return await self._ask(key, lambda: obstore.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.close()

    async def _ask(self, key: str, request: Callable[[], _T]) -> _T:
        def job() -> _T:
            with _speaking(key):
                return request()

        return await self._threads.run(job)

    def _get_range(self, key: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        with _speaking(key):
            try:
                content = obstore.get_range(self._store, key, start=offset, length=length)
            except BaseError as error:
                if "416" in str(error):
                    raise ContentLost(f"{key!r} ends before {offset}") from error
                raise
        if len(content) != length:
            raise ContentLost(f"{key!r} ends at {offset + len(content)}, not at {offset + length}")
        return bytes(content)

    def _pieces(self, ranges: Sequence[Range], stop: Stop) -> Iterator[bytes]:
        """Pieces in order; the next one is under way while one is looked at.

        They are got in other threads: a thread in which obstore writes pieces cannot make another request.
        """
        wanted = (
            (key, begin, min(PIECE, offset + length - begin))
            for key, offset, length in ranges
            for begin in range(offset, offset + length, PIECE)
        )
        ahead: Future[bytes] | None = None
        for item in wanted:
            following = self._threads.submit(partial(self._get_range, *item))
            if ahead is not None:
                stop.check()
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()

    def _put_pieces(self, key: str, size: int, pieces: Iterator[bytes]) -> None:
        self.check(key)
        with _speaking(key):
            if size <= PIECE:
                obstore.put(self._store, key, b"".join(pieces), use_multipart=False)
            else:
                chunk = max(PIECE, -(-size // _PARTS_LIMIT))
                # if a piece does not come, what was written of the object is dropped
                obstore.put(self._store, key, pieces, use_multipart=True, chunk_size=chunk, max_concurrency=4)


async def each(work: Callable[[_I], Awaitable[_T]], items: Iterable[_I]) -> list[_T]:
    """Do it with all of them at once. After the first error, or when it is cancelled, nothing goes on."""
    tasks = [asyncio.ensure_future(work(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # looked at


def _pieces_of(descriptor: int, size: int, hashes: Hashes, stop: Stop) -> Iterator[bytes]:
    while hashes.size < size:
        stop.check()
        with speaking():
            piece = read_all(descriptor, min(PIECE, size - hashes.size))
        hashes.update(piece)
        yield piece


def _client_options(environment: Mapping[str, str]) -> "ClientConfig":
    """What obstore itself would read, with time-outs of ours: options that are given replace all of the environment's."""
    options: dict[str, str] = {"connect_timeout": "10s", "timeout": "600s"}
    for name in _CLIENT_OPTIONS:
        value = environment.get(f"AWS_{name}".upper())
        if value:
            options[name] = value
    return cast("ClientConfig", options)


@contextlib.contextmanager
def _speaking(key: str) -> Iterator[None]:
    """Turn what the store says into StorageFull, ContentLost and ContentError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ContentLost(f"there is no {key!r}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise ContentError(f"the object store does not let the registry at {key!r}") from error
    except BaseError as error:
        text = str(error)
        if any(word in text for word in _FULL):
            raise StorageFull("there is no room in the registry's object store") from error
        raise ContentError(f"the object store failed at {key!r}: {text.splitlines()[0]}") from error
