"""How a task ends once nothing of it runs any more (reference §5.2)."""

from __future__ import annotations

from drayman.server.task.task_states import TaskState


def final_state(
    *,
    total: int,
    finished: int,
    growing: bool,
    parent_done: bool | None,
    parent_failed: bool,
    goal: float,
    fail_goal_unreached: bool,
    use_exhausted: bool,
    by_command: bool,
    allow_empty: bool,
) -> TaskState:
    """Return the state of a task of which `finished` of `total` records of the primary input were processed.

    `growing` says that the input may still get more. `parent_done` is None for a task without a parent. `goal` is in per cent; that all
    of the input be processed is what `done` means, whatever the goal. `by_command` says that a finish command ended it: then the user has
    decided, and neither the goal nor `use_exhausted` count.
    """
    if total <= 0:
        return TaskState.FINISHED if allow_empty else TaskState.FAILED
    if finished >= total:
        if parent_failed:
            return TaskState.FAILED
        return TaskState.FINISHED if growing or parent_done is False else TaskState.DONE
    if use_exhausted and not by_command:
        return TaskState.EXHAUSTED
    missed = fail_goal_unreached and not by_command and finished * 100 < goal * total
    return TaskState.FAILED if finished <= 0 or missed else TaskState.FINISHED
