import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drayman.server.registry import names

ANY = st.text(st.characters(), max_size=300)
DOTTED = st.text(st.sampled_from("./\\ab\x00\né"), max_size=12)


def is_bad_text(text: str) -> bool:
    return not text or any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def is_bad_part(part: str) -> bool:
    return part in ("", ".") or part.startswith("..") or len(part.encode()) > 255


@given(ANY | DOTTED)
def test_a_name_is_refused_exactly_for_the_reasons_of_the_contract(text: str) -> None:
    bad = is_bad_text(text) or is_bad_part(text) or "/" in text or "\\" in text
    assert refused(names.check_name, text) is bad


@given(ANY | DOTTED | st.lists(DOTTED, max_size=6).map("/".join))
@example("a/" * 2047 + "aa")
@example("a/" * 2047 + "aaa")
def test_a_path_is_refused_exactly_for_the_reasons_of_the_contract(text: str) -> None:
    bad = is_bad_text(text) or len(text.encode()) > 4096 or any(map(is_bad_part, text.split("/")))
    assert refused(names.check_path, text) is bad


@pytest.mark.parametrize(
    "text", ["a", ".hidden", "a b", "é", "a+b", "g%", "x" * 255, "é" * 127, "a..", ".a..b", "~", "日本"]
)
def test_names_that_gobbler_takes_are_names(text: str) -> None:
    names.check_name(text)
    names.check_path(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (".", '"."'),
        ("..", "two dots"),
        ("...", "two dots"),
        ("..manifest", "two dots"),
        ("a\\b", "backslash"),
        ("a/b", "slash"),
        ("/", "slash"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("a\x7f", "control"),
        ("a\x85", "control"),
        ("a\udce9", "UTF-8"),
        ("x" * 256, "at most 255 bytes"),
        ("é" * 128, "at most 255 bytes"),
    ],
)
def test_a_refused_name_is_shown_with_what_would_be_accepted(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        names.check_name(text)
    message = str(caught.value)
    assert message.startswith(ascii(text[:64]))
    assert message.isascii()
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "relative"),
        ("a/../b", "two dots"),
        ("a/..b", "two dots"),
        ("a/./b", '"."'),
        ("a//b", "empty parts"),
        ("a/", "empty parts"),
        ("a/\x00", "control"),
        ("a/\ud800", "UTF-8"),
        ("a/" + "x" * 256, "at most 255 bytes"),
        ("x/" * 2048 + "x", "at most 4096 bytes"),
    ],
)
def test_a_refused_path_is_shown_with_what_would_be_accepted(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        names.check_path(path)
    assert str(caught.value).startswith(ascii(path[:64]))


@given(ANY)
def test_what_is_shown_can_travel(text: str) -> None:
    assert names.shown(text).isascii()
    assert len(names.shown(text)) <= 64 * 10 + 5


def refused(check: object, text: str) -> bool:
    assert callable(check)
    try:
        check(text)
    except ValueError:
        return True
    return False
