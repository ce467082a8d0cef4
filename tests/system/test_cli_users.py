"""`drayman login`, `whoami`, `user`, `role`: the real command against real services."""

import hashlib
import os
import pty
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


def _name() -> str:
    return f"u{uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    return Cli.of(stack, stack.admin[0])


def test_login_keeps_a_token_that_logout_forgets(stack: LocalStack, tmp_path: Path) -> None:
    name = _name()
    stack.add_user(name, password="kä se", roles=[f"r-{name}"])
    cli = Cli(stack.url, None)

    assert "(LOGIN_REFUSED)" in cli.refused("login", name, "--password-stdin", stdin="wrong\n")
    assert "TOKEN_MISSING" in (refusal := cli.refused("whoami"))
    assert "drayman login" in refusal
    assert "--password-stdin" in cli.refused("login", name, code=2)

    assert cli.ok("login", name, "--password-stdin", stdin="kä se\n").out.startswith(
        f"{name} is logged in at {stack.url}"
    )
    library = tmp_path / ".token_library"
    assert library.stat().st_mode & 0o777 == 0o600
    who = cli.ok("whoami", "--json").json
    assert (who["username"], who["admin"], who["roles"], who["url"]) == (name, False, [f"r-{name}"], stack.url)
    assert datetime.fromisoformat(who["expires"]) > datetime.now(UTC)
    assert name in cli.ok("whoami").out
    # one's own password, by the token that is kept
    cli.ok("user", "password", "--password-stdin", stdin="other\n")

    assert cli.ok("logout", "--json").json == {"url": stack.url, "forgotten": True, "ended": 1}
    assert library.read_text() == ""
    token = cli.ok("login", name, "--password-stdin", "--print-token", stdin="other").out
    assert token.count(".") == 2
    assert token.strip() in library.read_text()


def test_an_interrupt_ends_the_question_for_a_password(stack: LocalStack) -> None:
    cli = Cli(stack.url, None)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = subprocess.Popen(
            cli.command("login", "ann"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=cli.environment,
            start_new_session=True,
        )
        os.close(theirs)
        said = b""
        while b"Password: " not in said:
            said += terminal.read(1000)
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130


def test_a_users_life(stack: LocalStack, admin: Cli) -> None:
    name = _name()
    added = admin.ok(
        *("user", "add", name, "--password-stdin", "--role", f"r-{name}", "--create-roles"),
        *("--full-name", "Ann [bold] \u202e", "--email", "ann@example.org", "--json"),
        stdin="secret\n",
    ).json
    assert (added["admin"], added["disabled"], added["roles"]) == (False, False, [f"r-{name}"])
    # JSON to the letter, tables safe for a terminal
    assert added["full_name"] == "Ann [bold] \u202e"
    shown = admin.ok("user", "show", name).out
    assert r"Ann [bold] \u202e" in shown
    assert "\u202e" not in shown
    assert name in admin.ok("user", "list").out
    assert name in [each["username"] for each in admin.ok("user", "list", "--json").json]

    assert admin.ok("user", "update", name, "--admin", "--disable", "--json").json["disabled"] is True
    login = ("login", name, "--password-stdin")
    assert "LOGIN_REFUSED" in Cli(stack.url, None).refused(*login, stdin="secret\n")
    assert "administrator  no" in admin.ok("user", "update", name, "--no-admin", "--enable", "--email", "").out
    admin.ok("user", "password", name, "--password-stdin", stdin="new\n")
    Cli(stack.url, None).ok(*login, stdin="new\n")

    token = admin.ok("user", "token", name, "--lifetime", "1h").out.strip()
    theirs = Cli(stack.url, token)
    assert theirs.ok("user", "show", name, "--json").json["username"] == name
    assert "(ADMIN_ONLY)" in theirs.refused("user", "list")
    session = admin.ok("user", "token", name, "--lifetime", "1.5h", "--json").json
    left = datetime.fromisoformat(session["expires"]) - datetime.now(UTC)
    assert 5300 < left.total_seconds() < 5402

    assert "(USER_EXISTS)" in admin.refused("user", "add", name, "--no-password")
    assert admin.ok("user", "delete", name).out == f"user {name} removed\n"
    assert "(USER_NOT_FOUND)" in admin.refused("user", "show", name)


def test_what_cannot_be_right_is_said_in_one_line(admin: Cli) -> None:
    assert "no duration" in admin.refused("user", "token", "admin", "--lifetime", "soon", code=2)
    assert "nothing to change" in admin.refused("user", "update", "admin", code=2)
    assert "empty" in admin.refused("user", "add", _name(), "--password-stdin")
    assert "(TOKEN_INVALID)" in Cli(admin.environment["DRAYMAN_URL"], "nonsense").refused("whoami")


def test_users_come_from_htdigest_files(stack: LocalStack, admin: Cli, tmp_path: Path) -> None:
    old, new = _name(), _name()
    stack.add_user(old, password="before")

    def line(name: str, algorithm: str) -> str:
        return f"{name}:drayman:{hashlib.new(algorithm, f'{name}:drayman:imported'.encode()).hexdigest()}\n"

    users = tmp_path / "users"
    users.write_text(line(old, "sha256") + "\n" + line(new, "md5") + line(new, "sha256"))
    assert admin.ok("user", "import", str(users)).out == "1 users added, 1 changed\n"
    for name in (old, new):
        Cli(stack.url, None).ok("login", name, "--password-stdin", stdin="imported\n")
    again = admin.ok("user", "import", "-", "--json", stdin=line(new, "sha256")).json
    assert again == {"added": 0, "changed": 1}

    third = _name()
    refusal = admin.refused("user", "import", "-", stdin=line(third, "md5") + f"{third}:drayman:abc\n")
    assert "line 2" in refusal
    assert "abc" not in refusal
    assert "(USER_NOT_FOUND)" in admin.refused("user", "show", third)
    elsewhere = f"{third}:elsewhere:{'0' * 64}"
    assert f"user {third}" in admin.refused("user", "import", "-", stdin=elsewhere)
    assert "No such file" in admin.refused("user", "import", str(tmp_path / "none"))


def test_a_roles_life(stack: LocalStack, admin: Cli) -> None:
    role, ann, bob = f"r-{_name()}", _name(), _name()
    for name in (ann, bob):
        stack.add_user(name)
    assert admin.ok("role", "add", role, ann).out == f"role {role} added: {ann}\n"
    assert "(ROLE_EXISTS)" in admin.refused("role", "add", role)
    changed = admin.ok("role", "update", role, "--add", bob, "--remove", ann, "--json").json
    assert changed == {"name": role, "members": [bob]}
    assert changed in admin.ok("role", "list", "--json").json
    assert role in admin.ok("role", "list").out
    assert "(UNKNOWN_NAME)" in admin.refused("role", "update", role, "--add", "nobody-at-all")
    assert admin.ok("role", "delete", role, "--json").json == {"deleted": role}
    assert "(ROLE_NOT_FOUND)" in admin.refused("role", "delete", role)
