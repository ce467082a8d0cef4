"""The stream of an upload, from its first message to the version that is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from drayman.registry.v1 import content_service_pb2 as pb
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import invalid
from drayman.server.platform.lifecycle import Part
from drayman.server.registry import messages, upload_manifest
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content
from drayman.server.registry.publication import Publisher
from drayman.server.registry.receiving import Receiver
from drayman.server.registry.records import UPLOADING, Upload, Version
from drayman.server.registry.spoofing import Actor
from drayman.server.registry.store import Store
from drayman.server.registry.upload_holding import Holding, holding
from drayman.server.registry.upload_manifest import Announced
from drayman.server.registry.upload_memory import Memory
from drayman.server.registry.upload_plan import Plan, Planner
from drayman.server.registry.version_store import VersionStore

#: Bytes of all uploads that are in memory at a time.
_MOST_BYTES = 64 << 20
#: Files that are read at once; more would keep the loop busy.
_AT_ONCE = 500
#: Bytes up to which a client may have sent everything before it is told anything: the quota is checked when they are published.
_SMALL = 64 << 10
#: Wanted files that go into one message.
_BATCH = 5000
#: A connection that breaks looks for a moment like a client that has nothing more to say.
_LAST_WORD_SECONDS = 0.2


@dataclass(eq=False, slots=True)
class _Live:
    """A stream that works on an upload."""

    user: str
    task: asyncio.Task[object]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Uploads(Part):
    """What all uploads of a process share."""

    def __init__(self, store: Store, versions: VersionStore, publisher: Publisher, content: Content) -> None:
        self.versions = versions
        self.publisher = publisher
        self.content = content
        self.planner = Planner(store, content)
        self.memory = Memory(_MOST_BYTES)
        self.hashing = ThreadPoolExecutor(min(16, 1 + (os.cpu_count() or 1)), thread_name_prefix="registry-hashing")
        self._live: dict[UUID, _Live] = {}

    async def stop(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self.hashing.shutdown, wait=True, cancel_futures=True)

    @asynccontextmanager
    async def alone(self, upload_id: UUID, user: str) -> AsyncIterator[None]:
        """Be the only stream of this process that works on an upload: a broken one may not have noticed yet."""
        task = asyncio.current_task()
        assert task is not None
        mine = _Live(user, task)
        while (other := self._live.get(upload_id)) is not None and other.user == user:
            other.task.cancel()
            await other.ended.wait()
        if other is not None:
            raise invalid("begin.upload_id", f"upload_id {upload_id} is somebody else's: expected a new UUID")
        self._live[upload_id] = mine
        try:
            yield
        finally:
            del self._live[upload_id]
            mine.ended.set()


class UploadSession:
    """One stream."""

    def __init__(
        self,
        uploads: Uploads,
        actor: Actor,
        begin: pb.UploadBegin,
        requests: AsyncIterator[pb.UploadRequest],
        call: Call,
    ) -> None:
        self._uploads = uploads
        self._actor = actor
        self._begin = begin
        self._requests = requests
        self._call = call

    async def run(self, whole: pb.UploadWhole | None = None) -> None:
        """Serve the stream to its end; `whole` is all of it, if it came at once. Raises Refusal."""
        begin, uploads = self._begin, self._uploads
        upload_id = _uuid(begin.upload_id)
        address = VersionAddress(begin.project, begin.asset, begin.version)
        async with uploads.alone(upload_id, self._actor.username):
            upload = await uploads.publisher.begin(
                address,
                upload_id,
                self._actor.username,
                admin=self._actor.admin,
                on_probation=begin.on_probation,
            )
            incoming = uploads.content.incoming(str(upload_id))
            async with holding(upload, incoming, uploads.publisher, uploads.versions, resumable=True) as held:
                if upload.state != UPLOADING:
                    done = pb.UploadDone(version=messages.version(await self._documented(await held.finish())))
                    if whole is None:
                        await self._say_wanted([])
                elif whole is not None:
                    done = await self._take(upload, held, whole)
                else:
                    done = await self._receive(upload, held)
                await self._call.send(pb.UploadResponse(done=done))

    async def _take(self, upload: Upload, held: Holding, whole: pb.UploadWhole) -> pb.UploadDone:
        files = await self._read(whole.files, 0)
        await self._check(files, len(files))
        if (number := next((number for number, file in enumerate(files) if file.digests_follow), None)) is not None:
            raise invalid("whole.files.digests_follow", f"file {number}: nothing follows here", path=files[number].path)
        plan = await self._uploads.planner.plan(upload.address, files)
        receiver = self._receiver(files, held)
        await receiver.expect(plan.stored, resumed=upload.resumed)
        await receiver.take(whole.pieces)
        return await self._publish(plan, files, held, receiver)

    async def _receive(self, upload: Upload, held: Holding) -> pb.UploadDone:
        files = await self._manifest()
        await self._ask(upload, files)
        plan = await self._uploads.planner.plan(upload.address, files)
        if plan.usage > _SMALL:
            await self._uploads.versions.announce(upload, plan.usage)
        receiver = self._receiver(files, held)
        await self._say_wanted(await receiver.expect(plan.stored, resumed=upload.resumed))
        while not (request := await self._next("data", "digests", "finish")).HasField("finish"):
            if request.HasField("data"):
                await receiver.take(request.data.pieces)
            else:
                await receiver.tell(upload_manifest.with_digests(files, request.digests.files))
        return await self._publish(plan, files, held, receiver)

    async def _ask(self, upload: Upload, files: list[Announced]) -> None:
        """Ask for the digests of files that the registry may have, of all if some may have come before; nothing else is told meanwhile."""
        if not any(file.digests_follow for file in files):
            return
        asked = await self._uploads.planner.questions(upload.address, files)
        if upload.resumed:
            asked = {number: asked.get(number, False) for number, file in enumerate(files) if file.digests_follow}
        if not asked:
            return
        await self._say([pb.WantedFile(file=number, digests=True, md5=md5) for number, md5 in asked.items()])
        while asked:
            request = await self._next("digests")
            for number, file in upload_manifest.with_digests(files, request.digests.files).items():
                if asked.pop(number, False) and file.md5 is None:
                    raise invalid("digests.files.md5", f"file {number}: its MD5 is wanted", path=file.path)
                files[number] = file

    def _receiver(self, files: list[Announced], held: Holding) -> Receiver:
        return Receiver(files, held.incoming, held.group, self._uploads.memory, self._uploads.hashing)

    async def _publish(
        self, plan: Plan, files: Sequence[Announced], held: Holding, receiver: Receiver
    ) -> pb.UploadDone:
        await receiver.complete()
        version = await self._documented(await held.publish(plan.completed(receiver.found, files)))
        return pb.UploadDone(
            version=messages.version(version), deduplicated=plan.deduplicated, bytes_received=receiver.received
        )

    async def _documented(self, version: Version) -> Version:
        if self._begin.with_documents:
            await self._uploads.publisher.document(version)
        return version

    async def _manifest(self) -> list[Announced]:
        files: list[Announced] = []
        while (request := await self._next("manifest", "manifest_end")).HasField("manifest"):
            files += await self._read(request.manifest.files, len(files))
        await self._check(files, request.manifest_end.files)
        return files

    async def _read(self, files: Sequence[pb.UploadFile], first: int) -> list[Announced]:
        if len(files) <= _AT_ONCE:
            return upload_manifest.read(files, first)
        return await asyncio.to_thread(upload_manifest.read, files, first)

    async def _check(self, files: list[Announced], announced: int) -> None:
        if len(files) <= _AT_ONCE:
            upload_manifest.check(files, announced)
        else:
            await asyncio.to_thread(upload_manifest.check, files, announced)

    async def _say_wanted(self, wanted: Sequence[tuple[int, int]]) -> None:
        await self._say([pb.WantedFile(file=number, offset=offset) for number, offset in wanted])

    async def _say(self, wanted: Sequence[pb.WantedFile]) -> None:
        for first in range(0, len(wanted), _BATCH):
            batch = pb.UploadWanted(files=wanted[first : first + _BATCH])
            await self._call.send(pb.UploadResponse(wanted=batch))
        await self._call.send(pb.UploadResponse(wanted_end=pb.UploadWantedEnd(files=len(wanted))))

    async def _next(self, *expected: str) -> pb.UploadRequest:
        return await next_part(self._requests, *expected)


async def next_part(requests: AsyncIterator[pb.UploadRequest], *expected: str) -> pb.UploadRequest:
    """Read the next message, which must be one of these. Raises Refusal for another one, and at the end of the stream."""
    request = await anext(requests, None)
    if request is None:
        await asyncio.sleep(_LAST_WORD_SECONDS)
        raise invalid("part", f"the stream ended where {' or '.join(expected)} was to come: nothing was uploaded")
    part = request.WhichOneof("part")
    if part not in expected:
        raise invalid("part", f"{part or 'an empty message'} came where {' or '.join(expected)} was to come")
    return request


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid("begin.upload_id", f"upload_id {text[:80]!r}: expected a UUID of the client's making") from error
