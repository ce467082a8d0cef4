"""`drayman session`, and what `login`, `whoami` and `logout` say of sessions: the real command against real services."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture
def name(stack: LocalStack) -> str:
    made = f"u{uuid4().hex[:12]}"
    stack.add_user(made, password="secret")
    return made


@pytest.fixture
def cli(stack: LocalStack) -> Cli:
    return Cli(stack.url, None)


def log_in(cli: Cli, name: str) -> str:
    """Log in, and return the session's id."""
    session_id: str = cli.ok("login", name, "--password-stdin", "--json", stdin="secret\n").json["session_id"]
    return session_id


def test_a_login_says_how_long_it_lasts(cli: Cli, name: str) -> None:
    said = cli.ok("login", name, "--password-stdin", "--json", stdin="secret").json
    who = cli.ok("whoami", "--json").json
    assert (who["session_id"], who["method"], who["renewed"]) == (said["session_id"], "digest", True)
    for record in (said, who):
        token, session = (datetime.fromisoformat(record[key]) for key in ("expires", "session_expires"))
        assert (token - datetime.now(UTC)).total_seconds() < 3700 < (session - datetime.now(UTC)).total_seconds()
    assert "replaced before" in cli.ok("whoami").out


def test_a_token_of_an_administrator_is_not_replaced(stack: LocalStack, name: str) -> None:
    who = Cli.of(stack, name).ok("whoami", "--json").json
    assert (who["method"], who["renewed"]) == ("issued", False)


def test_sessions_are_listed_and_ended(stack: LocalStack, cli: Cli, name: str) -> None:
    first, second = log_in(cli, name), log_in(cli, name)
    found = cli.ok("session", "list", "--json").json
    assert [(each["session_id"], each["current"]) for each in found] == [(second, True), (first, False)]
    assert {each["username"] for each in found} == {name}
    out = cli.ok("session", "list").out
    assert first in out
    assert second in out
    assert cli.ok("session", "revoke", first, "--json").json == {"revoked": 1}
    assert "(SESSION_NOT_FOUND)" in cli.refused("session", "revoke", first)
    assert [each["session_id"] for each in cli.ok("session", "list", "--json").json] == [second]
    cli.refused("session", "revoke", code=2)
    cli.refused("session", "revoke", first, "--all", code=2)
    assert "(ADMIN_ONLY)" in cli.refused("session", "list", stack.admin[0])

    admin = Cli.of(stack, stack.admin[0])
    assert admin.ok("session", "list", name, "--json").json[0]["session_id"] == second
    assert admin.ok("session", "revoke", "--all", "--user", name).out == f"1 sessions of {name} ended\n"
    assert "drayman login" in cli.refused("whoami")


def test_a_logout_ends_the_session_at_the_services(stack: LocalStack, cli: Cli, name: str, tmp_path: Path) -> None:
    session_id = log_in(cli, name)
    assert cli.ok("logout").out == f"logged out of {stack.url}\n"
    admin = Cli.of(stack, stack.admin[0])
    assert session_id not in [each["session_id"] for each in admin.ok("session", "list", name, "--json").json]
    assert (tmp_path / ".token_library").read_text() == ""
    assert json.loads((tmp_path / ".token_library.sessions").read_text())["sessions"] == {}
    assert cli.ok("logout").out == f"no token was kept for {stack.url}\n"


def test_a_logout_everywhere(stack: LocalStack, cli: Cli, name: str) -> None:
    for _ in range(3):
        log_in(cli, name)
    assert cli.ok("logout", "--all").out == f"logged out of {stack.url}, 3 sessions ended\n"
    assert Cli.of(stack, stack.admin[0]).ok("session", "list", name, "--json").json == []


def test_a_logout_that_reaches_nobody_says_so_and_forgets(own_stack: LocalStack, tmp_path: Path) -> None:
    own_stack.add_user("ann", password="secret")
    cli = Cli(own_stack.url, None)
    log_in(cli, "ann")
    own_stack.kill()
    said = cli.refused("logout")
    assert "forgotten here, but not ended" in said
    assert own_stack.url in said
    assert (tmp_path / ".token_library").read_text() == ""


def test_options_that_do_not_go_together(cli: Cli) -> None:
    for words in (
        ("login",),
        ("login", "ann", "--bearer", "x"),
        ("login", "ann", "--cert", "x"),
        ("login", "ann", "--issuer", "https://x"),
        ("login", "ann", "--method", "x509"),
        ("login", "ann", "--oidc", "--cert", "x"),
    ):
        cli.refused(*words, code=2)
    assert "DRAYMAN_INSECURE_PLAINTEXT" in Cli("grpc://192.0.2.1:1", None).refused("whoami")
