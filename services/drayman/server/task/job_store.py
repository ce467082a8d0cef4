"""The tables of jobs: the statements of `job_queries.sql`, run. The hot ones on connections whose plans are pinned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.task.plan import Requirements
from drayman.server.task.ready_lots import Lot
from drayman.server.task.wishes import JobWish

HERE = Path(__file__).parent
SQL = load_queries(HERE / "job_queries.sql")
#: Statements that are put together: how jobs end, and what that does to their tasks.
REPORT = f"{SQL['report']}\n{SQL['account']}\n{SQL['reported']}"
WITHDRAW = f"{SQL['withdraw']}\n{SQL['account']}\n{SQL['withdrawn']}"

#: Who met somebody that took locks in another order tries again.
_TRIES = 4

Row = asyncpg.Record
T = TypeVar("T")


class Limits(NamedTuple):
    """Seconds that a job may take to begin, may be silent, may record its outputs, may have them travel."""

    sent: float
    heartbeat: float
    holding: float
    transferring: float


class Touch(NamedTuple):
    """What a worker says of a job that goes on."""

    job_id: int
    attempt: int
    worker_id: str
    user: str
    state: str | None
    fields: str | None  # one JSON object
    node: str | None


class MadeOutput(NamedTuple):
    """A file that a job made, and where it is."""

    name: str
    stream: str
    type: str
    dataset: str
    project: str
    asset: str
    version: str
    size: int
    checksum: str
    events: int


class End(NamedTuple):
    """The end of a job, as its worker reports it; or, without a worker, the end of a lease in the state `expected`."""

    job_id: int
    attempt: int
    worker_id: str | None
    user: str | None
    state: str
    fields: str | None
    metadata: str | None
    expected: str | None
    outputs: Sequence[MadeOutput] = ()


class Return(NamedTuple):
    """A job that its worker gives back: the one of that hand-out, if `given_at` says which."""

    job_id: int
    attempt: int
    worker_id: str
    user: str
    given_at: datetime | None


class Kill(NamedTuple):
    """A job to end: what it becomes, what is noted, who does it. `expected`: only if it is in that state; `force`: even if it runs."""

    job_id: int
    state: str
    fields: str
    killer: str
    expected: str | None
    force: bool


class JobStore:
    """Jobs in the database. Methods return rows as the statement of the same name gives them."""

    def __init__(self, hot: asyncpg.Pool, limits: Limits) -> None:
        self._hot = hot
        self.limits = limits

    # --- handing out -------------------------------------------------------------------------------------------------

    async def open_lots(self) -> list[Lot]:
        """Lots that have something ready, best first."""
        return [_lot(row) for row in await self._hot.fetch(SQL["open_lots"])]

    async def draw(self, takes: dict[int, list[int]], wishes: Sequence[JobWish]) -> list[Row]:
        """Hand out. `takes`: of which lot for which wishes (places in `wishes` from 0), one entry a job. A row's `wish` counts from 1."""
        lot_ids = sorted(takes)
        numbers = [len(takes[lot_id]) for lot_id in lot_ids]
        return await self._hot.fetch(
            SQL["draw"],
            lot_ids,
            numbers,
            [end - number for end, number in zip(accumulate(numbers), numbers, strict=True)],
            [wish.worker_id for wish in wishes],
            [wish.offer.user for wish in wishes],
            [wish.offer.site for wish in wishes],
            [wish.node for wish in wishes],
            [wish.request_id for wish in wishes],
            [place + 1 for lot_id in lot_ids for place in takes[lot_id]],
            self.limits.sent,
        )

    async def held_again(self, wishes: Sequence[JobWish]) -> set[int]:
        """Which of the wishes (places from 0) have jobs already."""
        rows = await self._hot.fetch(
            SQL["held_again"],
            [wish.worker_id for wish in wishes],
            [wish.offer.user for wish in wishes],
            [wish.request_id for wish in wishes],
        )
        return {row["n"] - 1 for row in rows}

    async def deliver_again(self, worker_id: str, request_id: UUID, user: str) -> list[int]:
        """Hand out once more what a request got; returns the jobs."""
        return [row["job_id"] for row in await self._hot.fetch(SQL["deliver_again"], worker_id, request_id, user)]

    async def recount_lot(self, lot_id: int) -> None:
        """Mend a lot's count and bound."""
        await self._hot.execute(SQL["recount_lot"], lot_id)

    async def give_back(self, returns: Sequence[Return]) -> list[Row]:
        """Take jobs back that have not begun."""
        return await _insist(lambda: self._hot.fetch(SQL["give_back"], *map(list, zip(*returns, strict=True))))

    # --- reports -----------------------------------------------------------------------------------------------------

    async def touch(self, touches: Sequence[Touch]) -> list[Row]:
        """Take what workers say of jobs that go on; each job once."""
        values = map(list, zip(*touches, strict=True))
        _, heartbeat, holding, transferring = self.limits
        return await self._hot.fetch(SQL["touch"], *values, heartbeat, holding, transferring)

    async def report(self, ends: Sequence[End]) -> list[Row]:
        """End jobs; each once."""
        said = [list(column) for column in zip(*[end[:8] for end in ends], strict=True)]
        made = [(place, *output) for place, end in enumerate(ends, 1) for output in end.outputs]
        outputs = [list(column) for column in zip(*made, strict=True)] if made else [[] for _ in range(11)]
        return await _insist(lambda: self._hot.fetch(REPORT, *said, *outputs))

    async def standing(self, job_ids: Sequence[int]) -> dict[int, Row]:
        """Say how jobs stand, by id."""
        rows = await self._hot.fetch(SQL["standing"], list(job_ids))
        return {row["job_id"]: row for row in rows}

    async def write_tails(self, tails: dict[int, str]) -> None:
        """Keep the tails of outputs, by job."""
        job_ids = sorted(tails)
        await self._hot.execute(SQL["write_tails"], job_ids, [tails[job_id] for job_id in job_ids])

    async def note_starts(self, task_ids: Sequence[int]) -> None:
        """The first jobs of these tasks may have begun."""
        await self._hot.execute(SQL["note_starts"], list(task_ids))

    # --- killing -----------------------------------------------------------------------------------------------------

    async def whose_jobs(self, job_ids: Sequence[int]) -> dict[int, Row]:
        """Owners, labels and states of jobs, by id."""
        rows = await self._hot.fetch(SQL["whose_jobs"], list(job_ids))
        return {row["job_id"]: row for row in rows}

    async def withdraw(self, kills: Sequence[Kill]) -> list[Row]:
        """End jobs, or order their workers to; each once."""
        return await _insist(lambda: self._hot.fetch(WITHDRAW, *map(list, zip(*kills, strict=True))))

    async def orders(self, job_ids: Sequence[int]) -> list[Row]:
        """What the workers of jobs have to be told."""
        return await self._hot.fetch(SQL["orders"], list(job_ids))

    async def orders_of_workers(self, workers: Sequence[tuple[str, str]]) -> list[Row]:
        """Orders that workers (user, worker id) have not obeyed yet."""
        return await self._hot.fetch(
            SQL["orders_of_workers"], [worker for _, worker in workers], [user for user, _ in workers]
        )

    # --- time --------------------------------------------------------------------------------------------------------

    async def due_leases(self) -> list[Row]:
        """Leases that have run out."""
        return await self._hot.fetch(SQL["due_leases"])

    async def next_lease(self) -> float | None:
        """Seconds until the next lease runs out."""
        seconds: float | None = await self._hot.fetchval(SQL["next_lease"])
        return seconds

    async def running_too_long(self, since: datetime) -> list[int]:
        """Jobs that have run since before a time."""
        return [row["job_id"] for row in await self._hot.fetch(SQL["running_too_long"], since)]

    async def waiting_too_long(self, since: datetime) -> list[int]:
        """Jobs that have been ready since before a time."""
        return [row["job_id"] for row in await self._hot.fetch(SQL["waiting_too_long"], since)]

    # --- as their owners see them ------------------------------------------------------------------------------------

    async def jobs(self, job_ids: Sequence[int], *, made: bool = False, tails: bool = False) -> dict[int, Row]:
        """All that is needed to show jobs, by id."""
        rows = await self._hot.fetch(SQL["jobs"], list(dict.fromkeys(job_ids)), made, tails)
        return {row["job_id"]: row for row in rows}

    async def ids_of_task(self, task_id: int, after: int, states: Sequence[str] | None, limit: int) -> list[int]:
        """A page of a task's jobs."""
        rows = await self._hot.fetch(SQL["ids_of_task"], task_id, after, states, limit)
        return [row["job_id"] for row in rows]

    async def ids_of_owner(self, owner: str, after: int, states: Sequence[str] | None, limit: int) -> list[int]:
        """A page of somebody's jobs."""
        rows = await self._hot.fetch(SQL["ids_of_owner"], owner, after, states, limit)
        return [row["job_id"] for row in rows]

    async def set_debug(self, job_id: int, *, on: bool) -> bool:
        """Switch debug mode; tells whether that changed anything."""
        return await self._hot.fetchval(SQL["set_debug"], job_id, on) is not None

    async def output_tail(self, job_id: int) -> Row | None:
        """The tail of a job's output."""
        return await self._hot.fetchrow(SQL["output_tail"], job_id)


async def _insist(run: Callable[[], Awaitable[T]]) -> T:
    for _ in range(_TRIES - 1):
        try:
            return await run()
        except asyncpg.DeadlockDetectedError:
            continue
    return await run()


def _lot(row: Row) -> Lot:
    return Lot(
        row["lot_id"],
        row["task_id"],
        row["owner"],
        row["label"],
        row["priority"],
        row["ready"],
        Requirements(
            cores=row["cores"],
            memory_mb=row["memory_mb"],
            disk_mb=row["disk_mb"],
            walltime_seconds=row["walltime"],
            platform=row["platform"],
            sites=frozenset(row["sites"]),
            excluded_sites=frozenset(row["not_sites"]),
            label=row["label"],
        ),
    )
