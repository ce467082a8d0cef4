"""Leases that are not their worker's any more, and why."""

from __future__ import annotations

from collections.abc import Sequence

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.server.dispatch.lifecycle import why_refused
from drayman.server.dispatch.settler import holding_of
from drayman.server.dispatch.store import Store


async def explain_losses(
    store: Store, project_id: int, worker_id: str, leases: Sequence[tuple[int, int]]
) -> list[pb.Lease]:
    """Say of lost leases (handle id, attempt) why they are lost."""
    if not leases:
        return []
    rows = await store.standing_of_handles(project_id, [handle_id for handle_id, _ in leases])
    lost = []
    for handle_id, attempt in leases:
        row = rows.get(handle_id)
        reason = why_refused(holding_of(row) if row else None, worker_id, attempt, None) or "NOT_RESERVED"
        lost.append(pb.Lease(handle_id=handle_id, attempt=attempt, reason=reason))
    return lost
