"""How a version gets into the registry, from the name that is taken to the version that everybody sees, in steps that a crash may part.

1. `begin` takes the name.
2. Bytes travel into the incoming folder; nobody sees them.
3. `publish`: the rows are there and it is publishing, which no crash undoes any more; links and documents; the folder is put in its place
   in one step; it is published; the documents beside it.

Every step can be done again, by any process. What a crash leaves before the rows are there can be resumed, or is swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog

from drayman.server.platform.database import is_away
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import documents, names
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, ContentDamaged, ContentLost, FolderTaken, Incoming, StorageFull
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.documents import Summary
from drayman.server.registry.entries import Entry
from drayman.server.registry.linking import symlink_text
from drayman.server.registry.records import PUBLISHED, PUBLISHING, UPLOADING, Upload, Version
from drayman.server.registry.removal import Remover
from drayman.server.registry.removal_store import RemovalStore
from drayman.server.registry.store import Store
from drayman.server.registry.version_store import StillRemoved, UploadLost, VersionStore

log = structlog.get_logger(__name__)

#: How often an upload is renewed within its lease.
_RENEWALS = 3
#: Seconds between two looks at what another process is publishing.
_GLANCE = 0.05


class Publisher:
    """Uploads, as what receives the bytes sees them."""

    def __init__(
        self,
        store: Store,
        versions: VersionStore,
        removals: RemovalStore,
        content: Content,
        remover: Remover,
        documenter: Documenter,
    ) -> None:
        self._store = store
        self._versions = versions
        self._removals = removals
        self._content = content
        self._remover = remover
        self._documenter = documenter

    async def begin(
        self, address: VersionAddress, upload_id: UUID, user: str, *, admin: bool, on_probation: bool
    ) -> Upload:
        """Take the name, or resume: an upload of the same id, address and user is taken over, from whoever works on it.

        Checks names and rights; the asset, if it is new, is made with the upload and seen with the version. An upload of another id
        that broke off gives way. Refuses with INVALID_FIELD, REGISTRY_PROJECT_NOT_FOUND, NOT_AN_UPLOADER, VERSION_EXISTS.
        The incoming folder is `content.incoming(str(upload.upload_id))`: prepare it.
        """
        _check(address)
        while True:
            # mostly there is none, also when the name is taken: whoever takes it has to look again only at what was there before
            before = asyncio.create_task(self._content.exists(address.folder))
            try:
                upload = await self._versions.begin(address, upload_id, user, admin=admin, on_probation=on_probation)
                break
            except StillRemoved as removals:
                await self._remover.finish(*removals.args)
            finally:
                await asyncio.wait([before])
        try:
            if upload.displaced is not None:
                await self._content.incoming(str(upload.displaced)).discard()
            if upload.state == UPLOADING and before.result():
                await self._refuse_unknown(address.folder)
        except BaseException:
            await self.give_up(upload)
            raise
        return upload

    async def publish(self, upload: Upload, entries: Sequence[Entry]) -> Version:
        """Publish: every byte of every entry that is no link is at its path in the incoming folder, verified.

        Writes rows, links, empty directories and documents; afterwards the version is there. Refuses with QUOTA_EXCEEDED, and with
        INVALID_FIELD if a link leads to a version that is gone or not approved. Raises UploadLost, StorageFull, FolderTaken, ContentLost.
        After any of these it is still an upload. After anything else it is being published, by who finds it if not by the caller.
        """
        while True:
            completing: asyncio.Task[Incoming] | None = None

            def begin_completing() -> None:
                nonlocal completing
                completing = asyncio.create_task(self._complete(upload, entries))

            try:
                await self._versions.to_publishing(upload, entries, certain=begin_completing)
                break
            except StillRemoved as removals:
                await self._remover.finish(*removals.args)
            except BaseException:
                await _over(completing)
                raise
        return await self._run(upload, completing)

    async def finish(self, upload: Upload) -> Version:
        """Publish what is PUBLISHING already: only the last steps are left. If another process is at it, wait for that.

        Raises as `publish`; UploadLost also if that process found that it cannot be published; ContentDamaged if what arrived is not on
        the disk as it was: then it is an upload again, which can be resumed.
        """
        while True:
            version = await self._versions.published(upload)
            if version is not None:
                return version
            if upload.state == PUBLISHED:
                raise UploadLost  # deleted since
            if await self._versions.hold(upload):
                return await self._run(upload, None)
            await asyncio.sleep(_GLANCE)

    async def document(self, version: Version) -> None:
        """Wait for the documents of its project and its asset, which follow in any case. What fails is left to the sweeper."""
        await self._documenter.attempt(version.project_id)

    async def give_up(self, upload: Upload) -> None:
        """Forget an upload: its rows and its folder; the name is free. What is not held any more, or is PUBLISHING, stays."""
        if upload.state == PUBLISHING:
            await self._versions.release(upload)
        elif upload.state == UPLOADING and await self._versions.give_up(upload):
            await self._content.incoming(str(upload.upload_id)).discard()

    async def release(self, upload: Upload) -> None:
        """Hold it no longer: the connection broke. It can be resumed for a while, unless somebody else wants the name."""
        await self._versions.release(upload)

    async def recover(self, upload: Upload) -> Version | None:
        """Finish a publication that was found, and claimed, after a crash.

        None if it turns out that there is nothing to publish, or not what arrived: then it is an upload again, which can be resumed.
        """
        try:
            return await self._run(upload, None)
        except ContentDamaged as damage:
            log.warning("publication taken back", version=upload.address.folder, damage=str(damage))
            await self.release(upload)
            return None
        except (FolderTaken, ContentLost):
            # nobody was told that it is there
            log.exception("publication given up", version=upload.address.folder)
            await self.give_up(upload)
            return None

    async def _refuse_unknown(self, folder: str) -> None:
        """Refuse with VERSION_EXISTS if there is a folder, though there is no version. Publication would find it, too, but late."""
        if await self._content.exists(folder):
            raise Refusal(
                "VERSION_EXISTS",
                f"the registry's storage has a folder {folder!r} that is no version: it has to be adopted, or removed by hand",
                metadata={"version": folder},
            )

    async def _run(self, upload: Upload, completing: asyncio.Task[Incoming] | None) -> Version:
        async with self._held(upload):
            await self._put_in_place(upload, completing)
            version = await self._publish_rows(upload)
        # the rows are marked: whoever is told now may find the documents a moment later
        self._documenter.soon(version.project_id)
        return version

    async def _put_in_place(self, upload: Upload, completing: asyncio.Task[Incoming] | None) -> None:
        incoming = self._content.incoming(str(upload.upload_id))
        folder = upload.address.folder
        try:
            if completing is not None:
                incoming = await completing
            elif not await incoming.published(folder):  # as far as one knows who goes on after a crash
                entries = await self._store.entries(upload.version_id)
                # what they say was seen before it was on the disk
                await incoming.verify(_stored(entries))
                incoming = await self._complete(upload, entries)
            await incoming.publish(folder)
        except (StorageFull, FolderTaken, ContentLost):
            if not await incoming.published(folder):
                await self._versions.to_uploading(upload)
                raise
            # it is in its place, for everybody who looks there: only what makes that durable has failed
            await incoming.publish(folder)

    async def _complete(self, upload: Upload, entries: Sequence[Entry]) -> Incoming:
        """Put links, empty directories and documents into the incoming folder, and make all of it last."""
        incoming = self._content.incoming(str(upload.upload_id))
        links, directories, files = _of_version(upload, entries)
        if links:
            await incoming.links(links)
        if directories:
            await incoming.empty_directories(directories)
        await incoming.seal(upload.address.folder, files)
        return incoming

    async def _publish_rows(self, upload: Upload) -> Version:
        try:
            return await self._versions.to_published(upload)
        except UploadLost:
            # its project or asset was deleted meanwhile, and what was there of its content: not what came after
            await self._removals.orphaned(upload.address)
            await self._remover.finish(upload.address.folder)
            raise

    @asynccontextmanager
    async def _held(self, upload: Upload) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(upload), name="renew a publication")
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self, upload: Upload) -> None:
        while True:
            await asyncio.sleep(self._versions.lease / _RENEWALS)
            try:
                await self._versions.renew(upload)
            except UploadLost:
                return  # or published this moment
            except Exception as error:
                if not is_away(error):
                    log.exception("publication not renewed", version=upload.address.folder)


async def _over(task: asyncio.Task[Incoming] | None) -> None:
    """Wait for what is of no use any more."""
    if task is not None:
        await asyncio.wait([task])
        task.cancelled() or task.exception()


def _stored(entries: Sequence[Entry]) -> list[tuple[str, int, bytes, bytes | None]]:
    """Files of a version that have a content of their own: path, size, MD5, SHA-256."""
    return [
        (entry.path, entry.size, entry.md5, entry.sha256)
        for entry in entries
        if entry.md5 is not None and not entry.is_link
    ]


def _of_version(
    upload: Upload, entries: Sequence[Entry]
) -> tuple[list[tuple[str, str]], list[str], list[tuple[str, bytes]]]:
    """Links, empty directories, and documents of a version."""
    at = upload.address
    links = [
        (entry.path, symlink_text(at.file(entry.path), entry.holder)) for entry in entries if entry.holder is not None
    ]
    directories = [entry.path for entry in entries if entry.is_directory]
    assert upload.upload_finish is not None
    summary = Summary(upload.upload_user, upload.upload_start, upload.upload_finish, upload.on_probation)
    files = {documents.MANIFEST: documents.manifest(entries), documents.SUMMARY: documents.summary(summary)}
    return links, directories, [*documents.links(entries).items(), *files.items()]


def _check(address: VersionAddress) -> None:
    for field, name in (("project", address.project), ("asset", address.asset), ("version", address.version)):
        try:
            names.check_name(name)
        except ValueError as error:
            raise invalid(field, str(error), value=name) from error
