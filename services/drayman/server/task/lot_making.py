"""Lots: jobs of a task that ask for the same of a worker."""

from __future__ import annotations

from drayman.server.task.plan import TaskPlan
from drayman.server.task.task_store import SQL, Connection, Row

#: How much earlier than the rest of its task goes what the rest waits for.
_BUILD_FIRST = 1_000
_MERGE_FIRST = 500
_MOST = 2**31 - 1


async def lot_for(
    connection: Connection, task: Row, plan: TaskPlan, *, kind: str = "run", memory_mb: int | None = None
) -> int:
    """Return the lot of a locked task's jobs of a kind, or of those that ask for so much memory; it is made if there is none."""
    asked = plan.requirements
    first = {"build": _BUILD_FIRST, "merge": _MERGE_FIRST}.get(kind, 0)
    values = (
        task["task_id"],
        min(task["current_priority"] + first, _MOST),
        sorted(asked.sites),
        sorted(asked.excluded_sites),
        asked.cores,
        asked.memory_mb if memory_mb is None else memory_mb,
        asked.disk_mb,
        asked.walltime_seconds,
        asked.platform,
        task["label"],
    )
    lot_id: int | None = await connection.fetchval(SQL["find_lot"], *values)
    if lot_id is None:
        is_open = task["state"] in ("scouting", "running")
        lot_id = await connection.fetchval(SQL["insert_lot"], *values, task["owner"], is_open)
    assert lot_id is not None
    return lot_id
