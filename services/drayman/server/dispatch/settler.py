"""Takes what workers and the sweeper say of reserved handles: coalesced per project, durable before the reply."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from drayman.server.dispatch.allotment import Group
from drayman.server.dispatch.gathering import Gathering
from drayman.server.dispatch.lifecycle import HandleState, Holding, why_refused
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.platform.lifecycle import Part

log = structlog.get_logger(__name__)

_LARGEST_BATCH = 1000


class Settled(NamedTuple):
    """What became of one report: accepted (no refusal), or why not. `row` has state, attempts, timeouts, reserved_at."""

    row: Row | None
    refusal: str | None


class _Group(NamedTuple):
    """Reports that arrived together, and who waits for them."""

    reports: Sequence[Said]
    settled: asyncio.Future[list[Settled]]


class Settler(Part):
    """Queues reports per project; while one batch is on its way to disk the next one gathers."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        self._store = store
        self._reserver = reserver
        self._waiting: dict[int, deque[_Group]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        reserver.settle = self.forget_about

    def submit(self, project_id: int, reports: Sequence[Said]) -> asyncio.Future[list[Settled]]:
        """Queue reports; the future has their results, in their order, when they are on disk. Each stands for itself."""
        group = _Group(reports, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(project_id, deque()).append(group)
        if project_id not in self._running:
            self._running[project_id] = asyncio.create_task(self._run(project_id), name=f"reports {project_id}")
        return group.settled

    async def settle(self, project_id: int, reports: Sequence[Said]) -> list[Settled]:
        """Apply reports; returns when they are on disk."""
        return await self.submit(project_id, reports)

    def forget_about(self, project_id: int, reports: Sequence[Said]) -> None:
        """Apply reports for which nobody waits."""
        self.submit(project_id, reports)

    async def stop(self) -> None:
        """Let the reports that were taken reach the disk."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def _run(self, project_id: int) -> None:
        gathering = Gathering()
        while True:
            await gathering.gather()
            waiting = self._waiting.get(project_id)
            if not waiting:  # no await lies between this and being gone: a report that comes now starts a new run
                self._waiting.pop(project_id, None)
                del self._running[project_id]
                return
            groups = _take(waiting)
            gathering.begins(len(groups))
            try:
                results = await self._settle(project_id, [said for group in groups for said in group.reports])
            except Exception as error:
                for group in groups:
                    if not group.settled.done():
                        group.settled.set_exception(error)
                        group.settled.exception()  # callers may have gone
                continue
            begin = 0
            for group in groups:
                end = begin + len(group.reports)
                if not group.settled.done():
                    group.settled.set_result(results[begin:end])
                begin = end

    async def _settle(self, project_id: int, said: list[Said]) -> list[Settled]:
        rows = await self._store.settle(project_id, said)
        results: list[Settled | None] = [None] * len(said)
        for row in rows:
            results[row["place"] - 1] = Settled(row, None)
        if rows:
            self._tell_the_reserver(project_id, rows)
        refused = [place for place, result in enumerate(results) if result is None]
        if refused:
            await self._explain(project_id, said, refused, results)
        return [result for result in results if result is not None]

    def _tell_the_reserver(self, project_id: int, rows: list[Row]) -> None:
        first = rows[0]
        freed = [row for row in rows if row["state"] == HandleState.INITIAL]
        news = freed or first["became"] or first["capped"]  # where there is a cap, whatever ends makes room
        queue = self._reserver.peek(project_id)
        if queue is not None:
            for row in freed:
                queue.freed(Group(row["attempts"], row["location_id"]), row["handle_id"])
            queue.settled(first["files"], first["done"], first["failed"], first["became"])
            if news:
                queue.kick()
        if news:
            self._reserver.announce(project_id)
        if first["room_at_rse"]:
            self._reserver.room_at_rses()

    async def _explain(
        self, project_id: int, said: list[Said], refused: list[int], results: list[Settled | None]
    ) -> None:
        rows = await self._store.standing_of_handles(project_id, [said[place][0] for place in refused])
        for place in refused:
            handle_id, attempt, _, worker_id, _, request_id, _, _ = said[place]
            row = rows.get(handle_id)
            reason = why_refused(holding_of(row) if row else None, worker_id, attempt, request_id)
            results[place] = Settled(row, reason)


def _take(waiting: deque[_Group]) -> list[_Group]:
    """Take groups, in their order, up to one statement's worth."""
    groups: list[_Group] = []
    size = 0
    while waiting and (not groups or size + len(waiting[0].reports) <= _LARGEST_BATCH):
        group = waiting.popleft()
        groups.append(group)
        size += len(group.reports)
    return groups


def holding_of(row: Row) -> Holding:
    """Read a row of the statement `standing`."""
    return Holding(HandleState(row["state"]), row["attempts"], row["worker_id"], row["request_id"])
