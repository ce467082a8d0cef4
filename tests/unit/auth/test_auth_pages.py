import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.auth import pages
from drayman.server.platform.errors import Refusal

NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=":/"), min_size=1, max_size=255
)


@given(NAME)
def test_a_token_leads_to_the_name_it_was_made_of(name: str) -> None:
    token = pages.page_token(name)
    assert token.isascii()
    assert pages.page_start(token) == name


def test_no_token_is_the_first_page() -> None:
    assert pages.page_start("") == ""


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "*",
        "é",
        base64.urlsafe_b64encode(b"projects:17").decode(),
        base64.urlsafe_b64encode(b"users:\x00").decode(),
    ],
)
def test_a_token_of_another_list_is_refused(token: str) -> None:
    with pytest.raises(Refusal) as caught:
        pages.page_start(token)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "page_token")


@given(st.text(max_size=40))
def test_any_text_is_a_start_or_refused(token: str) -> None:
    field = "page_token"
    try:
        pages.page_start(token)
    except Refusal as refusal:
        field = refusal.field
    assert field == "page_token"


@pytest.mark.parametrize(("asked", "size"), [(0, 1000), (1, 1), (10_000, 10_000), (2**31 - 1, 10_000)])
def test_sizes(asked: int, size: int) -> None:
    assert pages.page_size(asked) == size


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        pages.page_size(-1)
    assert caught.value.field == "page_size"
