"""What time does: leases run out, idle projects are abandoned, history ends, interrupted deletions are finished."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import structlog

from drayman.server.dispatch.lifecycle import Outcome
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.settler import Settler
from drayman.server.dispatch.store import Said, Store
from drayman.server.platform.lifecycle import Repeating

log = structlog.get_logger(__name__)

#: Another replica's lease that this process has not heard of is found after this many seconds at the latest.
_LONGEST_SLEEP = 1.0


class LeaseSweeper(Repeating):
    """Takes back what was reserved too long, as soon as it is too long."""

    def __init__(self, store: Store, settler: Settler) -> None:
        super().__init__("leases", self._sweep)
        self._store = store
        self._settler = settler

    async def _sweep(self) -> float:
        due: dict[int, list[Said]] = {}
        for row in await self._store.due_leases():
            outcome = Outcome.TIMEOUT_RETRY if row["retry_on_timeout"] else Outcome.TIMEOUT_FINAL
            due.setdefault(row["project_id"], []).append(
                (row["handle_id"], row["attempts"], 0, row["worker_id"], outcome, None, "WORKER_TIMEOUT", "")
            )
        for project_id, said in due.items():
            await self._settler.settle(project_id, said)
            log.info("leases ran out", project_id=project_id, handles=len(said))
        seconds = await self._store.next_lease()
        return _LONGEST_SLEEP if seconds is None else min(max(seconds + 0.005, 0.005), _LONGEST_SLEEP)


class IdleSweeper(Repeating):
    """Abandons projects in which nothing happens for their idle time-out."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        super().__init__("idle projects", self._sweep)
        self._store = store
        self._reserver = reserver

    async def _sweep(self) -> float:
        wait = 1.0
        for row in await self._store.idle_projects():
            if row["left_seconds"] > 0:
                wait = min(wait, row["left_seconds"] + 0.005)
                break
            if await self._store.abandon(row["project_id"]):
                self._reserver.changed(row["project_id"])
                log.info("project abandoned", project_id=row["project_id"])
        return wait


class Housekeeper(Repeating):
    """Makes the history's partitions ahead, drops old ones, and finishes deletions that a crash interrupted."""

    def __init__(self, store: Store, retention_days: int) -> None:
        super().__init__("housekeeping", self._keep)
        self._store = store
        self._retention = timedelta(days=retention_days)

    async def start(self) -> None:
        """Make sure that history can be written before anything happens."""
        await self.make_partitions(datetime.now(UTC))
        await super().start()

    async def make_partitions(self, now: datetime) -> None:
        """Have partitions for this week and the next two, and none that is older than the retention."""
        monday = (now - timedelta(days=now.weekday())).date()
        weeks = [monday + timedelta(weeks=n) for n in range(3)]
        await self._store.keep_partitions(weeks, (now - self._retention).date())

    async def _keep(self) -> float:
        started = time.monotonic()
        await self.make_partitions(datetime.now(UTC))
        for row in await self._store.remnants():
            await self._store.delete_remnant(row["project_id"], row["last"])
            log.info("deletion finished", project_id=row["project_id"], seconds=round(time.monotonic() - started, 1))
        return 3600.0
