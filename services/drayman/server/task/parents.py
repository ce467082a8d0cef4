"""Tasks that wait for others (reference §4.5)."""

from __future__ import annotations

from enum import Enum

from drayman.server.task.desk import Desk, lock_if, place
from drayman.server.task.task_states import FINAL, TaskState
from drayman.server.task.task_store import Row

_FAILED = frozenset({TaskState.FAILED, TaskState.BROKEN, TaskState.ABORTED})
_NOT_BEGUN = frozenset({TaskState.REGISTERED, TaskState.DEFINED, TaskState.READY})
#: A child in one of these states goes down with its parent.
_BOUND = _NOT_BEGUN | {TaskState.SCOUTING, TaskState.RUNNING}


class Parent(Enum):
    """How a task's parent stands, as the child sees it."""

    NONE = "none"
    GONE = "there is no such task"
    ACTIVE = "goes on"
    DONE = "done"
    FINISHED = "finished"
    FAILED = "failed"


async def parent_of(desk: Desk, task: Row) -> Parent:
    """Look at a task's parent. One that waits for its user's decision is not over."""
    if task["parent_id"] is None or task["parent_id"] == task["task_id"]:
        return Parent.NONE
    found = await desk.store.fetchval("state", task["parent_id"])
    if found is None:
        return Parent.GONE
    state = TaskState(found)
    if state in _FAILED:
        return Parent.FAILED
    if state not in FINAL or state is TaskState.EXHAUSTED:
        return Parent.ACTIVE
    return Parent.DONE if state is TaskState.DONE else Parent.FINISHED


async def fall_with_parent(desk: Desk, task: Row) -> bool:
    """End a child whose parent failed: broken if it has not begun, otherwise it is killed. Returns whether it did."""
    if place(task) not in _BOUND:
        return False
    parent = await parent_of(desk, task)
    if parent not in (Parent.FAILED, Parent.GONE):
        return False
    text = f"parent task {task['parent_id']} "
    text += "failed to complete" if parent is Parent.FAILED else "does not exist"
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is not None:
            begun = now["jobs"] > 0 or place(now) not in _NOT_BEGUN
            state = TaskState.ABORTING if begun else TaskState.BROKEN
            await desk.store.move(connection, now, state, error=text)
    desk.tell(task["task_id"])
    return True
