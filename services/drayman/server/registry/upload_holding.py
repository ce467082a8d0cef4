"""Holds an upload while something works on it, and lets go of it in the right way, whatever ends the work."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import structlog

from drayman.server.platform.database import is_away
from drayman.server.platform.errors import Refusal
from drayman.server.registry.content import ContentDamaged, ContentLost, FolderTaken, Incoming, StorageFull
from drayman.server.registry.entries import Entry
from drayman.server.registry.publication import Publisher
from drayman.server.registry.records import Upload, Version
from drayman.server.registry.version_store import UploadLost, VersionStore

_Result = TypeVar("_Result")

log = structlog.get_logger(__name__)

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
#: How often a lease is renewed within its length.
_RENEWALS = 3


class Holding:
    """An upload that is held. `group` runs what works on it; a failure there ends the work."""

    def __init__(self, upload: Upload, incoming: Incoming, group: asyncio.TaskGroup, publisher: Publisher) -> None:
        self.upload = upload
        self.incoming = incoming
        self.group = group
        self._publisher = publisher
        #: whether the publisher is at it, which renews the lease as well, and ends it
        self.publishing = False
        #: whether the version is there
        self.published = False

    async def publish(self, entries: Sequence[Entry]) -> Version:
        """Publish. Once begun it is not interrupted: a caller who is cancelled meanwhile is told afterwards."""
        return await self._whole(self._publisher.publish(self.upload, entries))

    async def finish(self) -> Version:
        """Publish what was being published when it was taken over."""
        return await self._whole(self._publisher.finish(self.upload))

    async def _whole(self, work: Coroutine[Any, Any, Version]) -> Version:
        self.publishing = True
        version = await uninterrupted(work)
        self.published = True
        return version


@asynccontextmanager
async def holding(
    upload: Upload, incoming: Incoming, publisher: Publisher, versions: VersionStore, *, resumable: bool
) -> AsyncIterator[Holding]:
    """Hold an upload. What was refused is given up; what broke off can be resumed, if it is `resumable`.

    Raises what ended the work, as a Refusal where the caller can do something about it.
    """
    held: Holding | None = None
    try:
        async with asyncio.TaskGroup() as group:
            held = Holding(upload, incoming, group, publisher)
            renewing = group.create_task(_renew(held, versions))
            yield held
            renewing.cancel()
    except BaseException as error:
        cause = _cause(error)
        if held is None or not held.published:
            await uninterrupted(_let_go(upload, incoming, publisher, cause, resumable=resumable))
        raise _told(cause) from None


async def uninterrupted(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do something to its end; a cancellation that comes meanwhile is raised afterwards, in place of the result."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled():
        if (problem := task.exception()) is not None:
            log.warning("failed while its caller went", error=str(problem))
        raise cancelled
    return task.result()


async def _renew(held: Holding, versions: VersionStore) -> None:
    while True:
        await asyncio.sleep(versions.lease / _RENEWALS)
        try:
            await versions.renew(held.upload)
        except UploadLost:
            if held.publishing:
                return
            raise
        except Exception as error:
            # a database that comes back soon finds the lease still there, or taken over
            if not is_away(error):
                raise


async def _let_go(
    upload: Upload, incoming: Incoming, publisher: Publisher, cause: BaseException, *, resumable: bool
) -> None:
    try:
        if isinstance(cause, UploadLost):
            return
        if resumable and _is_interruption(cause):
            try:
                await incoming.flush()
            finally:
                await publisher.release(upload)
        else:
            await publisher.give_up(upload)
    except Exception as error:
        # its lease will end, and what is left is swept
        log.warning(
            "an upload was not let go of", upload=str(upload.upload_id), error=str(error) or type(error).__name__
        )


def _is_interruption(cause: BaseException) -> bool:
    """Whether the same upload, once more, could succeed."""
    if isinstance(cause, Refusal):
        return cause.code is grpc.StatusCode.UNAVAILABLE
    return isinstance(cause, asyncio.CancelledError | ContentDamaged) or is_away(cause)


def _is_forbidden(cause: BaseException) -> bool:
    """Whether the operating system lets the service not write where it has to: no database is away then."""
    return isinstance(cause, OSError) and (cause.errno in _FORBIDDEN or cause.filename is not None)


def _cause(error: BaseException) -> BaseException:
    """What ended the work: of several failures the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(cause: BaseException) -> BaseException:
    """What the caller is told."""
    if isinstance(cause, UploadLost):
        return Refusal(
            "UNAVAILABLE", "the upload was taken over by another connection, or is not held any more", retry_after=1.0
        )
    if isinstance(cause, StorageFull):
        return Refusal("STORAGE_FULL", "the registry's storage is full; nothing of the upload is left there")
    if isinstance(cause, FolderTaken):
        return Refusal("VERSION_EXISTS", f"something is in the version's place in the registry's folder: {cause}")
    if isinstance(cause, ContentLost):
        return Refusal("UNAVAILABLE", f"what had arrived of the upload is gone: {cause}", retry_after=1.0)
    if _is_forbidden(cause):
        return RuntimeError(f"the registry's folder cannot be written: {cause}")
    return cause
