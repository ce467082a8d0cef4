"""Makes links independent of what is about to be deleted: in rows, on disk and in documents.

In an order in which no reader ever finds less than before, and which can be left at any point and gone through again:

1. Every link that is to become a copy becomes one on disk, in one step each. Readers, who may still go by the old rows, find the same
   bytes.
2. The rows, each version in one transaction, those with copies first: what the others lead to from now on is there. Their documents are
   marked as unwritten.
3. Symbolic links lead to where the rows say, and the documents say so. Who is killed before leaves the marks: whoever writes marked
   documents corrects the links as well.

Who is killed between 1 and 2 leaves copies that the rows still take for links: right, but not needed. Calling it again goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import Content, ContentLost, StorageFull
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.maintenance_store import MaintenanceStore
from drayman.server.registry.rerouting import Doomed, LinkEntry, Reroute, plan

log = structlog.get_logger(__name__)

#: Files that are copied at a time.
_AT_ONCE = 4


class Rerouter:
    """Reroutes links, one call at a time."""

    def __init__(self, repairs: MaintenanceStore, content: Content, documenter: Documenter) -> None:
        self._repairs = repairs
        self._content = content
        self._documenter = documenter
        self._one = asyncio.Lock()

    async def run(self, doomed: Sequence[Doomed], *, dry_run: bool = False) -> list[Reroute]:
        """Make everybody's links independent of what is doomed; returns what changed, or would, by address.

        Refuses with REGISTRY_PROJECT_NOT_FOUND, ASSET_NOT_FOUND, VERSION_NOT_FOUND, STORAGE_FULL, CONTENT_LOST.
        """
        await self._repairs.check_doomed(doomed)
        if dry_run:
            return await self._plan(doomed)
        async with self._one:
            changes = await self._plan(doomed)
            try:
                await self._copy([change for change in changes if change.copy])
            except* StorageFull as error:
                raise Refusal("STORAGE_FULL", f"copies of what is to be deleted: {error.exceptions[0]}") from error
            except* ContentLost as error:
                raise Refusal(
                    "CONTENT_LOST", f"what is to be deleted cannot be copied: {error.exceptions[0]}"
                ) from error
            await self._apply(changes)
        log.info("links rerouted", changes=len(changes), copies=sum(change.copy for change in changes))
        return changes

    async def _plan(self, doomed: Sequence[Doomed]) -> list[Reroute]:
        links = await self._repairs.links_around(doomed)
        missing = await self._repairs.missing(_led_to(links))
        # links that are doomed themselves have to be known, and keep their content until they go
        return plan(doomed, links, missing)

    async def _copy(self, changes: Sequence[Reroute]) -> None:
        left = iter(changes)

        async def work() -> None:
            for change in left:
                await self._content.copy(change.content.key, change.address.key)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(changes))):
                group.create_task(work())

    async def _apply(self, changes: Sequence[Reroute]) -> None:
        versions: dict[VersionAddress, list[Reroute]] = {}
        for change in sorted(changes, key=lambda change: not change.copy):
            versions.setdefault(change.address.version_address, []).append(change)
        touched: dict[int, list[int]] = {}
        for at, each in versions.items():
            try:
                ids = await self._repairs.reroute(at, each)
            except Refusal:
                continue  # it is gone by now, with its links
            if ids is not None:
                touched.setdefault(ids[0], []).append(ids[1])
        for project_id, version_ids in touched.items():
            await self._documenter.attempt(project_id, *version_ids)


def _led_to(links: Sequence[LinkEntry]) -> set[FileAddress]:
    return {file for link in links for file in (link.target, link.ancestor) if file is not None}
