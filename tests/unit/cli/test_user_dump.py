"""What the tables of Data Dispatcher and MetaCat mean, in each of the formats they come in."""

import json
from typing import Any

import pytest

from drayman.cli import user_dump
from drayman.cli.sql_dump import DumpError, Row
from drayman.cli.user_dump import Dump, DumpedUser
from drayman.client.users import Identity, Secret

MD5 = "0123456789abcdef" * 2
SHA = "0123456789abcdef" * 4
DN = "/DC=org/DC=grid/O=Site/CN=Ann Doe"


def lines(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.split("\n"), 1))


def read(text: str, **options: Any) -> Dump:
    return user_dump.read_tables(user_dump.read_json(text), **options)


def user(auth_info: object = None, /, realm: str = "", issuers: tuple[str, ...] = (), **columns: object) -> DumpedUser:
    row = {"username": "ann", "auth_info": auth_info, **columns}
    return user_dump.read_tables({"users": [Row("line 7", row)]}, realm, issuers).users[0]


def test_a_user_with_everything() -> None:
    found = user(
        json.dumps({"password": {"metacat": MD5.upper(), "dune": MD5}, "x509": [DN, " CN=x "], "ldap": "uid=ann,dc=x"}),
        name=" Ann Doe ",
        email="ann@example.org",
        flags="a",
        auid="1-2, 3-4,",
        issuers=("https://one.example.org", "https://two.example.org"),
    )
    assert (found.where, found.notes) == ("line 7", ())
    ann = found.user
    assert (ann.username, ann.full_name, ann.email, ann.admin) == ("ann", "Ann Doe", "ann@example.org", True)
    assert ann.secrets == (Secret("MD5", "metacat", MD5), Secret("MD5", "dune", MD5))
    assert ann.identities == (
        Identity("x509", DN),
        Identity("x509", "CN=x"),
        Identity("ldap", "uid=ann,dc=x"),
        # a token may name the user or their anonymous id
        *(
            Identity("token", subject, issuer)
            for issuer in ("https://one.example.org", "https://two.example.org")
            for subject in ("ann", "1-2", "3-4")
        ),
    )


@pytest.mark.parametrize(
    ("info", "realm", "secrets", "notes"),
    [
        (None, "", [], 0),
        ("", "", [], 0),
        ("{}", "", [], 0),
        ({"password": None, "ldap": None, "x509": []}, "", [], 0),
        ({"password": {"r": SHA}}, "", [("SHA-256", "r")], 0),
        ({"digest": {"r": MD5}}, "", [("MD5", "r")], 0),
        ({"password": [MD5]}, "", [], 1),
        ({"password": [MD5, SHA]}, "r", [("MD5", "r"), ("SHA-256", "r")], 0),
        ({"password": MD5}, "r", [("MD5", "r")], 0),
        ({"password": {"r": MD5, "": MD5[::-1]}}, "r", [("MD5", "r")], 0),
        ({"password": {"r": "secret"}}, "", [], 1),
        ({"password": {"r": MD5[:-1] + "g"}}, "", [], 1),
        ({"password": ["secret" * 8]}, "r", [], 1),
        ({"password": {"r": 17, "s": [MD5]}}, "", [], 2),
    ],
)
def test_hashes_are_taken_with_their_realm(
    info: object, realm: str, secrets: list[tuple[str, str]], notes: int
) -> None:
    found = user(info, realm=realm)
    assert [(each.algorithm, each.realm) for each in found.user.secrets] == secrets
    assert len(found.notes) == notes
    assert "secret" not in str(found.notes)
    assert MD5 not in repr(found)


def test_what_means_nothing_here_is_left_out_with_a_note() -> None:
    found = user({"ssh": "key", "x509": [17], "ldap": {"a": 1}, "scitoken": None}, flags="xa", auid="1-2")
    assert found.notes == (
        "flags 'x' mean nothing here",
        "logins by ssh are left out",
        "an entry of x509 is left out: it is no distinguished name",
        "an entry of ldap is left out: it is no distinguished name",
        "the anonymous id is left out: --issuer says whose tokens have it as their subject",
    )
    assert found.user.admin
    assert found.user.identities == ()


def test_roles_come_from_every_table_that_has_them() -> None:
    dump = user_dump.read_tables(
        {
            "users": [Row("line 1", {"username": "ann", "roles": ["calibration"]}), Row("line 2", {"username": "bob"})],
            "roles": [
                Row("line 4", {"name": "production", "description": "x", "parent_role": "all"}),
                Row("line 5", {"name": "old", "users": '{ann,"b\\"o, b"}'}),
            ],
            "users_roles": [
                Row("line 7", {"username": "bob", "role_name": "production"}),
                Row("line 8", {"username": "ann", "role_name": "production"}),
                Row("line 9", {"username": "ann", "role_name": "unlisted"}),
            ],
        }
    )
    assert [(each.role.name, each.role.members, each.where) for each in dump.roles] == [
        ("calibration", ("ann",), "line 1"),
        ("old", ("ann", 'b"o, b'), "line 5"),
        ("production", ("ann", "bob"), "line 4"),
        ("unlisted", ("ann",), "line 9"),
    ]
    assert dump.roles[2].member_places == ("line 8", "line 7")
    assert dump.roles[2].notes == ("it had the parent all: roles stand for themselves here",)


