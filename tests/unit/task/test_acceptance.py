"""The whole command x state matrix, as the reference's tables (3.1, 5.3) have it: written out here once more, by hand."""

import pytest

from drayman.server.task.acceptance import ACCEPTED, Command, judge, next_state, remembered
from drayman.server.task.task_states import TaskState

STATE_NAMES = (
    "registered defined ready pending scouting running paused prepared toretry toincexec finishing aborting "
    "done finished failed aborted broken exhausted"
)
STATES = STATE_NAMES.split()

# A row for every command, a column for every state: + accepted, . refused.
#
#               reg def rdy pnd sct run pau prp rty inc fin abo don fnd fld abd brk exh
MATRIX = """
kill             +   +   +   +   +   +   +   .   +   +   +   .   .   .   .   .   .   +
finish           +   +   +   +   +   +   +   .   +   +   +   .   .   .   .   .   .   +
finish_soft      +   +   +   +   +   +   +   .   +   +   +   .   .   .   .   .   .   +
pause            +   +   +   +   +   +   .   +   +   +   +   +   .   .   .   .   .   +
resume           .   .   .   .   .   .   +   .   .   .   .   .   .   .   .   .   .   .
retry            .   .   .   .   .   .   .   .   .   .   .   .   .   +   +   .   .   +
retry_live       .   .   .   +   +   +   .   .   .   .   .   .   .   .   .   .   .   .
incexec          .   .   .   .   .   .   .   .   .   .   .   .   +   +   +   +   .   +
reload_input     .   .   .   .   .   .   .   .   .   .   .   .   +   +   +   +   .   +
reactivate       +   +   +   +   +   +   +   +   +   +   +   +   +   +   +   +   +   +
increase         .   .   +   .   +   +   .   .   .   .   .   .   .   .   .   .   .   .
avalanche        .   .   .   .   +   .   .   .   .   .   .   .   .   .   .   .   .   .
"""
EXPECTED = {
    (row.split()[0], state): mark == "+"
    for row in MATRIX.strip().splitlines()
    for state, mark in zip(STATES, row.split()[1:], strict=True)
}

# What the task becomes where it is accepted and remembers nothing. "=" it stays as it is.
BECOMES = {
    "kill": "aborting",
    "finish": "finishing",
    "finish_soft": "finishing",
    "pause": "paused",
    "resume": "ready",
    "retry": "toretry",
    "retry_live": "=",
    "incexec": "toincexec",
    "reload_input": "toincexec",
    "reactivate": "toretry",
    "increase": "=",
    "avalanche": "running",
}
# From the beginning, where the inputs were not read yet.
BECOMES_IN = {
    ("reactivate", "registered"): "registered",
    ("reactivate", "defined"): "registered",
    ("reactivate", "broken"): "registered",
    ("reactivate", "toincexec"): "toincexec",
}


def test_the_matrix_has_every_command_and_every_state() -> None:
    assert {state.value for state in TaskState} == set(STATES)
    assert {command for command, _ in EXPECTED} == {command.value for command in Command} == set(BECOMES)
    assert set(ACCEPTED) == set(Command)


@pytest.mark.parametrize(("command", "state"), sorted(EXPECTED))
def test_each_command_in_each_state(command: str, state: str) -> None:
    accepted = judge(Command(command), TaskState(state), None)
    assert accepted is EXPECTED[command, state]
    if accepted:
        expected = BECOMES_IN.get((command, state), BECOMES[command])
        assert next_state(Command(command), TaskState(state), None) == (state if expected == "=" else expected)


@pytest.mark.parametrize("old_state", STATES)
@pytest.mark.parametrize("state", STATES)
def test_a_remembered_state_counts_for_more_attempts_and_for_nothing_else(state: str, old_state: str) -> None:
    for command in Command:
        expected = EXPECTED[command.value, state]
        if command is Command.INCREASE:
            expected = state in ("ready", "scouting", "running") or old_state in ("ready", "scouting", "running")
        assert judge(command, TaskState(state), TaskState(old_state)) is expected


@pytest.mark.parametrize("old_state", STATES)
def test_resuming_leads_to_where_the_task_was(old_state: str) -> None:
    assert next_state(Command.RESUME, TaskState.PAUSED, TaskState(old_state)) == old_state


@pytest.mark.parametrize(
    ("old_state", "becomes"),
    [
        ("running", "running"),
        ("scouting", "scouting"),
        ("registered", "registered"),
        ("defined", "defined"),
        ("ready", "toretry"),
        ("prepared", "toretry"),
    ],
)
def test_retrying_an_exhausted_task_that_ran_lets_it_go_on(old_state: str, becomes: str) -> None:
    assert next_state(Command.RETRY, TaskState.EXHAUSTED, TaskState(old_state)) == becomes


def test_where_a_finished_task_came_from_does_not_matter_to_a_retry() -> None:
    assert next_state(Command.RETRY, TaskState.FAILED, TaskState.RUNNING) is TaskState.TORETRY


@pytest.mark.parametrize(
    ("state", "old_state", "becomes"),
    [
        ("paused", "registered", "registered"),
        ("pending", "defined", "registered"),
        ("paused", "toincexec", "toincexec"),
        ("paused", "running", "toretry"),
        ("exhausted", "running", "toretry"),
        ("done", None, "toretry"),
    ],
)
def test_reactivating_begins_where_there_is_something_to_begin_with(
    state: str, old_state: str | None, becomes: str
) -> None:
    old = None if old_state is None else TaskState(old_state)
    assert next_state(Command.REACTIVATE, TaskState(state), old) == becomes


@pytest.mark.parametrize("state", STATES)
def test_what_is_remembered_is_never_a_held_state(state: str) -> None:
    kept = remembered(TaskState(state), TaskState.SCOUTING)
    assert kept == ("scouting" if state in ("pending", "paused") else state)
