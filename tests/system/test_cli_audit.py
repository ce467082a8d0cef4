"""`drayman audit`: the real command on the log of real services."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    return Cli.of(stack, stack.admin[0])


@pytest.fixture(scope="module")
def user(stack: LocalStack, admin: Cli) -> str:
    """Somebody with a past: added, logged in badly and well, changed."""
    name = f"u{uuid4().hex[:12]}"
    admin.ok("user", "add", name, "--password-stdin", stdin="right\n")
    anybody = Cli(stack.url, None)
    anybody.refused("login", name, "--password-stdin", stdin="wrong\n")
    anybody.ok("login", name, "--password-stdin", stdin="right\n")
    admin.ok("user", "update", name, "--email", "ann@example.org")
    return name


def test_it_tells_what_happened_to_a_user(stack: LocalStack, admin: Cli, user: str) -> None:
    events = admin.ok("audit", "--user", user, "--json").json
    # where somebody else has an MD5 password, a wrong one is tried in both ways
    events = [event for n, event in enumerate(events) if n == 0 or not (event["refused"] and events[n - 1]["refused"])]
    assert [event["action"] for event in events] == ["USER_CHANGED", "LOGIN", "LOGIN", "USER_CREATED"]
    changed, good, bad, created = events
    assert created["actor"] == changed["actor"] == stack.admin[0]
    assert created["subject"] == changed["subject"] == good["actor"] == bad["actor"] == user
    assert (good["refused"], bad["refused"], good["method"], bad["method"]) == (False, True, "digest", "digest")
    assert bad["reason"]
    assert {good["peer"], bad["peer"]} == {"127.0.0.1"}
    assert "grpc-python" in good["client"]
    assert datetime.now(UTC) - datetime.fromisoformat(created["time"]) < timedelta(minutes=10)
    assert "right" not in json.dumps([event["detail"] for event in events])

    table = admin.ok("audit", "--user", user).out.splitlines()
    assert table[0].split() == ["time", "action", "by", "about", "result", "method", "from", "more"]
    assert len(table) >= 5
    assert "refused: LOGIN_REFUSED" in table[3]
    assert "done" in table[2]


def test_it_finds_what_is_asked_for(admin: Cli, user: str) -> None:
    def actions(*options: str) -> list[str]:
        return [event["action"] for event in admin.ok("audit", "--user", user, "--json", *options).json]

    assert set(actions("--refused")) == {"LOGIN"}
    assert actions("--action", "user_created", "--action", "USER_CHANGED") == ["USER_CHANGED", "USER_CREATED"]
    assert actions("-n", "1") == ["USER_CHANGED"]
    assert actions("--since", "1h", "-n", "1") == ["USER_CHANGED"]
    assert actions("--until", "1h") == []
    assert actions("--until", "2024-05-31") == []
    assert actions("--since", "2024-05-31T12:00:00+02:00", "--action", "LOGIN")[:2] == ["LOGIN", "LOGIN"]


def test_it_follows(admin: Cli, user: str) -> None:
    commands = [
        subprocess.Popen(
            admin.command("audit", "--follow", "--user", user, "--since", "1h", "-n", "5", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=admin.environment,
            text=True,
        )
        for options in ((), ("--json",))
    ]
    for command in commands:
        assert command.stdout is not None
        assert "USER_CREATED" in command.stdout.readline()
    admin.ok("user", "update", user, "--disable")
    for command in commands:
        assert command.stdout is not None
        assert command.stderr is not None
        with command:
            out = command.stdout.read()
            assert (command.wait(30), command.stderr.read()) == (0, "")
        assert len(out.splitlines()) == 4
    assert json.loads(out.splitlines()[-1])["action"] == "USER_CHANGED"


def test_it_is_for_administrators(stack: LocalStack, admin: Cli) -> None:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    assert "(ADMIN_ONLY)" in Cli.of(stack, name).refused("audit")
    assert "no time" in admin.refused("audit", "--since", "yesterday", code=2)
    assert "no time" in admin.refused("audit", "--since", "9999-99-99", code=2)
    assert "no duration" in admin.refused("audit", "--since", "0h", code=2)
    assert "exclude each other" in admin.refused("audit", "--follow", "--until", "1h", code=2)
    assert admin.run("audit", "-n", "0").code == 2
