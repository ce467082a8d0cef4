"""The rate of a project over a sliding minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.dispatch.rate import WINDOW, Rate, seconds_left

STEPS = st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 10**9)), min_size=1, max_size=60)


@given(STEPS)
def test_it_is_never_negative_nor_more_than_what_happened(steps: list[tuple[float, int]]) -> None:
    rate = Rate()
    at = 0.0
    gained = 0
    before: int | None = None
    for wait, over in steps:
        at += wait
        gained += max(over - before, 0) if before is not None else 0
        before = over
        rate.note(at, over)
        assert rate.per_second >= 0
        assert rate.per_second <= gained / min(step for step, _ in steps) * (1 + 1e-6)
    rate.note(at + 3 * WINDOW, before or 0)
    rate.note(at + 4 * WINDOW + 1, before or 0)
    assert rate.per_second == 0  # a minute of nothing


@given(st.floats(0.1, 10), st.integers(0, 10_000), st.integers(5, 900))
def test_a_steady_pace_is_the_rate(interval: float, pace: int, notes: int) -> None:
    rate = Rate()
    for number in range(notes):
        rate.note(number * interval, number * pace)
    assert rate.per_second == pytest.approx(pace / interval)


def test_only_the_last_minute_counts() -> None:
    rate = Rate()
    assert rate.per_second == 0
    rate.note(0, 1000)
    assert rate.per_second == 0  # what was over before anybody watched did not happen now
    for second in range(1, 31):
        rate.note(second, 1000 + 10 * second)
    assert rate.per_second == pytest.approx(10)
    for second in range(31, 91):
        rate.note(second, 1300)
    assert rate.per_second == 0


def test_a_restart_takes_nothing_from_the_rate() -> None:
    rate = Rate()
    for second, over in enumerate([0, 50, 100, 20, 40, 60]):
        rate.note(second, over)
    assert rate.per_second == pytest.approx((100 + 40) / 5)


def test_the_end_is_where_the_rate_leads() -> None:
    assert seconds_left(100, 4) == 25
    assert seconds_left(0, 4) is None
    assert seconds_left(100, 0) is None
    assert seconds_left(2**62, 1e-3) is None
