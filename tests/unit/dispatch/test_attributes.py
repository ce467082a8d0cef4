import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.dispatch import attributes
from drayman.server.dispatch.attributes import NotAnObject

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(), VALUE, max_size=5)


@given(OBJECT, st.sampled_from([None, 2]), st.booleans())
def test_members_are_the_objects_members(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert {name: json.loads(part) for name, part in attributes.members(text).items()} == value


@given(OBJECT, OBJECT)
def test_an_overlay_is_the_union_and_what_is_over_wins(below: dict[str, Any], over: dict[str, Any]) -> None:
    merged = attributes.overlay(json.dumps(below), json.dumps(over))
    assert json.loads(merged) == below | over


@pytest.mark.parametrize("number", ["5.0", "12345678901234567890123", "1e400", "-0", "1E+2", "0.1000"])
def test_numbers_keep_their_text(number: str) -> None:
    merged = attributes.overlay(f'{{"n" : {number}}}', '{"x": 1}')
    assert attributes.members(merged)["n"] == number


@pytest.mark.parametrize("text", ["[]", "1", "null", "{", '{"a": NaN}', '{"a": 1} x', "{'a': 1}", "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(NotAnObject):
        attributes.parse(text)


@pytest.mark.parametrize(
    ("value", "retries"),
    [
        (True, True),
        (False, False),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("no", False),
        (1, True),
        (0, False),
    ],
)
def test_retry_on_timeout_takes_booleans_and_text(value: Any, retries: bool) -> None:
    assert attributes.retries_on_timeout({"retry_on_timeout": value}) is retries


def test_without_saying_so_what_times_out_is_tried_again() -> None:
    assert attributes.retries_on_timeout({})


@given(st.integers(1, 99), st.integers(0, 99))
def test_timeouts_add_up(more: int, before: int) -> None:
    text = attributes.with_timeouts(json.dumps({"timeouts": before, "a": "ü"}), more)
    assert json.loads(text) == {"timeouts": before + more, "a": "ü"}


def test_without_timeouts_nothing_is_touched() -> None:
    assert attributes.with_timeouts('{ "a":1 }', 0) == '{ "a":1 }'


@given(VALUE)
def test_what_is_searchable_has_no_nul(value: Any) -> None:
    assert "\\u0000" not in attributes.searchable(value).replace("\\\\", "")
    json.loads(attributes.searchable(value))
