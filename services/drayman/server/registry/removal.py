"""Approval, rejection and deletion with everything that belongs to them: rows, then content, then documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, ContentError
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.probation_store import ProbationStore
from drayman.server.registry.records import Project, Version
from drayman.server.registry.removal_store import RemovalStore, Removed, StillPublished
from drayman.server.registry.rerouting import Doomed

log = structlog.get_logger(__name__)

#: Seconds between two tries to delete what is being published this moment, and for how many of them.
_PAUSE = 0.05
_PATIENCE = 200


class Remover:
    """Ends what waits for approval one way or the other, and removes what is not wanted any more."""

    def __init__(
        self, probation: ProbationStore, removals: RemovalStore, content: Content, documenter: Documenter
    ) -> None:
        self._probation = probation
        self._removals = removals
        self._content = content
        self._documenter = documenter

    async def approve(self, address: VersionAddress, check: Callable[[Project, Version], None]) -> Version:
        """Approve a version on probation; `check` raises a Refusal if the caller may not (called under the project's lock).

        Refuses with NOT_ON_PROBATION and what is not found. Returns it as it is now; its documents are written.
        """
        version = await self._probation.approve(address, check)
        await self._documenter.attempt(version.project_id, version.version_id)
        return version

    async def reject(
        self, address: VersionAddress, check: Callable[[Project, Version], None], *, force: bool = False
    ) -> None:
        """Remove a version on probation; `check` as in `approve`. Its name is free then.

        `force` changes nothing: what is stored of it is not looked at. Refuses with NOT_ON_PROBATION and what is not found.
        """
        del force
        await self._clear(await self._probation.reject(address, check))

    async def delete(self, doomed: Doomed, *, force: bool) -> bool:
        """Remove a project, an asset or a version with all it holds; False if it was not there. Its name is free then.

        Refuses with LINKED_TO if others link into it, unless `force`; with UNAVAILABLE if versions of it are being published all the time.
        """
        for _ in range(_PATIENCE):
            try:
                removed = await self._removals.delete(doomed, force=force)
            except StillPublished:
                await asyncio.sleep(_PAUSE)
                continue
            if removed is None:
                return False
            await self._clear(removed)
            return True
        raise Refusal("UNAVAILABLE", "a version of it is being published: try again soon", retry_after=1.0)

    async def finish(self, *folders: str) -> None:
        """Remove the content of folders whose rows are gone, unless it is gone too; if another process is at it, wait for that."""
        for folder in folders:
            async with self._removals.removing(folder) as waits:
                if waits:
                    await self._content.remove(folder)

    async def finish_all(self) -> None:
        """Remove whatever has still to go."""
        for folder in await self._removals.removals():
            await self.finish(folder)
            log.info("removal finished", folder=folder)

    async def expire(self, days: float) -> int:
        """Reject what has waited for more than so many days; returns how many versions."""
        count = before = 0
        while expired := await self._probation.expired(days):
            for address in expired:
                try:
                    await self.reject(address, lambda _project, _version: None)
                except Refusal as refusal:
                    # another replica, or an approval, was faster
                    log.info("not rejected", version=address.folder, why=refusal.reason)
                else:
                    count += 1
                    log.info("probation ran out", version=address.folder)
            if count == before:
                break
            before = count
        return count

    async def _clear(self, removed: Removed) -> None:
        try:
            await self.finish(removed.folder)
            for upload_id in removed.uploads:
                await self._content.incoming(str(upload_id)).discard()
        except (ContentError, OSError):
            # it is not there any more for anybody; the name is free when the sweeper has succeeded
            log.exception("content not removed", folder=removed.folder)
        await self._documenter.attempt(removed.project_id)