def test_older_tables_keep_logins_apart() -> None:
    dump = user_dump.read_tables(
        {
            "users": [Row("line 1", {"username": "ann", "auth_info": {"x509": [DN]}})],
            "authenticators": [
                Row("line 3", {"username": "ann", "type": "x509", "secrets": f'{{"{DN}","CN=other"}}'}),
                Row("line 4", {"username": "ann", "type": "password", "issuer": "r", "user_info": f'"{MD5}"'}),
                Row("line 5", {"username": "gone", "type": "ldap", "user_info": '"cn=x"'}),
            ],
        }
    )
    (ann,) = dump.users
    assert ann.user.identities == (Identity("x509", DN), Identity("x509", "CN=other"))
    assert ann.user.secrets == (Secret("MD5", "r", MD5),)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"username": None}, "line 7: username is missing"),
        ({"username": "ann", "auth_info": f"{{{MD5}"}, "line 7: auth_info is not JSON"),
        ({"username": "ann", "auth_info": f'["{MD5}"]'}, "line 7: auth_info is no JSON object"),
        ({"username": "ann", "auth_info": "[" * 100_000}, "line 7: auth_info is not JSON"),
        ({"username": "ann", "email": 17}, "line 7: email is no text"),
        ({"username": "ann", "roles": "one"}, "line 7: roles is no array of texts"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row: dict[str, object], problem: str) -> None:
    with pytest.raises(DumpError) as caught:
        user_dump.read_tables({"users": [Row("line 7", row)]})
    assert str(caught.value) == problem


def test_a_user_or_role_is_there_once() -> None:
    twice = [Row("line 1", {"username": "ann", "name": "ann"}), Row("line 2", {"username": "ann", "name": "ann"})]
    with pytest.raises(DumpError, match="line 2: user ann occurs twice, first at line 1"):
        user_dump.read_tables({"users": twice})
    with pytest.raises(DumpError, match="line 2: role ann occurs twice"):
        user_dump.read_tables({"users": [], "roles": twice})
    with pytest.raises(DumpError, match="no table `users`"):
        user_dump.read_tables({"roles": []})


# --- CSV ----------------------------------------------------------------------------------------------------------------


def test_csv_is_the_users_table() -> None:
    text = f"""\ufeffusername,name,email,flags,auth_info,auid
ann,"Doe, ""Ann""
the second",,a,"{{""password"": {{""r"": ""{MD5}""}}}}",

bob,,,,,
"""
    dump = user_dump.read_tables(user_dump.read_csv(lines(text)))
    assert [(each.where, each.user.username, each.user.full_name) for each in dump.users] == [
        ("line 2", "ann", 'Doe, "Ann"\nthe second'),
        ("line 5", "bob", ""),
    ]
    assert dump.users[0].user.secrets == (Secret("MD5", "r", MD5),)
    assert user_dump.read_csv(lines('"username";"name"\nann;Ann'))["users"][0].values == {
        "username": "ann",
        "name": "Ann",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: expected a header"),
        ("name,email\nann,x", "line 1: expected a header"),
        ("\nusername,username\nann,x", "line 2: expected a header"),
        (f"username,auth_info\nann,x\n{MD5}", "line 3: 1 values for 2 columns"),
        (f'username,auth_info\n\nann,"{MD5}\n', "line 3: not CSV"),
        (f'username,auth_info\nann,"x"{MD5}\n', "line 2: not CSV"),
    ],
)
def test_csv_that_cannot_be_read(text: str, problem: str) -> None:
    with pytest.raises(DumpError) as caught:
        user_dump.read_csv(lines(text))
    assert str(caught.value).startswith(problem)
    assert MD5 not in str(caught.value)


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_json_comes_in_several_shapes() -> None:
    ann, bob = {"username": "ann", "auth_info": {"password": {"r": MD5}}, "roles": ["x"]}, {"username": "bob"}
    shapes = [
        json.dumps([ann, bob]),
        json.dumps({"users": [ann, bob], "roles": None}, indent=2),
        f"{json.dumps(ann)}\n\n{json.dumps(bob)}\n",
    ]
    for shape in shapes:
        dump = read(shape)
        assert [(each.where, each.user.username) for each in dump.users] == [("users[0]", "ann"), ("users[1]", "bob")]
        assert [each.role.members for each in dump.roles] == [("ann",)]
    assert [each.user.username for each in read(json.dumps(ann)).users] == ["ann"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'[\n{{"username": "{MD5}"\n]', "line 3: not JSON"),
        (f'"{MD5}"', "the dump: expected an array or an object"),
        (f'{{"{MD5}": 1}}', "the dump: expected an array of users"),
        (f'["{MD5}"]', "users[0]: expected an object"),
        ('{"users": {}}', "users: expected an array"),
        ('{"users": [], "roles": [1]}', "roles[0]: expected an object"),
        ("[" * 100_000, "the dump: "),
        ("[" + "1" * 5000 + "]", "the dump: not JSON"),
    ],
)
def test_json_that_cannot_be_read(text: str, problem: str) -> None:
    with pytest.raises(DumpError) as caught:
        read(text)
    assert str(caught.value).startswith(problem)
    assert MD5 not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("--", "sql"),
        ("COPY public.users (username) FROM stdin;", "sql"),
        ("INSERT INTO users VALUES ('a');", "sql"),
        ("\\restrict x", "sql"),
        ('{"users": []}', "json"),
        ("  [", "json"),
        ("username,name,email", "csv"),
        ('\ufeff"name";"username"', "csv"),
        (f"ann:realm:{MD5}", "htdigest"),
        (f"set up:realm:{MD5}", "htdigest"),
        ("# a comment", "htdigest"),
        ("", "htdigest"),
        ("anything", "htdigest"),
    ],
)
def test_a_file_is_what_its_first_line_looks_like(line: str, kind: str) -> None:
    assert user_dump.guess_format(line) == kind
