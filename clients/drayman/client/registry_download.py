"""Downloads from the registry, by the asyncio client: into a folder, or as a stream of bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from drayman.client.errors import NotFoundError, UnavailableError
from drayman.client.patience import Patience
from drayman.client.registry_arrivals import Arrivals, Damaged
from drayman.client.registry_calls import RegistryCalls
from drayman.client.registry_progress import Meter, ProgressCallback
from drayman.client.registry_values import Entry, entry_of
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import content_service_pb2_grpc

#: Files that one request names.
_BATCH = 10_000
#: Seconds that a service may be away that never answered.
_FIRST_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a folder has now: all files of the download, how many of them arrived, and how many bytes."""

    files: int
    files_received: int
    bytes_received: int


class DownloadCalls(RegistryCalls):
    """Downloads. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._contents = content_service_pb2_grpc.ContentServiceStub(channel)

    async def download(
        self,
        project: str,
        asset: str,
        version: str,
        folder: str | Path,
        *,
        path: str = "",
        entries: Sequence[Entry] | None = None,
        concurrent: int = 1,
        progress: ProgressCallback | None = None,
    ) -> Downloaded:
        """Download a version into a folder, or of it one directory (`path` with a trailing slash) or one file; paths stay as they are.

        Links arrive as files. What the folder has already, and has whole, is not fetched again; what else is in it stays. A file appears
        when it is complete and its hash is right. A connection that breaks is made again, and goes on where it was; a download that was
        given up goes on when it is repeated. `concurrent` streams share the files. `entries` has those that are wanted, where the caller
        knows what the version has at `path`; only they are looked at, and fetched.

        Raises FileNotFoundError and other OSErrors where the folder cannot be written.
        """
        meter = Meter(progress)
        request = pb.DownloadRequest(project=project, asset=asset, version=version, path=path)
        whole = entries is None
        if entries is None:
            entries = await self._entries(request)
        meter.begin("receiving", len(entries), sum(entry.size for entry in entries))
        arrivals = Arrivals(Path(os.fspath(folder)), entries, meter)
        await meter.watch(asyncio.to_thread(arrivals.begin))
        wanted = arrivals.left
        try:
            if wanted:
                await meter.watch(
                    _Download(self, self._contents, request, arrivals, len(entries) if whole else None).run(concurrent)
                )
        finally:
            await asyncio.to_thread(arrivals.close)
        await asyncio.to_thread(arrivals.end)
        return Downloaded(len(entries), len(wanted), sum(entry.size for entry in wanted))

    async def read(
        self, project: str, asset: str, version: str, path: str, *, offset: int = 0, length: int = 0
    ) -> AsyncIterator[bytes]:
        """Read a file, or `length` bytes of it (0 = to the end) from `offset` on, while they arrive.

        A file that is read whole is verified; what was read before Damaged is raised is then not what was stored.
        """
        request = pb.DownloadRequest(
            project=project, asset=asset, version=version, path=path, offset=offset, length=length
        )
        entry: Entry | None = None
        check: Any = None
        size = 0
        async with self._stream(self._contents.Download, request) as replies:
            async for reply in replies:
                if entry is None and reply.entries:
                    entry = entry_of(reply.entries[0])
                    check = hashlib.sha256() if entry.sha256 else hashlib.md5(usedforsecurity=False)
                for piece in reply.pieces:
                    check.update(piece.content)
                    size += len(piece.content)
                    yield piece.content
        if entry is not None and size == entry.size and check.hexdigest() != (entry.sha256 or entry.md5):
            raise Damaged(entry)

    async def presign(
        self, project: str, asset: str, version: str, paths: Iterable[str] = (), *, lifetime: float = 3600.0
    ) -> dict[str, str]:
        """Return URLs by path from which files can be fetched for `lifetime` seconds; no paths = all files of the version."""
        request = pb.PresignFilesRequest(
            project=project, asset=asset, version=version, paths=paths, lifetime=Duration(seconds=int(lifetime))
        )
        reply = await self._call(self._contents.PresignFiles, request)
        return {file.entry.path: file.url for file in reply.files}

    async def _entries(self, request: pb.DownloadRequest) -> list[Entry]:
        """Read what a download will have."""
        path = request.path
        listed = self.entries(request.project, request.asset, request.version, prefix=path.rstrip("/"))
        found = [
            entry
            async for entry in listed
            if not path
            or entry.path == path
            or (
                path.endswith("/")
                and (entry.path.startswith(path) or (entry.empty_directory and entry.path == path[:-1]))
            )
        ]
        if path and not found:
            raise NotFoundError(f"the version has no {path!r}", code=grpc.StatusCode.NOT_FOUND, reason="FILE_NOT_FOUND")
        return found


class _Download:
    """One download, over as many connections as it takes."""

    def __init__(
        self, calls: DownloadCalls, stub: Any, request: pb.DownloadRequest, arrivals: Arrivals, total: int | None
    ) -> None:
        """`total`: how many entries the version has there; None = more than are wanted."""
        self._calls = calls
        self._stub = stub
        self._request = request
        self._arrivals = arrivals
        self._total = total
        self._patience = Patience(min(calls._patience, _FIRST_PATIENCE))  # noqa: SLF001 - a part of the same client
        # one thread at a time is at the files
        self._turn = asyncio.Lock()

    async def run(self, concurrent: int) -> None:
        """Fetch what is left."""
        resumed = False
        while left := self._arrivals.left:
            try:
                await self._attempt(left, max(1, concurrent), resumed=resumed)
            except UnavailableError as error:
                await self._patience.pause(error)
            except Damaged as error:
                await asyncio.to_thread(self._arrivals.forget, error.entry)
                if not error.resumed:
                    raise
            else:
                if len(self._arrivals.left) == len(left):
                    raise UnavailableError("the download ended too early", code=grpc.StatusCode.UNAVAILABLE)
            resumed = True

    async def _attempt(self, left: Sequence[Entry], concurrent: int, *, resumed: bool) -> None:
        entries = {entry.path: entry for entry in left}
        if concurrent == 1 and not resumed and len(left) == self._total:
            await self._fetch(self._request, entries)
            return
        shares = [share for number in range(concurrent) if (share := left[number::concurrent])]
        failed = [
            result
            for result in await asyncio.gather(
                *[self._fetch_share(share, entries) for share in shares], return_exceptions=True
            )
            if result is not None
        ]
        if failed:
            raise failed[0]

    async def _fetch_share(self, share: Sequence[Entry], entries: dict[str, Entry]) -> None:
        request = pb.DownloadRequest()
        for first in range(0, len(share), _BATCH):
            request.CopyFrom(self._request)
            batch = share[first : first + _BATCH]
            if request.path and not request.path.endswith("/"):
                (request.offset,) = await asyncio.to_thread(self._arrivals.offsets, batch)
            else:
                offsets = await asyncio.to_thread(self._arrivals.offsets, batch)
                request.only.extend(
                    pb.PartialFile(path=entry.path, offset=offset) for entry, offset in zip(batch, offsets, strict=True)
                )
            await self._fetch(request, entries)

    async def _fetch(self, request: pb.DownloadRequest, entries: dict[str, Entry]) -> None:
        """Receive one stream. The next message arrives while the last one is written."""
        numbered: list[Entry] = []
        writing: asyncio.Task[None] | None = None
        try:
            async with self._calls._stream(self._stub.Download, request) as replies:  # noqa: SLF001 - as above
                async for reply in replies:
                    self._patience = Patience(self._calls._patience)  # noqa: SLF001 - as above
                    for message in reply.entries:
                        entry = entry_of(message)
                        known = entries.get(entry.path, entry)
                        if (entry.size, entry.md5, entry.sha256) != (known.size, known.md5, known.sha256):
                            raise UnavailableError(
                                f"{entry.path!r} has changed meanwhile", code=grpc.StatusCode.UNAVAILABLE
                            )
                        numbered.append(entry)
                    pieces = [
                        (numbered[piece.file], piece.offset, piece.content)
                        for piece in reply.pieces
                        if numbered[piece.file].path in entries
                    ]
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write(pieces)) if pieces else None
            if writing is not None:
                await writing
        finally:
            if writing is not None and not writing.done():
                await asyncio.wait([writing])

    async def _write(self, pieces: list[tuple[Entry, int, bytes]]) -> None:
        async with self._turn:
            await asyncio.to_thread(self._arrivals.take, pieces)
