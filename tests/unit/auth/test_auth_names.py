import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.auth import names
from drayman.server.platform.errors import Refusal

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
GOOD = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=":/"), min_size=1, max_size=255
)


@given(GOOD)
def test_a_good_name_is_returned_as_it_is(name: str) -> None:
    assert names.check("username", name) == name


@given(TEXT)
def test_a_name_is_refused_exactly_for_the_reasons_of_the_contract(name: str) -> None:
    bad = not name or len(name) > 255 or any(c in ":/" or unicodedata.category(c) == "Cc" for c in name)
    assert bool(names.problem(name)) is bad


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "a\nb", "\x00", "a\x7f", "a\x85", "x" * 256])
def test_a_refusal_names_field_and_value_and_can_travel(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        names.check("roles[3]", name)
    refusal = caught.value
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "roles[3]")
    assert refusal.metadata["value"].startswith(ascii(name)[:60])
    assert 0 < len(refusal.details()) < 2000


def test_the_longest_name_has_255_characters() -> None:
    assert names.check("username", "ä" * 255) == "ä" * 255


@pytest.mark.parametrize("text", ["", "Ada Lovelace", "a/b: c@example.org"])
def test_texts_for_people_may_hold_more(text: str) -> None:
    assert names.check_text("full_name", text) == text


@pytest.mark.parametrize("text", ["a\x00", "two\nlines", "x" * 1001])
def test_texts_for_people_have_limits(text: str) -> None:
    with pytest.raises(Refusal):
        names.check_text("full_name", text)
