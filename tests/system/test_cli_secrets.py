"""`drayman secret`: the real command against real services."""

import base64
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.server.auth.sealing import SealingKeys
from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture
def cli(stack: LocalStack) -> Cli:
    """A new user."""
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return Cli.of(stack, name)


def test_a_secrets_life(cli: Cli) -> None:
    assert cli.ok("secret", "list", "--json").json == []
    assert cli.ok("secret", "set", "TOKEN", "hunter2").out == "secret TOKEN stored\n"
    assert cli.ok("secret", "get", "TOKEN").out == "hunter2"
    assert cli.ok("secret", "get", "TOKEN", "--json").json == {"key": "TOKEN", "file": False, "value": "hunter2"}
    stored = cli.ok("secret", "set", "Zoë", "", "--json").json
    assert stored == {"key": "Zoë", "file": False, "length": 0}
    assert cli.ok("secret", "get", "Zoë").out == ""

    titles, *rows = cli.ok("secret", "list").out.splitlines()
    assert titles.split() == ["secret", "kind", "length", "changed"]
    assert [row.split()[:3] for row in rows] == [["TOKEN", "text", "7"], ["Zoë", "text", "0"]]
    listed = cli.ok("secret", "list", "--json").json
    assert [(each["key"], each["file"], each["length"]) for each in listed] == [("TOKEN", False, 7), ("Zoë", False, 0)]
    assert datetime.now(UTC) - datetime.fromisoformat(listed[0]["changed"]) < timedelta(minutes=5)
    assert "value" not in listed[0]

    assert cli.ok("secret", "delete", "TOKEN").out == "1 secrets removed\n"
    assert cli.ok("secret", "delete", "TOKEN", "--json").json == {"deleted": 0}
    assert "no secret TOKEN" in cli.refused("secret", "get", "TOKEN")
    assert cli.ok("secret", "delete", "--all", "--json").json == {"deleted": 1}


def test_values_are_shown_only_on_request_and_cut(cli: Cli) -> None:
    value = "\x1b[31m" + "x" * 46 + "THE REST"
    cli.ok("secret", "set", "long", "--file", "-", stdin=value)
    cli.ok("secret", "set", "short", "y" * 50)
    assert "xxx" not in cli.ok("secret", "list").out + str(cli.ok("secret", "list", "--json").json)
    shown = cli.ok("secret", "list", "--values").out
    assert r"\x1b[31m" + "x" * 45 + "...\n" in shown
    assert "y" * 50 + "\n" in shown
    assert "\x1b" not in shown
    whole = cli.ok("secret", "list", "--values", "--json").json
    assert [each["value"] for each in whole] == [value, "y" * 50]
    assert cli.ok("secret", "get", "long").out == value


def test_where_values_come_from(cli: Cli, tmp_path: Path) -> None:
    for given, kept in (("piped\n", "piped"), ("two\r\n\r\n", "two\r\n"), ("none", "none"), ("\n", ""), ("", "")):
        cli.ok("secret", "set", "key", stdin=given)
        assert cli.ok("secret", "get", "key").out.encode() == kept.encode()
    (tmp_path / "value").write_bytes(b"to the byte\r\n\n")
    cli.ok("secret", "set", "key", "--file", str(tmp_path / "value"))
    assert cli.ok("secret", "get", "key", "--json").json["value"] == "to the byte\r\n\n"
    (tmp_path / "value").write_bytes(b"\xff\xfe")
    assert "--as-file" in cli.refused("secret", "set", "key", "--file", str(tmp_path / "value"))
    assert "No such file" in cli.refused("secret", "set", "key", "--file", str(tmp_path / "none"))
    assert cli.ok("secret", "get", "key", "--json").json["value"] == "to the byte\r\n\n"


