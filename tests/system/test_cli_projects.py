"""`drayman project`: the real command against real services."""

import json
import os
import signal
import socket
import subprocess
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.client import DispatchClient, Handle
from drayman.testing import LocalStack
from system.cli_runner import Cli

#: Names to the letter: blanks at the ends, markup, a bidirectional override, an escape, a line separator, no Latin letter.
ODD = " [red]a:b\u202e\x1b[0m\u2028日本 "


@pytest.fixture(scope="module")
def user(stack: LocalStack) -> str:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return name


@pytest.fixture(scope="module")
def cli(stack: LocalStack, user: str) -> Cli:
    return Cli.of(stack, user)


async def _work(stack: LocalStack, user: str, project_id: int, *, fail: bool) -> Handle:
    async with DispatchClient(stack.url, stack.token(user)) as dispatch:
        handle = await dispatch.next_file(project_id, "worker-1", timeout=10)
        assert isinstance(handle, Handle)
        await (dispatch.failed(handle, retry=False) if fail else dispatch.done(handle))
        return handle


async def test_a_projects_life(stack: LocalStack, user: str, cli: Cli, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.write_text(
        f"data:one\r\n\n{ODD}\n" + json.dumps({"namespace": "a:b", "name": "{\n", "attributes": {"n": 2**70}})
    )
    created = cli.ok(
        *("project", "create", str(files), "--file", "data:first", "--virtual", "--attributes", '{"run": 7}'),
        *("--worker-timeout", "5m", "--idle-timeout", "none", "--user", "admin", "--query", "where x"),
    )
    project = created.out.strip()
    assert project.isdigit()

    shown = cli.ok("project", "show", project, "--json").json
    assert (shown["owner"], shown["state"], shown["query"]) == (user, "active", "where x")
    assert shown["attributes"] == {"run": 7, "virtual": True}
    assert (shown["worker_timeout"], shown["idle_timeout"], shown["users"]) == (300.0, None, ["admin"])
    assert datetime.fromisoformat(shown["created"]).utcoffset() is not None
    human = cli.ok("project", "show", project).out
    assert "worker time-out  5m\n" in human
    assert '{"run": 7, "virtual": true}' in human

    listed = cli.ok("project", "files", project, "--json").json
    namespace, _, name = ODD.partition(":")
    assert [(each["namespace"], each["name"]) for each in listed] == [
        ("data", "first"),
        ("data", "one"),
        (namespace, name),
        ("a:b", "{\n"),
    ]
    assert listed[3]["attributes"] == {"n": 2**70}
    table = cli.ok("project", "files", project, "--limit", "3").out
    assert table.splitlines()[0].split() == ["handle", "state", "attempts", "reserved", "worker", "file"]
    assert len(table.split("\n")) == 5
    assert r"[red]a:b\u202e\x1b[0m\u2028日本" in table

    first = await _work(stack, user, int(project), fail=False)
    second = await _work(stack, user, int(project), fail=True)
    states = cli.ok("project", "files", project, "--not-state", "initial", "--json").json
    assert [each["state"] for each in states] == ["done", "failed"]
    assert cli.ok("project", "files", project, "--state", "reserved", "--json").json == []
    assert "1 files restarted" in cli.ok("project", "restart", project, "--failed").out
    assert cli.ok("project", "restart", project, first.did, "--json").json["restarted"] == 1
    assert cli.ok("project", "restart", project, "--all", "--json").json["restarted"] == 0
    assert "(HANDLE_NOT_FOUND)" in cli.refused("project", "restart", project, second.did, "no:such")
    assert "--done" in cli.refused("project", "restart", project, code=2)

    assert cli.ok("project", "cancel", project).out == f"project {project} is cancelled\n"
    assert cli.ok("project", "activate", project, "--json").json["state"] == "active"
    copied = cli.ok("project", "copy", project, "--attributes", '{"run": 8}', "--json").json
    assert copied["attributes"] == {"run": 8, "virtual": True}
    assert copied["counts"]["initial"] == 4
    assert cli.ok("project", "delete", project, "--json").json == {"deleted": int(project)}
    assert "(PROJECT_NOT_FOUND)" in cli.refused("project", "show", project)


def test_lists_are_filtered(stack: LocalStack, cli: Cli) -> None:
    tag = uuid4().hex
    attributes = json.dumps({"tag": tag, "n": 1})
    ids = [
        cli.ok("project", "create", "--file", "a:b", "--attributes", attributes, "--json").json["project_id"]
        for _ in range(2)
    ]
    cli.ok("project", "cancel", str(ids[0]))

    def found(*options: str, who: Cli = cli) -> list[int]:
        listed = who.ok("project", "list", "--attribute", f"tag={tag}", "--json", *options).json
        return [each["project_id"] for each in listed]

    other = Cli.of(stack, stack.admin[0])
    assert found("--attribute", "n=1") == ids
    assert found("--state", "active") == [ids[1]]
    assert found("--not-state", "active", "--all", who=other) == [ids[0]]
    assert found("--state", "any", who=other) == []
    assert found("--attribute", 'n="1"') == []
    table = cli.ok("project", "list", "--attribute", f"tag={tag}").out.splitlines()
    assert table[0].split() == ["id", "state", "done", "failed", "reserved", "total", "created", "owner"]
    assert table[1].split()[:2] == [str(ids[0]), "cancelled"]


def test_long_lists_are_streamed_and_whole_or_nothing(cli: Cli) -> None:
    tag = uuid4().hex
    names = "".join(f"long:{number}\n" for number in range(5000))
    create = ("project", "create", "-", "--attributes", json.dumps({"tag": tag}))
    project = cli.ok(*create, stdin=names).out.strip()
    assert len(cli.ok("project", "files", project, "--json").json) == 5000
    # whoever reads has had enough: not a word
    command = subprocess.Popen(
        cli.command("project", "files", project), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.environment
    )
    assert command.stdout is not None
    assert command.stderr is not None
    assert command.stdout.readline().startswith(b"handle")
    command.stdout.close()
    assert command.stderr.read() == b""
    command.stderr.close()
    command.wait(30)

    assert "line 5001: 'no colon' is no namespace:name" in cli.refused(*create, stdin=names + "no colon\n")
    assert "line 5001: not UTF-8" in cli.refused(*create, stdin=names.encode() + b"a:\xff\n")
    assert "line 1: not JSON" in cli.refused(*create, stdin='{"namespace": }')
    assert "line 1: expected" in cli.refused(*create, stdin='{"name": 1}')
    assert "(DUPLICATE_FILE)" in cli.refused(*create, stdin=names + "long:7\n")
    assert "no files" in cli.refused(*create, stdin="\n")
    assert len(cli.ok("project", "list", "--attribute", f"tag={tag}", "--json").json) == 1


def test_what_cannot_be_right_is_said_in_one_line(cli: Cli, tmp_path: Path) -> None:
    create = ("project", "create", "--file", "a:b")
    assert "(PROJECT_NOT_FOUND)" in cli.refused("project", "show", "999999999")
    assert "(PROJECT_NOT_FOUND)" in cli.refused("project", "files", "999999999")
    assert "no files" in cli.refused("project", "create", code=2)
    assert "'5 parsecs' is no duration" in cli.refused(*create, "--worker-timeout", "5 parsecs", code=2)
    assert "not JSON" in cli.refused(*create, "--attributes", "{", code=2)
    assert "JSON object" in cli.refused(*create, "--attributes", "[1]", code=2)
    assert "NaN" in cli.refused(*create, "--attributes", '{"a": NaN}', code=2)
    assert "No such file" in cli.refused(*create, "--attributes", f"@{tmp_path}/none", code=2)
    assert "No such file" in cli.refused("project", "create", str(tmp_path / "none"))
    assert "(UNKNOWN_NAME)" in cli.refused(*create, "--role", "no-such-role")


def test_no_server_and_no_url_are_said_in_one_line(cli: Cli) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{nobody.getsockname()[1]}"
        refusal = Cli(url, "token").refused("project", "show", "1")
    assert f"cannot reach {url}" in refusal
    assert "DRAYMAN_URL" in refusal
    assert "ftp://x" in Cli("ftp://x", None).refused("project", "show", "1")


def test_an_interrupt_ends_it_while_it_waits_for_its_list(cli: Cli) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as feed:  # noqa: PTH123 - a descriptor
        command = subprocess.Popen(
            cli.command("project", "create", "-"),
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cli.environment,
        )
        os.close(reading)
        # once more than a pipe holds is gone, it is reading
        line = b"a:" + b"x" * 1021 + b"\n"
        feed.writelines(line.replace(b"xxxx", b"%04d" % number, 1) for number in range(200))
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=30)
    assert command.returncode == 130
    assert out == b""
    assert err.strip() == b""
