"""The states of a task, and what they have in common."""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task stands. See `drayman.task.v1.TaskState` for what each means."""

    REGISTERED = "registered"
    DEFINED = "defined"
    READY = "ready"
    PENDING = "pending"
    SCOUTING = "scouting"
    RUNNING = "running"
    PAUSED = "paused"
    PREPARED = "prepared"
    TORETRY = "toretry"
    TOINCEXEC = "toincexec"
    FINISHING = "finishing"
    ABORTING = "aborting"
    DONE = "done"
    FINISHED = "finished"
    FAILED = "failed"
    ABORTED = "aborted"
    BROKEN = "broken"
    EXHAUSTED = "exhausted"


#: Nothing happens any more unless somebody asks for it.
FINAL = frozenset(
    {
        TaskState.DONE,
        TaskState.FINISHED,
        TaskState.FAILED,
        TaskState.ABORTED,
        TaskState.BROKEN,
        TaskState.EXHAUSTED,
    }
)
#: What counts against the number of tasks that a user may have (reference §4.6).
COUNTED = frozenset(
    {
        TaskState.REGISTERED,
        TaskState.DEFINED,
        TaskState.READY,
        TaskState.SCOUTING,
        TaskState.RUNNING,
        TaskState.PAUSED,
    }
)


def superstate(state: TaskState) -> str:
    """Return the coarse state that lists show (reference §5.1)."""
    if state in FINAL:
        return {TaskState.EXHAUSTED: "finished"}.get(state, state.value)
    if state in (TaskState.REGISTERED, TaskState.DEFINED, TaskState.TOINCEXEC):
        return "registered"
    if state in (TaskState.READY, TaskState.PENDING, TaskState.TORETRY):
        return "ready"
    if state is TaskState.SCOUTING:
        return "submitting"
    return "running"
