"""`drayman project watch` and `add`: the real command on projects that change."""

import asyncio
import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.client import DispatchClient, Handle
from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def user(stack: LocalStack) -> str:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return name


@pytest.fixture(scope="module")
def cli(stack: LocalStack, user: str) -> Cli:
    return Cli.of(stack, user)


def create(cli: Cli, count: int, *options: str) -> str:
    names = "".join(f"live:{number}\n" for number in range(count))
    return cli.ok("project", "create", "-", "--virtual", *options, stdin=names).out.strip()


async def work(stack: LocalStack, user: str, project: str, count: int, *, fail: bool = False) -> None:
    async with DispatchClient(stack.url, stack.token(user)) as dispatch:
        for _ in range(count):
            handle = await dispatch.next_file(int(project), "w", timeout=10)
            assert isinstance(handle, Handle)
            await (dispatch.failed(handle, retry=False) if fail else dispatch.done(handle))


def follow(cli: Cli, project: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        cli.command("project", "watch", project, "--interval", "0.1", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment,
        text=True,
    )


async def line_of(command: "subprocess.Popen[str]") -> str:
    assert command.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(command.stdout.readline), 30)


async def test_a_watch_prints_what_changes_until_the_project_is_done(stack: LocalStack, user: str, cli: Cli) -> None:
    project = create(cli, 3)
    lines, records = follow(cli, project), follow(cli, project, "--json")
    assert "  active  0 done  0 failed  0 reserved  3 waiting  of 3  0/s" in await line_of(lines)
    first = json.loads(await line_of(records))
    assert first["counts"] == {"total": 3, "initial": 3, "reserved": 0, "done": 0, "failed": 0}
    assert (first["state"], first["rate"], first["estimated_end"], first["reason"]) == ("active", 0.0, None, None)
    await work(stack, user, project, 3)
    for command in (lines, records):
        out, err = command.communicate(timeout=30)
        assert (command.returncode, err) == (0, "")
        assert "done" in out.splitlines()[-1]
    assert json.loads(out.splitlines()[-1])["state"] == "done"


async def test_a_watch_says_by_its_exit_code_how_it_ended(stack: LocalStack, user: str, cli: Cli) -> None:
    project = create(cli, 1)
    await work(stack, user, project, 1, fail=True)
    assert cli.run("project", "watch", project).code == 1
    project = create(cli, 1)
    cancelled = cli.ok("project", "cancel", project, "--code", "STOP", "--message", "no more beam", "--json").json
    assert (cancelled["reason"]["code"], cancelled["reason"]["username"]) == ("STOP", user)
    assert f"STOP no more beam (by {user})" in cli.ok("project", "show", project).out
    watched = cli.run("project", "watch", project, "--json")
    assert (watched.code, watched.json["state"], watched.json["reason"]["message"]) == (1, "cancelled", "no more beam")
    assert "(PROJECT_NOT_FOUND)" in cli.refused("project", "watch", "999999999")
    assert "no duration" in cli.refused("project", "watch", project, "--interval", "0", code=2)
    project = create(cli, 1)
    command = follow(cli, project)
    await line_of(command)
    cli.ok("project", "delete", project)
    _, err = command.communicate(timeout=30)
    assert (command.returncode, err) == (1, f"drayman: project {project} was removed\n")


async def test_an_interrupt_ends_a_watch(cli: Cli) -> None:
    command = follow(cli, create(cli, 1))
    await line_of(command)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=30)
    assert (command.returncode, err.strip()) == (130, "")


def test_a_terminal_gets_a_bar(cli: Cli) -> None:
    project = create(cli, 1)
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        cli.command("project", "watch", project),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=cli.environment | {"TERM": "xterm", "COLUMNS": "150"},
    )
    os.close(theirs)
    seen = b""
    while b"1 waiting" not in seen:
        seen += os.read(ours, 4096)
    command.send_signal(signal.SIGINT)
    try:
        while more := os.read(ours, 4096):
            seen += more
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    _, err = command.communicate(timeout=30)
    assert (command.returncode, err.strip()) == (130, b"")
    assert "━" in seen.decode()
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")  # the cursor is back


async def test_files_are_added_and_lists_closed(stack: LocalStack, user: str, cli: Cli, tmp_path: Path) -> None:
    project = cli.ok(
        *("project", "create", "--virtual", "--open", "--max-attempts", "2", "--max-running", "7")
    ).out.strip()
    shown = cli.ok("project", "show", project, "--json").json
    assert (shown["max_attempts"], shown["max_running"], shown["open"]) == (2, 7, True)
    human = " ".join(cli.ok("project", "show", project).out.split())
    assert "max. attempts 2 max. running 7 open yes" in human
    added = cli.ok("project", "add", project, "-", "--file", "a:0", stdin="a:1\na:2\n")
    assert added.out == f"3 files added, project {project} is active\n"
    names = tmp_path / "names"
    names.write_text(json.dumps(["a:2", "a:3"]))
    more = ("project", "add", project, str(names), "--list-format", "json")
    assert "(DUPLICATE_FILE)" in cli.refused(*more)
    assert ", 1 were there, " in cli.ok(*more, "--skip-existing", "--file-attributes", '{"n": 1}').out
    files = cli.ok("project", "files", project, "--json").json
    assert [(file["name"], file["attributes"]) for file in files[2:]] == [("2", {}), ("3", {"n": 1})]
    await work(stack, user, project, 4)
    assert cli.ok("project", "show", project, "--json").json["state"] == "active"
    closed = cli.ok("project", "add", project, "--close", "--json").json
    assert (closed["added"], closed["skipped"], closed["project"]["state"]) == (0, 0, "done")
    assert "no files" in cli.refused("project", "add", project, code=2)
    assert "no files" in cli.refused("project", "add", project, "-", stdin="\n")
    cli.ok("project", "cancel", project)
    assert "(PROJECT_INACTIVE)" in cli.refused("project", "add", project, "--file", "a:9")
