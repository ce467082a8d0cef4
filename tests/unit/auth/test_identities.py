"""Identities: one spelling for what people write in many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.auth import identities
from drayman.server.auth.distinguished_names import parse
from drayman.server.auth.identities import Identity
from drayman.server.platform.errors import Refusal

ANN = Identity("x509", "CN=Ann Doe,O=Site,DC=grid,DC=org")


@pytest.mark.parametrize(
    "text",
    [
        "/DC=org/DC=grid/O=Site/CN=Ann Doe",
        "CN=Ann Doe,O=Site,DC=grid,DC=org",
        "cn = Ann Doe , o = Site , dc = grid, dc = org",
        "DC = org, DC = grid, O = Site, CN = Ann Doe",  # as `openssl x509 -subject` prints it
        "/DC=org/DC=grid/O=Site/CN=Ann Doe/CN=12345",
        "CN=98765,CN=Ann Doe,O=Site,DC=grid,DC=org",
    ],
)
def test_every_spelling_of_a_subject_is_one_identity(text: str) -> None:
    assert identities.read_x509("add[0].x509_dn", text) == ANN


def test_registration_and_login_make_the_same_of_a_subject() -> None:
    proxy = parse("/DC=org/DC=grid/O=Site/CN=Ann Doe/CN=1234567890")
    assert identities.certificate(proxy) == ANN
    assert identities.certificate(parse("/DC=org/DC=grid/O=Site/CN=Ann Do")) != ANN


@pytest.mark.parametrize("text", ["", "Ann", "CN=", "/CN=a/XX=b\x00", "CN=Ann,", "x" * 5000, "CN=" + "é" * 1500])
def test_what_is_no_subject_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        identities.read_x509("add[3].x509_dn", text)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "add[3].x509_dn")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("uid=ann,ou=people,dc=example,dc=org", None),
        ("employeeNumber=17+cn=Ann\\, Doe, 2.5.4.11 = x", None),
        ("cn=#0403414243", None),
        ("cn=a\\20\\c3\\a9é", None),
        (" cn=ann ", "cn=ann"),
        ("cn=ann\\ ", "cn=ann\\ "),
        ("cn=ann\\\\ ", "cn=ann\\\\"),
    ],
)
def test_the_name_of_an_entry_is_kept_as_it_is(text: str, kept: str | None) -> None:
    identity = identities.read_ldap("f", text)
    assert (identity.kind, identity.name) == ("ldap", kept or text)
    assert identities.read_ldap("f", identity.name) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "/dc=org/cn=ann",
        "cn=",
        "cn= ",
        "=ann",
        "cn=ann,",
        "cn=a,,cn=b",
        "cn=a<b",
        'cn="ann"',
        "cn=a\\",
        "cn=a\\g",
        "cn=#4",
        "cn=a\nb",
        "cn=a\x00",
        "cn=" + "é" * 999,
        "cn=" + " " * 1_000_000,
    ],
)
def test_what_is_no_name_of_an_entry_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        identities.read_ldap("f", text)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "f")


def test_a_subject_of_an_issuer_is_both_of_them() -> None:
    identity = identities.read_token("f", "https://issuer.example.org/a", "ann of  somewhere ")
    assert identity == Identity("token", "https://issuer.example.org/a ann of  somewhere ")
    assert (identity.issuer, identity.subject) == ("https://issuer.example.org/a", "ann of  somewhere ")
    assert identities.read_token("f", "http://127.0.0.1:8080", "ann").issuer == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("issuer", "subject", "part"),
    [
        ("", "ann", ".issuer"),
        ("issuer.example.org", "ann", ".issuer"),
        ("http://issuer.example.org", "ann", ".issuer"),
        ("https://issuer.example.org/ ", "ann", ".issuer"),
        ("https://[", "ann", ".issuer"),
        ("https://", "ann", ".issuer"),
        ("https://é.example.org", "ann", ".issuer"),
        ("https://issuer.example.org", "", ".subject"),
        ("https://issuer.example.org", "a\nb", ".subject"),
        ("https://issuer.example.org", "a" * 2000, ""),
    ],
)
def test_what_no_token_can_say_is_refused(issuer: str, subject: str, part: str) -> None:
    with pytest.raises(Refusal) as caught:
        identities.read_token("f", issuer, subject)
    assert caught.value.field == f"f{part}"


@given(st.sampled_from(["x509", "ldap", "token"]), st.text())
def test_an_identity_is_read_as_it_was_written(kind: str, name: str) -> None:
    assert Identity.of(str(Identity(kind, name))) == Identity(kind, name)


@given(st.text())
def test_any_text_is_an_identity_or_refused(text: str) -> None:
    reasons: set[str] = set()
    for read in (identities.read_x509, identities.read_ldap):
        try:
            identity = read("f", text)
        except Refusal as refusal:
            reasons.add(refusal.reason)
        else:
            assert read("f", identity.name) == identity
            assert 0 < len(identity.name.encode()) <= 2000
    assert reasons <= {"INVALID_FIELD"}


def test_a_user_has_room_for_a_hundred() -> None:
    identities.require_room("add", [ANN] * 100)
    with pytest.raises(Refusal):
        identities.require_room("add", [ANN] * 101)
