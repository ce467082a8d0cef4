from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task.outcome import final_state
from drayman.server.task.task_states import FINAL, TaskState

PLAIN: dict[str, Any] = {
    "total": 10,
    "finished": 10,
    "growing": False,
    "parent_done": None,
    "parent_failed": False,
    "goal": 100.0,
    "fail_goal_unreached": False,
    "use_exhausted": False,
    "by_command": False,
    "allow_empty": False,
}


def outcome(**facts: Any) -> TaskState:
    return final_state(**(PLAIN | facts))


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "done"),
        ({"parent_done": True}, "done"),
        ({"parent_done": False}, "finished"),
        ({"growing": True}, "finished"),
        ({"parent_failed": True, "parent_done": False}, "failed"),
        ({"use_exhausted": True, "fail_goal_unreached": True}, "done"),
        ({"by_command": True}, "done"),
        ({"finished": 9}, "finished"),
        ({"finished": 1, "goal": 50.0}, "finished"),
        ({"finished": 9, "goal": 50.0}, "finished"),
        ({"finished": 9, "fail_goal_unreached": True}, "failed"),
        ({"finished": 9, "fail_goal_unreached": True, "goal": 90.0}, "finished"),
        ({"finished": 9, "fail_goal_unreached": True, "goal": 90.1}, "failed"),
        ({"finished": 9, "fail_goal_unreached": True, "by_command": True}, "finished"),
        ({"finished": 9, "use_exhausted": True}, "exhausted"),
        ({"finished": 9, "use_exhausted": True, "fail_goal_unreached": True}, "exhausted"),
        ({"finished": 9, "use_exhausted": True, "by_command": True}, "finished"),
        ({"finished": 0}, "failed"),
        ({"finished": 0, "use_exhausted": True}, "exhausted"),
        ({"finished": 0, "use_exhausted": True, "by_command": True}, "failed"),
        ({"finished": 0, "by_command": True}, "failed"),
        ({"total": 0, "finished": 0}, "failed"),
        ({"total": 0, "finished": 0, "use_exhausted": True}, "failed"),
        ({"total": 0, "finished": 0, "allow_empty": True}, "finished"),
    ],
)
def test_the_end_of_a_task(facts: dict[str, Any], state: str) -> None:
    assert outcome(**facts) == state


@given(
    st.integers(0, 50).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total))),
    st.fixed_dictionaries(
        {
            "growing": st.booleans(),
            "parent_done": st.sampled_from([None, True, False]),
            "parent_failed": st.booleans(),
            "goal": st.floats(0, 100),
            "fail_goal_unreached": st.booleans(),
            "use_exhausted": st.booleans(),
            "by_command": st.booleans(),
            "allow_empty": st.booleans(),
        }
    ),
)
def test_every_task_ends_and_done_means_all(counts: tuple[int, int], facts: dict[str, Any]) -> None:
    total, finished = counts
    state = outcome(total=total, finished=finished, **facts)
    assert state in FINAL - {TaskState.ABORTED, TaskState.BROKEN}
    assert state is not TaskState.DONE or total == finished > 0
    assert state is not TaskState.FINISHED or finished > 0 or facts["allow_empty"]
    assert state is not TaskState.EXHAUSTED or (facts["use_exhausted"] and not facts["by_command"])
