"""Shapes what was reserved for the worker who gets it: with the replicas that can be read now, nearest first."""

from __future__ import annotations

from collections.abc import Sequence

from drayman.dispatch.v1 import project_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.attributes import with_timeouts
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.store import Row, Store


class Offering:
    """Looks up the replicas of what was drawn, and shapes it."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        self._store = store
        self._reserver = reserver

    async def handles(
        self, standing: Standing, worker_id: str, cpu_site: str, rows: Sequence[Row], *, shift: int = 1
    ) -> list[pb.Handle]:
        """Shape rows of one draw. `shift` is what a row's attempts lack of the running attempt's number."""
        replicas: dict[int, list[messages.Row]] = {}
        if not standing.virtual:
            handle_ids = [row["handle_id"] for row in rows]
            for row in await self._store.readable_replicas(standing.project_id, handle_ids):
                replicas.setdefault(row["handle_id"], []).append(row)
        storage = self._reserver.storage
        moments = messages.Moments()  # what was drawn together was reserved at the same time
        handles = []
        for row in rows:
            did = pb.Did(namespace=row["namespace"], name=row["name"])
            found = replicas.get(row["handle_id"])
            handles.append(
                pb.Handle(
                    project_id=standing.project_id,
                    handle_id=row["handle_id"],
                    did=did,
                    state=pb.HANDLE_STATE_RESERVED,
                    worker_id=worker_id,
                    attempts=row["attempts"] + shift,
                    attributes_json=with_timeouts(row["attributes"], row["timeouts"]),
                    reserve_time=moments.of(row["reserved_at"]),
                    lease_expire_time=moments.of(row["lease_until"]),
                    replicas=messages.readable_replicas(did, found, storage, cpu_site, row["rse_id"])
                    if found
                    else None,
                )
            )
        return handles
