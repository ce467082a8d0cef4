"""What time does to jobs (reference §6.3): leases run out, jobs wait or run too long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from drayman.server.platform.lifecycle import Repeating
from drayman.server.task.job_kills import JobKills
from drayman.server.task.job_reports import JobReports
from drayman.server.task.job_states import JobState
from drayman.server.task.job_store import JobStore, Limits, Row

log = structlog.get_logger(__name__)

#: A lease that another replica gave out meanwhile is found after this many seconds at the latest.
_LONGEST_SLEEP = 1.0
#: Leases cannot be renewed while the service is away: after its start their workers have this long to say that they are there.
_GRACE = 30.0
#: Days are counted no finer than this, in seconds.
_DAYS_INTERVAL = 600.0

#: `jobDispatcherErrorCode`.
_LOST_HEARTBEAT, _SENT_TOO_LONG, _HOLDING_TOO_LONG, _TRANSFERRING_TOO_LONG = 100, 102, 103, 104


class JobLeaseSweeper(Repeating):
    """Fails jobs that nothing was heard of for too long, as soon as it is too long."""

    def __init__(self, store: JobStore, reports: JobReports) -> None:
        super().__init__("leases of jobs", self._sweep)
        self._store = store
        self._reports = reports
        self._begun = False

    async def _sweep(self) -> float:
        if not self._begun:
            self._begun = True
            return min(_GRACE, self._store.limits.heartbeat)
        rows = await self._store.due_leases()
        if rows:
            lost = await self._reports.expire(rows, lambda row: why_expired(row, self._store.limits))
            log.info("leases of jobs ran out", jobs=lost)
        seconds = await self._store.next_lease()
        return _LONGEST_SLEEP if seconds is None else min(max(seconds + 0.005, 0.005), _LONGEST_SLEEP)


class LongWaits(Repeating):
    """Ends jobs that nobody fetches, and orders those to stop that run for weeks."""

    def __init__(self, store: JobStore, kills: JobKills, *, activated_days: float, running_days: float) -> None:
        super().__init__("jobs that last too long", self._sweep)
        self._store = store
        self._kills = kills
        self._activated_days = activated_days
        self._running_days = running_days

    async def _sweep(self) -> float:
        ended = await self._waiting() + await self._running()
        wait = min(_DAYS_INTERVAL, min(self._activated_days, self._running_days) * 8640.0)
        return 0.0 if ended else wait

    async def _waiting(self) -> int:
        found = await self._store.waiting_too_long(_days_ago(self._activated_days))
        reason = f"no worker fetched it for {self._activated_days:g} days"
        return await self._kills.by_time(found, reason, expected=JobState.ACTIVATED)

    async def _running(self) -> int:
        found = await self._store.running_too_long(_days_ago(self._running_days))
        return await self._kills.by_time(
            found, f"it has run for {self._running_days:g} days", expected=JobState.RUNNING
        )


def why_expired(row: Row, limits: Limits) -> dict[str, object]:
    """Say why a job failed whose lease ran out in a state."""
    state = row["state"]
    if state == JobState.SENT:
        code, text = _SENT_TOO_LONG, f"its worker did not begin within {limits.sent:g} s"
    elif state == JobState.HOLDING:
        code, text = _HOLDING_TOO_LONG, f"its outputs were not recorded within {limits.holding:g} s"
    elif state == JobState.TRANSFERRING:
        code, text = _TRANSFERRING_TOO_LONG, f"its outputs did not arrive within {limits.transferring:g} s"
    else:
        heard = row["lease_until"] - timedelta(seconds=limits.heartbeat)
        code, text = _LOST_HEARTBEAT, f"lost heartbeat : {heard:%Y-%m-%d %H:%M:%S}"
    return {"jobDispatcherErrorCode": code, "jobDispatcherErrorDiag": text}


def _days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