def test_a_value_is_asked_for_at_a_terminal(cli: Cli) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        command = subprocess.Popen(
            cli.command("secret", "set", "typed"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=cli.environment,
            start_new_session=True,
        )
        os.close(theirs)
        said = b""
        for _ in range(2):
            while not said.endswith(b": "):
                said += terminal.read(1000)
            terminal.write(b"hunter2\n")
            said += b"\n"
        while b"stored" not in said:
            said += terminal.read(1000)
        assert command.wait(30) == 0
    assert b"hunter2" not in said
    assert cli.ok("secret", "get", "typed").out == "hunter2"


def test_a_file_secret(cli: Cli, tmp_path: Path) -> None:
    content = bytes(range(256)) * 3
    (tmp_path / "proxy").write_bytes(content)
    done = cli.ok("secret", "set", "proxy.pem", "--file", str(tmp_path / "proxy"), "--as-file", "--json").json
    assert (done["key"], done["file"]) == ("proxy.pem", True)
    assert cli.ok("secret", "list").out.splitlines()[1].split()[:2] == ["proxy.pem", "file"]
    found = subprocess.run(
        cli.command("secret", "get", "proxy.pem"), capture_output=True, env=cli.environment, timeout=60, check=True
    )
    assert found.stdout == content
    encoded = base64.b64encode(content).decode()
    assert cli.ok("secret", "get", "proxy.pem", "--json").json == {"key": "proxy.pem", "file": True, "value": encoded}
    # as PanDA's clients have it
    assert cli.ok("secret", "get", "___file___:proxy.pem").out == encoded
    cli.ok("secret", "set", "proxy.pem", "the text of the same name")
    assert cli.ok("secret", "get", "proxy.pem").out == "the text of the same name"
    assert cli.ok("secret", "delete", "proxy.pem", "--json").json == {"deleted": 2}
    assert cli.ok("secret", "list", "--json").json == []


def test_what_cannot_be_right_is_said_in_one_line(cli: Cli, tmp_path: Path) -> None:
    for arguments in (
        ("set", "key", "value", "--file", "-"),
        ("set", "key", "value", "--as-file"),
        ("set", "", "value"),
        ("delete",),
        ("delete", "key", "--all"),
    ):
        cli.refused("secret", *arguments, code=2)
    for arguments in (("set", "a\nb", "hunter2"), ("set", "k" * 256, "hunter2")):
        refusal = cli.refused("secret", *arguments)
        assert "(INVALID_FIELD)" in refusal
        assert "hunter2" not in refusal
    for size in (1_024_001, 5_000_000):
        assert "1024000 characters" in cli.refused("secret", "set", "key", stdin="x" * size)
    (tmp_path / "large").write_bytes(bytes(800_000))
    assert "1024000 characters" in cli.refused("secret", "set", "k", "--file", str(tmp_path / "large"), "--as-file")
    assert "(ADMIN_ONLY)" in cli.refused("secret", "reencrypt")
    assert "TOKEN_MISSING" in Cli(cli.environment["DRAYMAN_URL"], None).refused("secret", "list")


def test_a_new_key_for_a_running_service(own_stack: LocalStack) -> None:
    (path,) = own_stack.directory.rglob("secrets-keys")
    old = SealingKeys(path).newest
    admin = Cli.of(own_stack, own_stack.admin[0])
    own_stack.add_user("ann")
    ann = Cli.of(own_stack, "ann")
    ann.ok("secret", "set", "key", "value")

    new = admin.ok("secret", "new-key", str(path), "--json").json
    assert new == {"file": str(path), "key_id": SealingKeys(path).newest}
    assert new["key_id"] != old
    ann.ok("secret", "set", "other", "value")
    done = admin.ok("secret", "reencrypt", "--json").json
    # the first secret, a signing key and the key of nonces
    assert done == {"key_id": new["key_id"], "reencrypted": 3}
    assert admin.ok("secret", "reencrypt").out == f"0 values encrypted anew with the key {new['key_id']}\n"
    audited = admin.ok("audit", "--json").out
    assert "SECRETS_REENCRYPTED" in audited
    assert new["key_id"] in audited

    # the old key is of no use any more, and the new one is needed
    kept = path.read_text()
    path.write_text(kept.splitlines(keepends=True)[0])
    own_stack.restart()
    assert ann.ok("secret", "get", "key").out == "value"
    assert own_stack.token("ann"), "what signs tokens is there as well"
    assert "hunter2" not in own_stack.log.read_text()
    own_stack.kill()
    path.write_text(kept.splitlines(keepends=True)[1])
    with pytest.raises(Exception, match=new["key_id"]) as refused:
        own_stack.restart()
    assert "DRAYMAN_SECRETS_KEY_FILE" in str(refused.value)
    path.write_text(kept)
    own_stack.restart()
    assert ann.ok("secret", "get", "other").out == "value"


def test_new_keys_need_no_service(tmp_path: Path) -> None:
    cli = Cli("grpc://127.0.0.1:1", None)
    path = tmp_path / "keys"
    said = cli.ok("secret", "new-key", str(path)).out
    (first,) = SealingKeys(path).ids
    assert said == f"{path}: new key {first}\n"
    cli.ok("secret", "new-key", str(path))
    assert SealingKeys(path).ids > {first}
    path.chmod(0o644)
    refusal = cli.refused("secret", "new-key", str(path))
    assert "others can read" in refusal
    for line in path.read_text().splitlines():
        assert line.split()[1] not in refusal
    path.chmod(0o600)
    path.write_text("nonsense\n")
    assert "line 1" in cli.refused("secret", "new-key", str(path))
    assert path.read_text() == "nonsense\n"
