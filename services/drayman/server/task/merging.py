"""The merge stage: small outputs are put together by jobs of their own, when all inputs are over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drayman.server.task.desk import AGAIN, CHUNK, FALLBACK, Desk, Wait, lock_if
from drayman.server.task.lot_making import lot_for
from drayman.server.task.plan import TaskPlan, Unit
from drayman.server.task.refining import broken
from drayman.server.task.splitting import groups
from drayman.server.task.task_store import SQL, Connection, Row

_ATTEMPTS = 3
_COLUMNS = ("job_id", "task_id", "lot_id", "kind", "serial", "revision", "merges")


async def merge(desk: Desk, task: Row, plan: TaskPlan) -> Wait:
    """Make merge jobs of finished jobs' outputs; None = everything is merged."""
    task_id = task["task_id"]
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        if now["live"]:
            return FALLBACK
        await desk.store.run(connection, "mark_merged", task_id)
        rows = await connection.fetch(SQL["unmerged"], task_id, CHUNK)
        if not rows:
            return None
        failures = await desk.store.run(connection, "merge_failures", task_id, rows[0]["job_id"])
        if failures < _ATTEMPTS:
            await _make(desk, connection, now, plan, rows)
    if failures >= _ATTEMPTS:
        return await broken(
            desk, task, f"the outputs of job {rows[0]['job_id']} could not be merged in {failures} attempts"
        )
    desk.tell(task_id)
    return AGAIN


async def _make(desk: Desk, connection: Connection, task: Row, plan: TaskPlan, rows: Sequence[Row]) -> None:
    cuts = list(_cuts(plan, rows))
    job_ids = sorted(await desk.store.run(connection, "reserve_jobs", len(cuts)))
    lot_id = await lot_for(connection, task, plan, kind="merge")
    records = [
        (job_id, task["task_id"], lot_id, "merge", task["serial"] + place, task["revision"], merges)
        for place, (job_id, merges) in enumerate(zip(job_ids, cuts, strict=True), 1)
    ]
    await connection.copy_records_to_table("job", schema_name="task", columns=_COLUMNS, records=records)
    await desk.store.run(connection, "count_made", task["task_id"], 0, len(cuts), 0, len(cuts))
    await desk.store.run(connection, "fill_lot", lot_id, len(cuts))


def _cuts(plan: TaskPlan, rows: Sequence[Row]) -> Iterator[list[int]]:
    units = [Unit(place, row["size"]) for place, row in enumerate(rows)]
    for cut in groups(units, plan.merge_rule, last=True):
        yield [rows[unit.number]["job_id"] for unit in cut]
