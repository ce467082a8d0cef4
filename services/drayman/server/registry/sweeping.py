"""What crashes leave behind, and what time does.

Publications are finished, broken uploads forgotten, content without rows removed, documents written; what has waited too long for approval
is rejected; old entries of the log go. Several processes may do it at once: what one is at, the others pass over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from drayman.server.platform.database import is_away
from drayman.server.platform.lifecycle import Repeating
from drayman.server.registry import documents, times
from drayman.server.registry.content import Content, ContentLost
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.publication import Publisher
from drayman.server.registry.records import PUBLISHING, UPLOADING
from drayman.server.registry.removal import Remover
from drayman.server.registry.version_store import VersionStore

log = structlog.get_logger(__name__)

_EVERY = 60.0
_LOG_DAYS = 7
#: An advisory lock that every process of the registry shares.
_PRESENCE = 0x7265_6770 << 32  # "regp"
_RECONNECT = 1.0
_ANSWER = 5.0


class Presence(Repeating):
    """Tells the processes of a registry whether they are alone.

    Who is alone at its start knows that nobody is at work on any upload: names that a crash has left taken are free at once, not only
    when the leases end.
    """

    def __init__(self, dsn: str, versions: VersionStore) -> None:
        super().__init__("registry presence", self._stay)
        self._dsn = dsn
        self._versions = versions
        self._connection: Any = None

    async def start(self) -> None:
        """Look who else is there, and be there. Before anything is uploaded."""
        await self._connect()
        # whoever is not alone does not get it; who gets it keeps the others from believing the same at the same time
        if await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _PRESENCE):
            await self._versions.abandon_all()
            await self._connection.execute("SELECT pg_advisory_lock_shared($1)", _PRESENCE)
            await self._connection.execute("SELECT pg_advisory_unlock($1)", _PRESENCE)
        else:
            await self._connection.execute("SELECT pg_advisory_lock_shared($1)", _PRESENCE)
        await super().start()

    async def stop(self) -> None:
        """Be gone."""
        await super().stop()
        if self._connection is not None:
            # who comes next must not find us there because the database has not noticed yet that we went
            with suppress(Exception):
                await self._connection.execute("SELECT pg_advisory_unlock_all()")
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> None:
        self._connection = await asyncpg.connect(
            self._dsn,
            timeout=_ANSWER,
            command_timeout=_ANSWER,
            server_settings={"application_name": "drayman registry"},
        )

    async def _stay(self) -> float:
        """Be there again when the connection, and the lock with it, was lost."""
        if self._connection.is_closed():
            try:
                await self._connect()
                await self._connection.execute("SELECT pg_advisory_lock_shared($1)", _PRESENCE)
            except Exception as error:
                self._connection.terminate()
                if not is_away(error):
                    raise
        return _RECONNECT


class Recovery(Repeating):
    """Finishes what crashes have interrupted; at the start, and every minute."""

    def __init__(
        self, versions: VersionStore, publisher: Publisher, remover: Remover, documenter: Documenter, content: Content
    ) -> None:
        super().__init__("registry recovery", self.recover)
        self._versions = versions
        self._publisher = publisher
        self._remover = remover
        self._documenter = documenter
        self._content = content

    async def recover(self) -> float:
        """Do one round; what fails does not keep the rest from being done. Returns seconds until the next one."""
        failed = [
            await _tried("publications", self._publications),
            await _tried("uploads", self._uploads),
            await _tried("removals", self._remover.finish_all),
            await _tried("incoming folders", self._orphans),
            await _tried("trash", self._content.empty_trash),
            await _tried("documents", self._documenter.sweep),
        ]
        return _EVERY / 10 if any(failed) else _EVERY

    async def _publications(self) -> None:
        while (upload := await self._versions.claim(PUBLISHING)) is not None:
            # one that fails is held for a lease: it does not come back in this round
            version = await self._publisher.recover(upload)
            if version is not None:
                log.info("publication finished", version=upload.address.folder)

    async def _uploads(self) -> None:
        while (upload := await self._versions.claim(UPLOADING)) is not None:
            await self._publisher.give_up(upload)
            log.info("broken upload forgotten", version=upload.address.folder)

    async def _orphans(self) -> None:
        """Remove incoming folders of uploads that are over. A folder is only made when its row is there."""
        uploads = {}
        for name in await self._content.incoming_ids():
            with suppress(ValueError):  # not ours
                uploads[UUID(name)] = name
        known = await self._versions.known_uploads(list(uploads))
        for upload_id in uploads.keys() - known:
            await self._content.incoming(uploads[upload_id]).discard()
            log.info("incoming folder removed", upload=uploads[upload_id])


class ProbationSweeper(Repeating):
    """Rejects what has waited too long for approval."""

    def __init__(self, remover: Remover, days: float) -> None:
        """Versions wait for so many days; 0 = for ever."""
        super().__init__("probation", self.sweep)
        self._remover = remover
        self._days = days

    async def sweep(self) -> float:
        """Do one round."""
        if self._days > 0:
            await self._remover.expire(self._days)
        return _EVERY


class LogSweeper(Repeating):
    """Removes entries of ..logs that are older than a week: readers of a mounted registry know them by their times. The rows stay."""

    def __init__(self, content: Content) -> None:
        super().__init__("registry log", self.sweep)
        self._content = content

    async def sweep(self) -> float:
        """Do one round."""
        end = datetime.now(UTC) - timedelta(days=_LOG_DAYS)
        try:
            found = await self._content.listing(documents.LOGS)
        except ContentLost:
            found = []
        for name in _older([entry.path for entry in found], end):
            await self._content.remove_document(f"{documents.LOGS}/{name}")
        return 24 * 3600.0


def _older(names: Sequence[str], end: datetime) -> list[str]:
    old = []
    for name in names:
        with suppress(ValueError):  # somebody else's
            if times.parse(name.rpartition("_")[0]) < end:
                old.append(name)
    return old


async def _tried(what: str, work: Callable[[], Awaitable[None]]) -> bool:
    """Do a part of a round; returns whether it failed."""
    try:
        await work()
    except Exception as error:
        if is_away(error):
            raise
        log.exception("recovery failed", of=what)
        return True
    return False
