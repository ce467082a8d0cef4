"""Which command a task accepts in which state, and what it becomes by it (reference §3.1, §5.3): the one table.

Where the reference tells of two generations, the newer rules: a task that is finishing can be killed or finished by force, and an
aborted one cannot be retried (with new parameters, or by reading its inputs anew, it can).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from drayman.server.task.task_states import TaskState


class Command(StrEnum):
    """What can be asked of a task."""

    KILL = "kill"
    FINISH = "finish"
    FINISH_SOFT = "finish_soft"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"  # without new parameters
    RETRY_LIVE = "retry_live"  # of a task that is not over
    INCEXEC = "incexec"  # retry, or submission under a name that was used, with new parameters
    RELOAD_INPUT = "reload_input"
    REACTIVATE = "reactivate"
    INCREASE = "increase"
    AVALANCHE = "avalanche"


_ALL = frozenset(TaskState)
_ENDING = _ALL - {
    TaskState.FINISHED,
    TaskState.DONE,
    TaskState.PREPARED,
    TaskState.BROKEN,
    TaskState.ABORTED,
    TaskState.ABORTING,
    TaskState.FAILED,
}
_AGAIN = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.DONE, TaskState.ABORTED, TaskState.EXHAUSTED})

#: The states in which a command is accepted. For INCREASE it is enough that the remembered state is one of them.
ACCEPTED: Mapping[Command, frozenset[TaskState]] = {
    Command.KILL: _ENDING,
    Command.FINISH: _ENDING,
    Command.FINISH_SOFT: _ENDING,
    Command.PAUSE: _ALL
    - {
        TaskState.FINISHED,
        TaskState.FAILED,
        TaskState.DONE,
        TaskState.ABORTED,
        TaskState.BROKEN,
        TaskState.PAUSED,
    },
    Command.RESUME: frozenset({TaskState.PAUSED}),
    Command.RETRY: frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.EXHAUSTED}),
    Command.RETRY_LIVE: frozenset({TaskState.RUNNING, TaskState.SCOUTING, TaskState.PENDING}),
    Command.INCEXEC: _AGAIN,
    Command.RELOAD_INPUT: _AGAIN,
    Command.REACTIVATE: _ALL,
    Command.INCREASE: frozenset({TaskState.RUNNING, TaskState.SCOUTING, TaskState.READY}),
    Command.AVALANCHE: frozenset({TaskState.SCOUTING}),
}

#: What a command makes of a task, whatever state it is in. The others look at the state.
_BECOMES: Mapping[Command, TaskState] = {
    Command.KILL: TaskState.ABORTING,
    Command.FINISH: TaskState.FINISHING,
    Command.FINISH_SOFT: TaskState.FINISHING,
    Command.PAUSE: TaskState.PAUSED,
    Command.INCEXEC: TaskState.TOINCEXEC,
    Command.RELOAD_INPUT: TaskState.TOINCEXEC,
    Command.AVALANCHE: TaskState.RUNNING,
}

#: The input lists of such a task were not read yet: there is nothing that could be tried again.
_WITHOUT_INPUTS = frozenset({TaskState.REGISTERED, TaskState.DEFINED})
#: What an exhausted task just returns to.
_GOES_ON = _WITHOUT_INPUTS | {TaskState.RUNNING, TaskState.SCOUTING}


def judge(command: Command, state: TaskState, old_state: TaskState | None) -> bool:
    """Return whether a task in `state`, which remembers `old_state`, accepts a command."""
    accepted = ACCEPTED[command]
    return state in accepted or (command is Command.INCREASE and old_state in accepted)


def next_state(command: Command, state: TaskState, old_state: TaskState | None) -> TaskState:
    """Return what becomes of a task that accepted a command.

    A retry or a reactivation begins with `toretry`: inputs are set back before there are jobs. Tasks that did not come so far as to read
    their inputs begin there instead, and an exhausted one that scouted or ran goes on (reference §5.4).
    """
    if command in _BECOMES:
        return _BECOMES[command]
    before = old_state if state in (TaskState.PAUSED, TaskState.PENDING, TaskState.EXHAUSTED) else state
    match command:
        case Command.RESUME:
            return old_state or TaskState.READY
        case Command.RETRY:
            return before if before in _GOES_ON else TaskState.TORETRY
        case Command.REACTIVATE:
            if before in _WITHOUT_INPUTS or state is TaskState.BROKEN:
                return TaskState.REGISTERED
            return TaskState.TOINCEXEC if before is TaskState.TOINCEXEC else TaskState.TORETRY
        case _:
            return state


def remembered(state: TaskState, old_state: TaskState | None) -> TaskState | None:
    """Return what a task must remember when it is held, so that resuming leads there.

    A task that waits remembers already where to go on: that stays, and it will wait again if it has to.
    """
    return old_state if state in (TaskState.PENDING, TaskState.PAUSED) else state
