"""Distinguished names in both spellings."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drayman.server.auth.distinguished_names import DistinguishedName, matches, parse

_TYPES = ["2.5.4.3", "2.5.4.10", "2.5.4.11", "0.9.2342.19200300.100.1.25", "0.9.2342.19200300.100.1.1", "1.2.3.4"]
_PIECES = [*'/+,;=\\"#<> \n', "/CN=", "/ CN=", "+CN=", "\\x41"]
values = st.lists(st.characters(codec="utf-8") | st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join)
attributes = st.tuples(
    st.sampled_from(_TYPES), values | st.binary(max_size=20).map(lambda raw: bytes([3, len(raw)]) + raw)
)
names = st.lists(st.lists(attributes, min_size=1, max_size=3), min_size=1, max_size=6).map(DistinguishedName.of)


@given(names)
@example(DistinguishedName.of([[("2.5.4.3", "a/CN=b")], [("2.5.4.3", "a"), ("2.5.4.10", "+CN=x")]]))
@example(DistinguishedName.of([[("2.5.4.3", " \\x41/ ")]]))
def test_both_spellings_say_the_same(name: DistinguishedName) -> None:
    assert parse(str(name)) == name
    assert parse(name.slashed) == name


@given(names)
def test_what_is_written_is_visible_and_in_one_line(name: DistinguishedName) -> None:
    assert str(name).isprintable()
    assert name.slashed.isprintable()


@given(names, names)
def test_two_names_are_never_written_alike(one: DistinguishedName, other: DistinguishedName) -> None:
    assert (one == other) == (str(one) == str(other)) == (one.slashed == other.slashed)


@given(st.text() | st.text('/,;+=\\#"CNOUDx0123456789. ', max_size=40))
def test_no_text_does_more_than_raise_value_error(text: str) -> None:
    for candidate in (text, f"/{text}", f"CN={text}", f"/CN={text}"):
        with suppress(ValueError):
            name = parse(candidate)
            assert str(parse(str(name))) == str(name)
            assert matches(name, name)


@pytest.mark.parametrize(
    ("slashed", "commas"),
    [
        ("/DC=org/DC=grid/O=Site/CN=Jane Doe", "CN=Jane Doe,O=Site,DC=grid,DC=org"),
        ("/DC=org/DC=grid/O=Site/CN=Jane Doe", "cn=Jane Doe, o = Site; dc=grid,DC=org"),
        ("/DC=org/CN=host/foo.example.org", "CN=host/foo.example.org,DC=org"),
        ("/DC=org/CN=https://foo.example.org/", r"CN=https:\/\/foo.example.org/,DC=org"),
        ("/O=Doe, Jane/CN=x", r"CN=x,O=Doe\, Jane"),
        ("/O=Doe, Jane/CN=x", 'CN=x,O="Doe, Jane"'),
        ("/O=x/CN=Jos\\xC3\\xA9", "CN=José,O=x"),
        ("/O=x/CN=Jos\\xC3\\xA9", r"CN=Jos\C3\A9,O=x"),
        ("/O=x/CN=Lučić", r"CN=Lu\C4\8Di\C4\87,O=x"),
        ("/O=x/emailAddress=j@x.org", "E=j@x.org,O=x"),
        ("/O=x/Email=j@x.org", "1.2.840.113549.1.9.1=j@x.org,O=x"),
        ("/O=x/emailaddress=j@x.org", "OID.1.2.840.113549.1.9.1=j@x.org,O=x"),
        ("/O=x/USERID=jane", "UID=jane,O=x"),
        ("/O=x/CN=Jane+UID=jane", "UID=jane+CN=Jane,O=x"),
        ("/O=C++ people/CN=a+b=c", r"CN=a\+b=c,O=C\+\+ people"),
        ("/O=x/CN=Hi", "CN=#0c024869,O=x"),
        ("/O=x/CN=Hi", "CN=#1302 4869,O=x".replace(" ", "")),
        ("/1.2.3.4=v/CN=x", "CN=x,1.2.3.4=v"),
        ("/O=x/CN=#1", r"CN=\#1,O=x"),
    ],
)
def test_spellings_of_one_name(slashed: str, commas: str) -> None:
    assert parse(slashed) == parse(commas)
    assert matches(parse(slashed), parse(commas))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("/", "after the first slash"),
        ("Jane Doe", "expected TYPE=VALUE"),
        ("/Jane Doe", "after the first slash"),
        ("CN=", "CN has no value"),
        ("/CN=/O=x", "CN has no value"),
        ("CN=a,,O=b", "expected TYPE=VALUE"),
        ("CN=a,", "expected TYPE=VALUE"),
        ("CN=a\\", "backslash"),
        ("CN=a\\z", "backslash"),
        ("CN=a<b", "must be written as"),
        ('CN="a', "closing quote"),
        ('CN="a" b', "expected a comma"),
        ("CN=#0", "hexadecimal"),
        ("CN=#0c", "no DER"),
        ("CN=#0c0548", "no DER"),
        ("CN=a\\ff", "not UTF-8"),
        ("/CN=a\\xff", "not UTF-8"),
        ("VO=atlas,CN=x", "'VO' is no attribute type"),
        ("/CN=host/port=1", "'port' is no attribute type"),
        ("CN=a\0", "NUL"),
        ("CN=\ud800", "characters that are none"),
        ("CN=" + "a" * 5000, "at most 4096"),
        (",".join(["CN=a"] * 65), "at most 64 parts"),
    ],
)
def test_what_is_wrong_is_said(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(text)


@pytest.mark.parametrize(
    ("registered", "identity"),
    [
        ("/DC=ch/CN=jdoe/CN=123456/CN=Jane Doe", "/DC=ch/CN=jdoe/CN=Jane Doe"),
        ("/O=x/CN=Jane Doe", "/O=x/CN=Jane Doe/CN=1234/CN=5678"),
        ("CN=5,CN=Jane Doe,O=x", "/O=x/CN=Jane Doe"),
        ("/O=x/CN=17", "/O=x/CN=17/CN=99"),
    ],
)
def test_numeric_common_names_are_ignored(registered: str, identity: str) -> None:
    assert matches(parse(registered), parse(identity))
    assert matches(parse(identity), parse(registered))


@pytest.mark.parametrize(
    ("registered", "identity"),
    [
        ("/O=x/CN=Jane Doe", "/O=x/CN=jane doe"),
        ("/O=x/CN=Jane Doe", "/O=x/CN=Jane Doe/CN=proxy"),
        ("/O=x/CN=Jane Doe/CN=proxy", "/O=x/CN=Jane Doe"),
        ("/O=x/CN=Jane", "CN=Jane+UID=x,O=x"),
        ("/O=x/CN=17", "/O=x/CN=18"),
        ("/O=x/CN=17", "/O=x"),
        ("/O=x/OU=17/CN=Jane", "/O=x/OU=18/CN=Jane"),
        ("/O=x/CN=a/CN=b", "CN=a\\/CN=b,O=x"),
        ("/O=x/CN=Jane", "/O=x/CN=Jane/CN=١٢"),
        ("/O=x/CN=Jane", "CN=Jane,O=y"),
        ("/O=x/CN=Jane", "O=x,CN=Jane"),
    ],
)
def test_others_do_not_match(registered: str, identity: str) -> None:
    assert not matches(parse(registered), parse(identity))


def test_the_empty_name_matches_nothing() -> None:
    nothing = DistinguishedName(())
    assert str(nothing) == ""
    assert not matches(nothing, nothing)


def test_the_form_that_is_kept() -> None:
    name = parse("/DC=org/O=Doe, Jane/CN=host/a.org/emailAddress=j@x.org")
    assert str(name) == r"emailAddress=j@x.org,CN=host/a.org,O=Doe\, Jane,DC=org"
    assert name.slashed == "/DC=org/O=Doe, Jane/CN=host/a.org/emailAddress=j@x.org"


def test_a_name_written_root_first_with_commas_is_suspected() -> None:
    assert parse("DC=org,O=x,CN=Jane").seems_reversed
    assert not parse("CN=Jane,O=x,DC=org").seems_reversed
    assert not parse("/DC=org/O=x/CN=Jane").seems_reversed
    assert not parse("CN=Jane").seems_reversed


def test_extending() -> None:
    owner = parse("/O=x/CN=Jane")
    assert parse("/O=x/CN=Jane/CN=1").extends(owner)
    assert not owner.extends(owner)
    assert not parse("/O=x/CN=Janette/CN=1").extends(owner)
