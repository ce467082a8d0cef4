"""`drayman user import` of a Data Dispatcher's users out of a real dump, and `drayman user identity`: the real command, real services."""

import asyncio
import csv
import hashlib
import io
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.postgres_binaries import find_installation
from drayman.testing import LocalStack
from system.cli_runner import Cli

#: As the sources of both systems declare them, and a table that holds what looks like the rows of another.
SCHEMA = """
CREATE SCHEMA metacat; SET search_path = metacat;
CREATE TABLE users (username text PRIMARY KEY, name text, email text, flags text DEFAULT '', auth_info jsonb DEFAULT '{}', auid text);
CREATE TABLE roles (name text PRIMARY KEY, parent_role text REFERENCES roles, description text);
CREATE TABLE users_roles (username text REFERENCES users, role_name text REFERENCES roles, PRIMARY KEY (username, role_name));
CREATE TABLE files (name text);
INSERT INTO files VALUES (E'COPY metacat.users (username) FROM stdin;\\nintruder\\n\\\\.'), ('INSERT INTO metacat.users VALUES (1);');
"""
ISSUER = "https://issuer.example.org"


class People:
    """Users of another deployment, with names of their own."""

    def __init__(self) -> None:
        self.mark = mark = uuid4().hex[:8]
        self.ann, self.bob, self.cid = f"ann-{mark}", f"bob {mark}", f"cid-{mark}"
        self.role, self.empty = f"role-{mark}", f"empty-{mark}"
        self.dn = f"/DC=org/DC=grid/O=Site/CN=Ann | {mark}/CN=12345"

    @staticmethod
    def ha1(name: str, realm: str = "drayman") -> str:
        return hashlib.md5(f"{name}:{realm}:imported".encode(), usedforsecurity=False).hexdigest()

    @property
    def rows(self) -> list[tuple[str, str | None, str | None, str | None, dict[str, Any] | None, str | None]]:
        ann_info = {"password": {"drayman": self.ha1(self.ann)}, "x509": [self.dn], "ssh": "key"}
        bob_info = {"password": {"elsewhere": self.ha1(self.bob, "elsewhere")}, "ldap": "uid=bob,dc=example"}
        return [
            (self.ann, 'Ann O\'Neil \\N "the" second', "ann@example.org", "a", ann_info, "1-2-3"),
            (self.bob, None, None, None, bob_info, None),
            (self.cid, "", "", "", {}, ""),
        ]

    @property
    def hashes(self) -> list[str]:
        return [self.ha1(self.ann), self.ha1(self.bob, "elsewhere")]


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    # a whole run may take longer than a token of an hour
    return Cli(stack.url, stack.token(stack.admin[0], 86_400))


def dumped(postgres: EmbeddedPostgres, people: People, folder: Path, *options: str, kind: str = "plain") -> Path:
    """Put the people into a database and dump it by the real pg_dump."""

    async def fill() -> str:
        name = f"metacat_{uuid4().hex[:8]}"
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        dsn = postgres.dsn.replace("@/drayman?", f"@/{name}?")
        connection = await asyncpg.connect(dsn)
        await connection.execute(SCHEMA)
        for username, full_name, email, flags, info, auid in people.rows:
            values = (username, full_name, email, flags, json.dumps(info), auid)
            await connection.execute("INSERT INTO users VALUES ($1, $2, $3, $4, $5, $6)", *values)
        await connection.execute("INSERT INTO roles VALUES ($1, NULL, 'x'), ($2, $1, NULL)", people.role, people.empty)
        await connection.execute(
            "INSERT INTO users_roles VALUES ($2, $1), ($3, $1)", people.role, people.ann, people.bob
        )
        await connection.close()
        return dsn

    dsn = asyncio.run(fill())
    file = folder / "users.dump"
    program = find_installation().folder / "pg_dump"
    subprocess.run([program, f"--format={kind}", *options, f"--file={file}", dsn], check=True, timeout=60)
    return file


