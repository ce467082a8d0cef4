"""User names in distinguished names and filters, judged by ldap3's parsers."""

import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drayman.server.auth import ldap_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldap3.operation.search import AND, MATCH_EQUAL, compile_filter, parse_filter
    from ldap3.utils.dn import parse_dn

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64) | st.text(
    ' "#+,;<=>\\*()&|!{}\0a5c', min_size=1, max_size=12
)


def unescaped(value: str) -> str:
    octets, at = bytearray(), 0
    while at < len(value):
        if value[at] == "\\":
            octets.append(int(value[at + 1 : at + 3], 16))
            at += 3
        else:
            octets.append(ord(value[at]))
            at += 1
    return octets.decode()


@given(NAMES)
@example(",ou=admins")
@example("\\")
@example(" ")
@example("#04")
def test_no_user_name_changes_the_structure_of_a_dn(name: str) -> None:
    filled = ldap_names.fill("uid={username},ou=people,dc=example,dc=org", name)
    (kind, value, separator), *rest = parse_dn(filled)
    assert (kind, unescaped(value), separator) == ("uid", name, ",")
    assert rest == [("ou", "people", ","), ("dc", "example", ","), ("dc", "org", "")]


@given(NAMES)
@example("*")
@example("ann)(uid=*")
@example("\\2a")
@example(" ann ")
def test_no_user_name_changes_the_structure_of_a_filter(name: str) -> None:
    filled = ldap_names.fill("(&(uid={username})(objectClass=person))", name)
    both = parse_filter(filled, None, False, False, None, False).elements[0]
    assert both.tag == AND
    ours, other = both.elements
    assert (ours.tag, other.tag, other.assertion) == (
        MATCH_EQUAL,
        MATCH_EQUAL,
        {"attr": "objectClass", "value": b"person"},
    )
    compiled = compile_filter(ours)["equalityMatch"]
    assert (str(compiled["attributeDesc"]), bytes(compiled["assertionValue"])) == ("uid", name.encode())


def test_what_has_no_utf8_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        ldap_names.escape("a\ud800")


@pytest.mark.parametrize(
    "template",
    [
        "uid={username},ou=people,dc=example,dc=org",
        "cn={username}@EXAMPLE.ORG,ou=a b\\, c,o=\\7bX\\7D",
        "0.9.2342.19200300.100.1.1={username}+ou=x, dc=example",
        "cn=prefix-{username}",
    ],
)
def test_templates_that_will_do(template: str) -> None:
    ldap_names.check_name(template)
    # ldap3 knows no attributes by number
    parse_dn(ldap_names.fill(template.replace("0.9.2342.19200300.100.1.1", "uid"), "ann"), strip=True)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "missing"),
        ("uid=ann,dc=org", "missing"),
        ("uid={},dc=org", "missing"),
        ("uid={user},dc=org", "missing"),
        ("uid={username},ou={group}", "nothing but"),
        ("uid={{username}}", "nothing but"),
        ("{username}", "not a distinguished name"),
        ("{username}=x,dc=org", "not a distinguished name"),
        ("uid=\\{username},dc=org", "not a distinguished name"),
        ("uid=\\5{username},dc=org", "not a distinguished name"),
        ("uid=#{username},dc=org", "not a distinguished name"),
        ('uid="{username}",dc=org', "not a distinguished name"),
        ("uid={username},", "not a distinguished name"),
        ("{username}@example.org", "not a distinguished name"),
    ],
)
def test_templates_that_will_not_do(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ldap_names.check_name(template)


@pytest.mark.parametrize(
    "template",
    [
        "(uid={username})",
        "(sAMAccountName={username})",
        "(&(objectClass=person)(|(uid={username})(mail={username}@example.org))(!(loginShell=/bin/no*)))",
        "(uid:caseExactMatch:={username})",
        "(&(uid={username})(uidNumber>=1000)(description=*)(cn=\\28x\\29))",
    ],
)
def test_filters_that_will_do(template: str) -> None:
    ldap_names.check_filter(template)
    parse_filter(ldap_names.fill(template, "ann"), None, False, False, None, False)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("(uid=ann)", "missing"),
        ("(uid={username})(ou={x})", "nothing but"),
        ("uid={username}", r"expected '\('"),
        ("(uid={username}", r"expected '\)'"),
        ("(uid={username}))", "expected the end"),
        ("(uid={username})(cn=x)", "expected the end"),
        ("({username}=ann)", "attribute=value"),
        ("({username})", "attribute=value"),
        ("(&)(uid={username})", r"expected '\('"),
        ("(uid=\\{username})", r"expected '\)'"),
        ("(uid=\\5{username})", r"expected '\)'"),
        ("(uid={username}*)", "equality"),
        ("(uid=*{username})", "equality"),
        ("(uid>={username})", "equality"),
        ("(uid~={username})", "equality"),
        ("(!(uid={username}))", "equality"),
        ("(&(!(|(uid={username})))(cn=x))", "equality"),
    ],
)
def test_filters_that_will_not_do(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ldap_names.check_filter(template)
