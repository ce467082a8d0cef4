"""Finds tasks by what users call them: numbers, states, names (section 12.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drayman.pbook.endings import Refusal

if TYPE_CHECKING:
    from drayman.client.task_values import Task
    from drayman.pbook.desk import Desk

#: A smaller number is a reqID, which stands for all its tasks.
FIRST_TASK_ID = 10_000_000

#: State -> superstatus (section 5.1). `exhausted` waits for its user, who may let it go on.
SUPERSTATUS = {
    "registered": "registered",
    "defined": "submitting",
    "assigning": "submitting",
    "ready": "ready",
    "done": "done",
    "finished": "finished",
    "failed": "failed",
    "broken": "broken",
    "aborted": "aborted",
    "exhausted": "exhausted",
}
ENDED = ("done", "finished", "failed", "broken", "aborted", "exhausted")


def superstatus(state: str) -> str:
    """Return the coarse state: running for what is in none of the others."""
    return SUPERSTATUS.get(state, "running")


def states_of(words: Sequence[str], coarse: bool) -> list[str]:
    """Return the states that are meant; `coarse` = the words are superstatus. Raises Refusal."""
    known = _all_states()
    if not coarse:
        unknown = [word for word in words if word not in known]
        expected = known
        found = list(words)
    else:
        expected = sorted({superstatus(state) for state in known})
        unknown = [word for word in words if word not in expected]
        found = [state for state in known if superstatus(state) in words]
    if unknown:
        raise Refusal(
            f"there is no {'superstatus' if coarse else 'status'} {unknown[0]!a}: expected one of {', '.join(expected)}"
        )
    return found


def active_states() -> list[str]:
    """Return the states of tasks that are not over."""
    return [state for state in _all_states() if state not in ENDED]


async def tasks_of(desk: Desk, number: int) -> list[Task]:
    """Return the tasks that a number stands for: a small one is a reqID, or else a task; a large one a task. None of them = empty."""
    if number < FIRST_TASK_ID:
        found = [task async for task in desk.tasks.tasks(request_id=number)]
        if found:
            return sorted(found, key=lambda task: task.task_id)
    return [task async for task in desk.tasks.tasks(task_ids=[number])]


def _all_states() -> list[str]:
    from drayman.client.task_values import task_state_name  # noqa: PLC0415 - help needs none of this
    from drayman.task.v1 import task_pb2  # noqa: PLC0415 - as above

    return [task_state_name(number) for number in task_pb2.TaskState.values() if number]
