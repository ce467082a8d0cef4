from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.dispatch import lifecycle
from drayman.server.dispatch.lifecycle import AFTER, HandleState, Holding, Outcome, ProjectState

STATE = st.sampled_from(ProjectState)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    files = draw(st.integers(0, 50))
    done = draw(st.integers(0, files))
    return files, done, draw(st.integers(0, files - done))


def test_every_outcome_leads_somewhere() -> None:
    assert AFTER.keys() == set(Outcome)
    assert HandleState.RESERVED not in AFTER.values()


@given(STATE, counts())
def test_a_report_ends_a_project_exactly_when_nothing_is_left(state: ProjectState, c: tuple[int, int, int]) -> None:
    after = lifecycle.after_report(state, *c)
    if state in lifecycle.ENDED:
        assert after is state  # cancelled, done and failed projects keep their state
    elif lifecycle.is_over(*c):
        assert after is (ProjectState.FAILED if c[2] else ProjectState.DONE)
    else:
        assert after is ProjectState.ACTIVE  # an abandoned one included


@given(STATE, counts())
def test_only_what_hands_out_can_still_give(state: ProjectState, c: tuple[int, int, int]) -> None:
    if lifecycle.hands_out(state, *c):
        assert state not in lifecycle.ENDED
        assert c[1] + c[2] < c[0]


@given(counts())
def test_activating_is_never_refused_and_never_leaves_a_finished_project_active(c: tuple[int, int, int]) -> None:
    for state in set(ProjectState) - {ProjectState.ACTIVE}:
        after = lifecycle.after_activate(state, *c)
        assert (after is ProjectState.ACTIVE) == (not lifecycle.is_over(*c))


@given(STATE, counts())
def test_restarting_nothing_changes_nothing(state: ProjectState, c: tuple[int, int, int]) -> None:
    assert lifecycle.after_restart(state, *c, restarted=0) is state


@given(STATE)
def test_restarting_revives(state: ProjectState) -> None:
    assert lifecycle.after_restart(state, 2, 1, 0, restarted=1) is ProjectState.ACTIVE


def test_an_empty_project_never_ends_and_gives_nothing() -> None:
    assert not lifecycle.is_over(0, 0, 0)
    assert lifecycle.after_report(ProjectState.ACTIVE, 0, 0, 0) is ProjectState.ACTIVE
    assert not lifecycle.hands_out(ProjectState.ACTIVE, 0, 0, 0)


ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("holding", "attempt", "request_id", "reason"),
    [
        (None, 0, None, "HANDLE_NOT_FOUND"),
        (Holding(HandleState.INITIAL, 1, None, None), 1, None, "NOT_RESERVED"),
        (Holding(HandleState.DONE, 1, "me", None), 1, None, "NOT_RESERVED"),
        (Holding(HandleState.DONE, 1, "me", ONE), 1, ONE, None),
        (Holding(HandleState.DONE, 1, "me", ONE), 1, TWO, "NOT_RESERVED"),
        (Holding(HandleState.DONE, 1, "other", ONE), 1, ONE, "NOT_RESERVED"),
        (Holding(HandleState.RESERVED, 1, "other", None), 1, None, "WRONG_WORKER"),
        (Holding(HandleState.RESERVED, 1, "other", ONE), 1, ONE, "WRONG_WORKER"),
        (Holding(HandleState.RESERVED, 2, "me", None), 1, None, "STALE_ATTEMPT"),
    ],
)
def test_why_a_report_is_refused(
    holding: Holding | None, attempt: int, request_id: UUID | None, reason: str | None
) -> None:
    assert lifecycle.why_refused(holding, "me", attempt, request_id) == reason
