"""Tokens of pages lead on in their own list, and in no other."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.platform.errors import Refusal
from drayman.server.registry.pages import DEFAULT_SIZE, LARGEST, Listing, Place, page_size

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=80)


@given(NAMES, NAMES)
def test_a_name_comes_back(scope: str, last: str) -> None:
    listing = Listing("assets", scope)
    assert listing.start(listing.token(last)) == last
    assert listing.start("") == ""


@given(st.integers(0, 8 * 10**15), st.integers(0, 2**63 - 1))
def test_a_place_comes_back(micros: int, number: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    listing = Listing("probation", "")
    assert listing.place(listing.place_token(Place(at, number))) == Place(at, number)
    assert listing.place("") is None


def test_a_token_of_another_list_is_refused() -> None:
    for ours, theirs in (
        (Listing("assets", "p"), Listing("assets", "q")),
        (Listing("assets", "p"), Listing("versions", "p")),
        (Listing("versions", "p", "a"), Listing("versions", "p")),
        (Listing("projects"), Listing("projects", "")),
    ):
        with pytest.raises(Refusal):
            ours.start(theirs.token("x"))
    with pytest.raises(Refusal):
        Listing("probation", "").place(Listing("probation", "").token("x"))
    with pytest.raises(Refusal):
        Listing("probation", "").start(Listing("probation", "").place_token(Place(datetime.now(UTC), 1)))


@given(st.text(min_size=1, max_size=200))
def test_nonsense_is_refused(token: str) -> None:
    for read in (Listing("projects").start, Listing("projects").place):
        with pytest.raises(Refusal) as caught:
            read(token)
        assert caught.value.reason == "INVALID_FIELD"


def test_sizes() -> None:
    assert (page_size(0), page_size(7), page_size(2**31 - 1)) == (DEFAULT_SIZE, 7, LARGEST)
    with pytest.raises(Refusal):
        page_size(-1)
