"""Reads handles in pages, with or without their replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from drayman.dispatch.v1 import project_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.store import Row, Store

_PAGE = 1000


class HandleReader:
    """Reads handles and shapes them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def listed(
        self,
        project_id: int,
        *,
        state: str | None,
        not_state: str | None,
        after: int,
        limit: int,
        with_replicas: bool,
        reason_code: str | None = None,
    ) -> AsyncIterator[list[pb.Handle]]:
        """Yield handles in creation order, page by page; each page is read when the one before was taken."""
        left = limit if limit > 0 else None
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            rows = await self._store.handles(project_id, after, state, not_state, size, reason_code)
            if rows:
                yield await self.shaped(project_id, rows, with_replicas=with_replicas)
            if len(rows) < size:
                return
            after = rows[-1]["handle_id"]
            left = None if left is None else left - len(rows)

    async def shaped(self, project_id: int, rows: Sequence[Row], *, with_replicas: bool) -> list[pb.Handle]:
        """Shape handles, with all their replicas if asked for."""
        if not with_replicas:
            return [messages.handle(project_id, row) for row in rows]
        replicas = await self._replicas(rows)
        return [messages.handle(project_id, row, replicas.get((row["namespace"], row["name"]), ())) for row in rows]

    async def _replicas(self, rows: Iterable[Row]) -> dict[tuple[str, str], list[pb.Replica]]:
        found: dict[tuple[str, str], list[pb.Replica]] = {}
        for row in await self._store.replicas_of([(row["namespace"], row["name"]) for row in rows]):
            found.setdefault((row["namespace"], row["name"]), []).append(messages.replica(row))
        return found
