import pytest

from drayman.server.auth.secret_rules import (
    LONGEST_VALUE,
    MOST_BYTES,
    MOST_KEYS,
    key_problem,
    total_problem,
    value_problem,
)


@pytest.mark.parametrize("key", ["k", "x" * 255, "ä" * 255, "a b", "___file___:proxy", "a/b:c=d", "\U0001f600", "%s"])
def test_keys(key: str) -> None:
    assert key_problem(key) == ""


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\0b", "\x7f", "\x85", "a\tb", "\ud800"])
def test_what_is_no_key(key: str) -> None:
    assert key_problem(key)


@pytest.mark.parametrize("value", ["", "x" * 1_024_000, "ä" * 1_024_000, "line\r\nline\t\x1b", "\U0001f600"])
def test_values(value: str) -> None:
    assert value_problem(value) == ""


@pytest.mark.parametrize("value", ["x" * 1_024_001, "\0", "a\0b"])
def test_what_is_no_value(value: str) -> None:
    assert value_problem(value)


def test_no_problem_repeats_what_was_given() -> None:
    for text in ("hunter2\n", "hunter2" * 100, "hunter2\0" + "x" * LONGEST_VALUE):
        assert "hunter2" not in key_problem(text) + value_problem(text)


@pytest.mark.parametrize(
    ("keys", "size", "fits"),
    [
        (MOST_KEYS, MOST_BYTES, True),
        (1, 0, True),
        (MOST_KEYS + 1, 0, False),
        (1, MOST_BYTES + 1, False),
    ],
)
def test_totals(keys: int, size: int, fits: bool) -> None:
    assert (total_problem(keys, size) == "") is fits


def test_the_documented_limits() -> None:
    assert (MOST_KEYS, MOST_BYTES, LONGEST_VALUE) == (1000, 64 * 1024 * 1024, 1_024_000)
