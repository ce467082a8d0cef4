"""Takes what workers and the sweeper say of reserved handles: coalesced per project, durable before the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drayman.server.dispatch.allotment import Group
from drayman.server.dispatch.lifecycle import HandleState, Holding, why_refused
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.platform.coalescing import Coalescing


class Settled(NamedTuple):
    """What became of one report: accepted (no refusal), or why not. `row` has state, attempts, timeouts, reserved_at."""

    row: Row | None
    refusal: str | None


class Settler(Coalescing[int, Said, Settled]):
    """Reports queued per project. Each stands for itself."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        super().__init__("reports", self._settle)
        self._store = store
        self._reserver = reserver
        reserver.settle = self.forget_about

    async def settle(self, project_id: int, reports: Sequence[Said]) -> list[Settled]:
        """Apply reports; returns when they are on disk."""
        return await self.submit(project_id, reports)

    def forget_about(self, project_id: int, reports: Sequence[Said]) -> None:
        """Apply reports for which nobody waits."""
        self.submit(project_id, reports)

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


def holding_of(row: Row) -> Holding:
    """Read a row of the statement `standing`."""
    return Holding(HandleState(row["state"]), row["attempts"], row["worker_id"], row["request_id"])
