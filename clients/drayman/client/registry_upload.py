"""Uploads to the registry, by the asyncio client: a folder becomes a version, or nothing happens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc.aio

from drayman.client.errors import (
    InvalidRequestError,
    UnauthenticatedError,
    UnavailableError,
)
from drayman.client.patience import Patience
from drayman.client.registry_calls import RegistryCalls
from drayman.client.registry_progress import Meter, ProgressCallback
from drayman.client.registry_sources import Message, Source
from drayman.client.registry_tree import Found, TreeError, shares
from drayman.client.registry_values import Version, version_of
from drayman.client.rpc_end import true_error, watch_end
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import content_service_pb2_grpc

#: Threads that hash.
_READERS = 4
#: Seconds that a service may be away that never answered.
_FIRST_PATIENCE = 10.0
#: Seconds to wait for the service's word that nothing was uploaded, when a file cannot be sent.
_LAST_WORD = 2.0


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A version that is there: how many of its files are links to content that was there, and how many bytes were sent."""

    version: Version
    deduplicated: int
    bytes_sent: int


class UploadCalls(RegistryCalls):
    """Uploads. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._contents = content_service_pb2_grpc.ContentServiceStub(channel)

    async def upload(
        self,
        project: str,
        asset: str,
        version: str,
        folder: str | Path,
        *,
        on_probation: bool = False,
        ignore_dot: bool = False,
        registry: str | Path | None = None,
        follow_outside: bool = False,
        spoof: str = "",
        upload_id: str = "",
        with_documents: bool = False,
        warrant: str = "",
        progress: ProgressCallback | None = None,
    ) -> Uploaded:
        """Upload what a folder holds. Only what the asset's latest version does not have travels.

        Names that begin with `..` are left out, with `ignore_dot` also those that begin with a dot. Links to files within the folder become
        links, and so do links to files of the registry, where `registry` is its folder as it is mounted here; a link to a directory within
        the folder becomes a directory of links. With `follow_outside` links to files elsewhere are uploaded as the files, otherwise they
        are refused. A connection that breaks is made again, and goes on where it was; with an `upload_id` (a UUID) that also works for who
        calls again after a crash. `with_documents` waits for the documents of the project and the asset (`..latest`, `..usage`), for who
        reads the registry as it is mounted here; otherwise they follow in a moment.
        A `warrant` is what a job's worker was given for the version: it uploads in the name of the job's owner.

        Raises FileNotFoundError and NotADirectoryError for what is no folder, TreeError (a ValueError) for what cannot be uploaded: FIFOs,
        sockets, devices, links that lead nowhere or in a circle, files that change while they are read.
        """
        meter = Meter(progress)
        source = Source(
            os.fspath(folder),
            meter,
            ignore_dot=ignore_dot,
            registry=None if registry is None else os.fspath(registry),
            outside=lambda _path: follow_outside,
        )
        await meter.watch(_prepare(source, meter))
        begin = pb.UploadBegin(
            project=project,
            asset=asset,
            version=version,
            on_probation=on_probation,
            upload_id=upload_id or str(uuid4()),
            spoof=spoof,
            with_documents=with_documents,
        )
        return await _Upload(self, self._contents, source, begin, meter, self._patience, warrant).run(bool(upload_id))

    async def upload_staged(
        self,
        project: str,
        asset: str,
        version: str,
        source: str,
        *,
        on_probation: bool = False,
        consume: bool = False,
        ignore_dot: bool = False,
        spoof: str = "",
    ) -> Uploaded:
        """Upload the directory `source` of the staging folder, which has to belong to the caller; with `consume` it is gone afterwards."""
        request = pb.UploadStagedRequest(
            source=source,
            project=project,
            asset=asset,
            version=version,
            on_probation=on_probation,
            consume=consume,
            ignore_dot=ignore_dot,
            spoof=spoof,
        )
        reply = await self._ask(self._contents.UploadStaged, request, None)
        return Uploaded(version_of(reply.version), reply.deduplicated, 0)


async def _prepare(source: Source, meter: Meter) -> None:
    try:
        files = await asyncio.to_thread(source.find)
    finally:
        source.ended.set()
    if files:
        await _hash(source, meter, files)


async def _hash(source: Source, meter: Meter, files: Sequence[Found], *, with_md5: bool = True) -> None:
    meter.begin("reading", len(files), sum(file.size for file in files))
    source.ended.clear()
    try:
        parts = shares(files, _READERS)
        await asyncio.gather(*[asyncio.to_thread(source.hash, share, with_md5) for share in parts])
    finally:
        source.ended.set()


class _Upload:
    """One upload, over as many connections as it takes."""

    def __init__(
        self,
        calls: RegistryCalls,
        stub: Any,
        source: Source,
        begin: pb.UploadBegin,
        meter: Meter,
        patience: float,
        warrant: str,
    ) -> None:
        self._calls = calls
        self._warrant = (("drayman-warrant", warrant),) if warrant else ()
        self._stub = stub
        self._source = source
        self._begin = begin
        self._meter = meter
        self._seconds = patience
        self._patience = Patience(min(patience, _FIRST_PATIENCE))
        self._sent = 0

    async def run(self, resumed: bool) -> Uploaded:
        """Upload. `resumed`: somebody may have begun before."""
        credentials = self._calls.credentials
        refused = anew = False
        while True:
            metadata = await credentials.fresh()
            try:
                done = await self._meter.watch(self._attempt(metadata, at_once=not resumed and self._source.is_small))
                return Uploaded(version_of(done.version), done.deduplicated, self._sent)
            except UnauthenticatedError as error:
                if refused or not await credentials.cures(error, metadata):
                    raise
                refused = True
            except UnavailableError as error:
                await self._patience.pause(error)
                resumed, refused = True, False
            except InvalidRequestError as error:
                # what a crashed machine has kept of a file need not be what it was sent
                if error.reason != "CONTENT_MISMATCH" or not resumed or anew:
                    raise
                anew = True

    async def _attempt(self, metadata: Any, *, at_once: bool) -> pb.UploadDone:
        call = watch_end(self._stub.Upload(metadata=(*metadata, *self._warrant)))
        try:
            with suppress(asyncio.InvalidStateError):  # the service has ended the call: its answer says why
                done = await self._send(call, at_once=at_once)
                if done is not None:
                    return done
            while True:
                reply = await self._read(call)
                if reply.HasField("done"):
                    return reply.done
        except grpc.aio.AioRpcError as error:
            raise await true_error(call, error) from None
        finally:
            call.cancel()

    async def _send(self, call: Any, *, at_once: bool) -> pb.UploadDone | None:
        """Send everything; returns the answer if it came before that."""
        if at_once:
            await self._send_whole(call)
            return None
        source, meter = self._source, self._meter
        await call.write(pb.UploadRequest(begin=self._begin))
        for message in source.manifest():
            await call.write(message)
        found = await self._wanted(call)
        if isinstance(found, list) and any(file.digests for file in found):
            await self._tell_digests(call, found)
            found = await self._wanted(call)
        if isinstance(found, pb.UploadDone):
            return found
        wanted = [(file.file, file.offset) for file in found]
        self._patience = Patience(self._seconds)
        meter.begin("sending", len(wanted), sum(source.found[number].size - offset for number, offset in wanted))
        meter.tell()
        try:
            await self._send_data(call, wanted)
        except TreeError:
            # who says nothing more wants nothing more: the name is free at once
            with suppress(Exception):
                await call.done_writing()
                await asyncio.wait_for(call.code(), _LAST_WORD)
            raise
        meter.tell()
        meter.begin("publishing", 0, 0)
        await call.write(pb.UploadRequest(finish=pb.UploadFinish()))
        await call.done_writing()
        return None

    async def _wanted(self, call: Any) -> list[pb.WantedFile] | pb.UploadDone:
        """Read what is wanted, unless all is done."""
        wanted: list[pb.WantedFile] = []
        while (reply := await self._read(call)).HasField("wanted"):
            wanted += reply.wanted.files
        return reply.done if reply.HasField("done") else wanted

    async def _tell_digests(self, call: Any, wanted: Sequence[pb.WantedFile]) -> None:
        """Hash files that the registry may have, and tell."""
        source = self._source
        files = [source.found[file.file] for file in wanted]
        await _hash(source, self._meter, files, with_md5=any(file.md5 for file in wanted))
        for message in source.digests(file.file for file in wanted):
            await call.write(message)

    async def _send_whole(self, call: Any) -> None:
        request, size = self._source.whole(self._begin)
        self._meter.begin("sending", len(request.whole.pieces), size)
        self._meter.tell()
        await call.write(request)
        self._sent += size
        self._meter.bytes += size
        self._meter.files += len(request.whole.pieces)
        self._meter.tell()
        self._meter.begin("publishing", 0, 0)
        await call.done_writing()

    async def _send_data(self, call: Any, wanted: Sequence[tuple[int, int]]) -> None:
        messages = self._source.data(wanted)
        # the next message is made while this one travels
        coming = asyncio.ensure_future(asyncio.to_thread(_next, messages))
        try:
            while (message := await coming) is not None:
                coming = asyncio.ensure_future(asyncio.to_thread(_next, messages))
                await call.write(message.request)
                self._count(message)
        finally:
            # the thread is at work with the files: they are closed when it is done
            await asyncio.wait([coming])
            coming.cancelled() or coming.exception()
            messages.close()

    def _count(self, message: Message) -> None:
        self._sent += message.size
        self._meter.bytes += message.size
        self._meter.files += message.pieces

    async def _read(self, call: Any) -> pb.UploadResponse:
        reply: pb.UploadResponse = await call.read()
        if cast("object", reply) is grpc.aio.EOF:
            raise UnavailableError("the upload ended without an answer", code=grpc.StatusCode.UNAVAILABLE)
        return reply


def _next(messages: Generator[Message, None, None]) -> Message | None:
    return next(messages, None)
