"""From `prepared` to the end: outputs are put together, the counts decide."""

from __future__ import annotations

import structlog

from drayman.server.platform.errors import Refusal
from drayman.server.task.dataset_names import Place, assembled_in
from drayman.server.task.desk import AGAIN, Desk, Wait, lock_if
from drayman.server.task.outcome import final_state
from drayman.server.task.parents import Parent, parent_of
from drayman.server.task.plan import TaskPlan
from drayman.server.task.reading_inputs import may_grow
from drayman.server.task.refining import is_written_late
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Row

log = structlog.get_logger(__name__)

_ASK_AGAIN = ("UNAVAILABLE", "OVERLOADED", "DEADLINE")
_BY_COMMAND = ("finish", "finish_soft")


async def close(desk: Desk, task: Row) -> Wait:
    """Put a task's outputs together and end it."""
    plan = await desk.plans.plan(task["task_id"], task["revision"])
    state = await _outcome(desk, task, plan)
    problem = ""
    if state in (TaskState.DONE, TaskState.FINISHED):
        problem = await _assemble(desk, task)
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        await desk.store.move(connection, now, state, error=problem or _why(state, now))
    desk.tell(task["task_id"])
    return AGAIN


async def _outcome(desk: Desk, task: Row, plan: TaskPlan) -> TaskState:
    parent = await parent_of(desk, task)
    listed = is_written_late(plan) or bool(plan.listed_files)
    return final_state(
        total=task["inputs"] - task["missing"],
        finished=task["finished"],
        growing=not listed and await may_grow(desk, plan),
        parent_done=None if parent is Parent.NONE else parent is Parent.DONE,
        parent_failed=parent is Parent.FAILED,
        goal=plan.goal,
        fail_goal_unreached=plan.fail_goal_unreached,
        use_exhausted=plan.use_exhausted,
        by_command=task["command"] in _BY_COMMAND,
        allow_empty=plan.allow_empty_input,
    )


def _why(state: TaskState, task: Row) -> str:
    if state is TaskState.DONE:
        return ""
    total = task["inputs"] - task["missing"]
    return f"{task['finished']} of {total} inputs were processed" if task["finished"] < total else ""


async def _assemble(desk: Desk, task: Row) -> str:
    """Make one version of the parts that jobs uploaded, for each output; returns what went wrong, for the user."""
    for dataset in await desk.store.fetch("datasets", task["task_id"]):
        if dataset["version"] is None:
            continue
        rows = await desk.store.fetch("parts", task["task_id"], dataset["stream"], dataset["project"], dataset["asset"])
        parts = [row["version"] for row in rows]
        if not parts:
            continue
        assembled = assembled_in(dataset["version"], task["attempt"])
        place = Place(dataset["project"], dataset["asset"], parts[0], assembled)
        try:
            await desk.outputs.assemble(place, parts, task["owner"])
        except Refusal as refusal:
            if refusal.reason in _ASK_AGAIN:
                raise
            log.warning(
                "outputs not assembled", task_id=task["task_id"], dataset=dataset["name"], reason=refusal.reason
            )
            return f"the outputs of {dataset['name']} could not be put together: {refusal.message}"
    return ""