def outcomes(reply: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {each["name"]: (each["result"], each["notes"]) for each in reply["entries"]}


@pytest.mark.parametrize(
    "options", [(), ("--column-inserts",), ("--inserts", "--rows-per-insert=10"), ("--data-only", "-t", "metacat.*")]
)
def test_a_dump_becomes_users_who_can_log_in(
    stack: LocalStack, postgres: EmbeddedPostgres, admin: Cli, people: People, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = dumped(postgres, people, tmp_path, *options)
    planned = admin.ok("user", "import", str(file), "--dry-run", "--issuer", ISSUER, "--json").json
    assert (planned["dry_run"], planned["users"]["created"], planned["roles"]["created"]) == (True, 3, 2)
    assert "(USER_NOT_FOUND)" in admin.refused("user", "show", people.ann)

    done = admin.ok("user", "import", str(file), "--issuer", ISSUER, "--json").json
    assert done == planned | {"dry_run": False}
    told = outcomes(done)
    assert told[people.ann] == ("created", ["logins by ssh are left out"])
    assert told[people.bob] == (
        "created",
        ["the MD5 hash of realm 'elsewhere' is left out: the realm here is 'drayman'"],
    )
    assert told[people.cid] == ("created", [])
    assert told[people.role] == ("created", [])
    assert told[people.empty][1] == [f"it had the parent {people.role}: roles stand for themselves here"]
    assert not [name for name in told if "intruder" in name]

    ann = admin.ok("user", "show", people.ann, "--json").json
    assert (ann["full_name"], ann["email"], ann["admin"]) == (
        people.rows[0][1],
        "ann@example.org",
        True,
    )
    assert ann["roles"] == [people.role]
    assert [(each["kind"], each["name"], each["issuer"]) for each in ann["identities"]] == [
        ("token", "1-2-3", ISSUER),
        ("token", people.ann, ISSUER),
        ("x509", f"CN=Ann | {people.mark},O=Site,DC=grid,DC=org", ""),
    ]
    bob = admin.ok("user", "show", people.bob, "--json").json
    assert {"kind": "ldap", "name": "uid=bob,dc=example", "issuer": ""} in bob["identities"]
    Cli(stack.url, None).ok("login", people.ann, "--password-stdin", stdin="imported\n")
    assert "LOGIN_REFUSED" in Cli(stack.url, None).refused("login", people.bob, "--password-stdin", stdin="imported\n")

    again = admin.ok("user", "import", str(file), "--json").json
    assert {result for result, _ in outcomes(again).values()} == {"unchanged"}
    admin.ok("user", "delete", people.ann)  # who else administers is none of the other tests' business


def test_csv_and_json_say_the_same(admin: Cli, people: People, tmp_path: Path) -> None:
    rows = [(name, "", email, "", json.dumps(info), auid) for name, _, email, _, info, auid in people.rows]
    table = io.StringIO()
    csv.writer(table).writerows([("username", "name", "email", "flags", "auth_info", "auid"), *rows])
    users = [
        {"username": name, "email": email, "auth_info": info, "auid": auid}
        for name, _, email, _, info, auid in people.rows
    ]
    replies = [
        admin.ok("user", "import", "-", "--dry-run", "--json", stdin=text).json
        for text in (table.getvalue(), json.dumps(users), "\n".join(map(json.dumps, users)))
    ]
    assert replies[0] == replies[1] == replies[2]
    assert [entry["result"] for entry in replies[0]["entries"]] == ["created"] * 3
    printed = admin.ok("user", "import", "-", "--dry-run", stdin=table.getvalue()).out
    assert "users: 3 created, 0 updated, 0 unchanged; roles: 0 created" in printed
    assert "nothing was changed: this was a dry run" in printed
    assert not [ha1 for ha1 in people.hashes if ha1 in printed]
    assert "(USER_NOT_FOUND)" in admin.refused("user", "show", people.cid)


def test_an_update_gives_and_does_not_take(stack: LocalStack, admin: Cli, people: People) -> None:
    stack.add_user(people.cid, password="secret", roles=[people.role])
    users = [{"username": people.cid, "email": "cid@example.org", "auth_info": {"x509": [people.dn]}}]
    text = json.dumps({"users": users, "users_roles": [{"username": people.cid, "role_name": people.empty}]})
    assert outcomes(admin.ok("user", "import", "-", "--json", stdin=text).json) == {
        people.cid: ("unchanged", ["exists and is left as it is"]),
        people.empty: ("created", []),
    }
    assert outcomes(admin.ok("user", "import", "-", "--update", "--json", stdin=text).json) == {
        people.cid: ("updated", []),
        people.empty: ("unchanged", []),
    }
    cid = admin.ok("user", "show", people.cid, "--json").json
    assert (cid["email"], cid["roles"], len(cid["identities"])) == (
        "cid@example.org",
        sorted([people.role, people.empty]),
        1,
    )
    Cli(stack.url, None).ok("login", people.cid, "--password-stdin", stdin="secret\n")


def test_what_cannot_be_imported_is_said_with_its_line_and_without_a_hash(
    postgres: EmbeddedPostgres, admin: Cli, people: People, tmp_path: Path
) -> None:
    ha1 = people.ha1(people.ann)
    copy = "COPY users (username, auth_info) FROM stdin;\n"
    good = f'{people.ann}\t{{"password": {{"drayman": "{ha1}"}}}}\n'
    for text, said in (
        (f"{copy}{good}a:b\t{{}}\n\\.\n", ["line 3, user a:b", "(INVALID_FIELD)"]),
        (f"{copy}{good}{ha1}\n\\.\n", ["line 3", "1 values for 2 columns"]),
        (f"{copy}{good}", ["line 1", "no end"]),
        (f"{copy}{good}x\t{ha1}\n\\.\n", ["line 3", "auth_info is not JSON"]),
        (f"{copy}{good}\\.\n{copy}{good}\\.\n", ["line 5", "twice"]),
        (
            f"{copy}{good}\\.\nCOPY users_roles (username, role_name) FROM stdin;\nnobody-at-all\t{people.role}\n\\.\n",
            ["line 5, role", "(UNKNOWN_NAME)"],
        ),
        ("-- nothing here\n", ["no table `users`"]),
        ("username,auth_info\n", ["no users"]),
        ('\n\n{"users": [}\n', ["line 3", "not JSON"]),
    ):
        refusal = admin.refused("user", "import", "-", stdin=text)
        assert [part for part in said if part not in refusal] == [], refusal
        assert ha1 not in refusal
    assert "(USER_NOT_FOUND)" in admin.refused("user", "show", people.ann)
    archive = dumped(postgres, people, tmp_path, kind="custom")
    assert "pg_restore" in admin.refused("user", "import", str(archive))
    htdigest = f"{people.ann}:drayman:{ha1}\n"
    assert "htdigest" in admin.refused("user", "import", "-", "--dry-run", stdin=htdigest, code=2)


def test_somebody_who_may_not_import(stack: LocalStack, people: People) -> None:
    stack.add_user(people.cid)
    text = json.dumps([{"username": people.ann}])
    assert "(ADMIN_ONLY)" in Cli.of(stack, people.cid).refused("user", "import", "-", stdin=text)


def test_identities_from_the_command_line(stack: LocalStack, admin: Cli, people: People, tmp_path: Path) -> None:
    stack.add_user(people.ann)
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(_certificate())
    added = admin.ok(
        *("user", "identity", "add", people.ann, "--x509", "/DC=org/CN=Ann", "--x509-cert", str(certificate)),
        *("--ldap", "uid=ann,dc=example", "--token", ISSUER, "a b", "--json"),
    ).json
    assert added == [
        {"kind": "ldap", "name": "uid=ann,dc=example", "issuer": ""},
        {"kind": "token", "name": "a b", "issuer": ISSUER},
        {"kind": "x509", "name": "CN=Ann Doe,O=Site\\, Inc.,DC=org", "issuer": ""},
        {"kind": "x509", "name": "CN=Ann,DC=org", "issuer": ""},
    ]
    own = Cli.of(stack, people.ann)
    assert own.ok("user", "identity", "list", people.ann, "--json").json == added
    assert "CN=Ann,DC=org" in own.ok("user", "identity", "list", people.ann).out
    assert f"a b of {ISSUER}" in own.ok("user", "show", people.ann).out
    assert "(ADMIN_ONLY)" in own.refused("user", "identity", "add", people.ann, "--x509", "CN=x")
    left = admin.ok(
        "user", "identity", "remove", people.ann, "--x509", "CN=Ann, DC=org", "--token", ISSUER, "a b", "--json"
    ).json
    assert left == [added[0], added[2]]
    assert "(INVALID_FIELD)" in admin.refused("user", "identity", "add", people.ann, "--ldap", "ann")
    assert "which identity" in admin.refused("user", "identity", "add", people.ann, code=2)
    certificate.write_text("nothing")
    assert "no certificate" in admin.refused("user", "identity", "add", people.ann, "--x509-cert", str(certificate))


def test_a_user_is_disabled_and_enabled(stack: LocalStack, admin: Cli, people: People) -> None:
    stack.add_user(people.ann, password="secret")
    login = ("login", people.ann, "--password-stdin")
    assert admin.ok("user", "disable", people.ann).out == f"user {people.ann} disabled\n"
    assert "LOGIN_REFUSED" in Cli(stack.url, None).refused(*login, stdin="secret\n")
    assert admin.ok("user", "enable", people.ann, "--json").json["disabled"] is False
    Cli(stack.url, None).ok(*login, stdin="secret\n")


def test_members_of_a_role(stack: LocalStack, admin: Cli, people: People) -> None:
    for name in (people.ann, people.bob):
        stack.add_user(name)
    admin.ok("role", "add", people.role)
    assert admin.ok("role", "show", people.role).out.split() == ["role", people.role, "members"]
    admin.ok("role", "members", "add", people.role, people.ann, people.bob)
    assert admin.ok("role", "members", "list", people.role).out == f"{people.ann}\n{people.bob}\n"
    changed = admin.ok("role", "members", "remove", people.role, people.ann, "--json").json
    assert changed == {"name": people.role, "members": [people.bob]}
    assert admin.ok("role", "show", people.role, "--json").json == changed
    assert admin.ok("role", "members", "list", people.role, "--json").json == [people.bob]
    assert "(ROLE_NOT_FOUND)" in admin.refused("role", "show", "none-at-all")


def _certificate() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "org"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Site, Inc."),
            x509.NameAttribute(NameOID.COMMON_NAME, "Ann Doe"),
        ]
    )
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM)
