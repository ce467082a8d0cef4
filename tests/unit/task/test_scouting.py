import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drayman.server.task.parameters import examine
from drayman.server.task.scouting import ScoutVerdict, how_many, judge_scouts

PARAMETERS = {
    "taskName": "t",
    "vo": "wlcg",
    "prodSourceLabel": "user",
    "taskType": "anal",
    "processingType": "p",
    "architecture": "",
    "transUses": "",
    "transHome": "",
    "transPath": "bash",
    "jobParameters": [],
    "noInput": True,
}


@pytest.mark.parametrize(
    ("scouts", "inputs", "expected"), [(10, 0, 0), (10, 10, 0), (10, 11, 10), (0, 100, 0), (1, 2, 1)]
)
def test_scouts_go_first_where_more_comes_after_them(scouts: int, inputs: int, expected: int) -> None:
    assert how_many(examine(PARAMETERS, task_id=1, scouts=scouts), inputs) == expected


@pytest.mark.parametrize(
    ("scouts", "finished", "failed", "live", "rate", "verdict"),
    [
        (10, 0, 0, 10, 0.5, "wait"),
        (10, 4, 0, 6, 0.5, "wait"),
        (10, 5, 0, 5, 0.5, "go_on"),
        (10, 5, 4, 1, 0.5, "go_on"),
        (10, 5, 3, 2, 0.9, "wait"),  # may still get better
        (10, 5, 5, 0, 0.9, "exhausted"),
        (10, 9, 1, 0, 0.9, "go_on"),
        (10, 3, 7, 0, 0.5, "exhausted"),
        (10, 3, 7, 0, 0.0, "go_on"),
        (10, 0, 9, 1, 0.5, "wait"),
        (10, 0, 10, 0, 0.5, "broken"),
        (10, 0, 10, 0, 0.0, "broken"),
        (10, 0, 1, 0, 0.0, "broken"),  # the other nine were cancelled
        (10, 1, 0, 0, 1.0, "go_on"),  # so they were here
        (10, 0, 0, 0, 1.0, "go_on"),  # and here, with the tenth
        (1, 0, 0, 1, 1.0, "wait"),
        (1, 1, 0, 0, 1.0, "go_on"),
        (30, 3, 27, 0, 0.1, "go_on"),
    ],
)
def test_what_scouts_say(scouts: int, finished: int, failed: int, live: int, rate: float, verdict: str) -> None:
    assert judge_scouts(scouts=scouts, finished=finished, failed=failed, live=live, success_rate=rate) == verdict


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.floats(0, 1))
def test_nobody_waits_for_nothing_and_nobody_is_condemned_early(
    scouts: int, finished: int, failed: int, live: int, rate: float
) -> None:
    assume(finished + failed + live <= scouts)
    verdict = judge_scouts(scouts=scouts, finished=finished, failed=failed, live=live, success_rate=rate)
    assert (verdict is ScoutVerdict.WAIT) <= (live > 0)
    assert (verdict in (ScoutVerdict.BROKEN, ScoutVerdict.EXHAUSTED)) <= (live == 0 and failed > 0)
    assert (verdict is ScoutVerdict.BROKEN) <= (finished == 0)
