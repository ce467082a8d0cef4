"""`drayman worker run` and `drayman demo` as processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman.client import DispatchClient, File, Replica, Rse
from drayman.testing import LocalStack
from system.cli_runner import Cli

PATIENCE = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(stack: LocalStack) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []
    name = f"worker-{uuid4().hex[:8]}"
    stack.add_user(name, admin=True)
    environment = os.environ | {"DRAYMAN_URL": stack.url, "DRAYMAN_TOKEN": stack.token(name)}

    def start_worker(*words: str, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "drayman", *words],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        running.append(process)
        return process

    yield start_worker
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def project_of(stack: LocalStack, paths: list[Path], **options: Any) -> int:
    """Make a project of local files."""
    mark = f"T{uuid4().hex[:8]}"
    async with DispatchClient(stack.url, stack.token(stack.admin[0])) as dispatch:
        await dispatch.create_rse(Rse(mark))
        await dispatch.update_replicas([Replica(mark, path.name, mark, urls=(path.as_uri(),)) for path in paths])
        project = await dispatch.create_project([File(mark, path.name) for path in paths], **options)
    return project.project_id


async def states(stack: LocalStack, project_id: int) -> dict[str, tuple[str, int]]:
    async with DispatchClient(stack.url) as dispatch:
        return {handle.name: (handle.state, handle.attempts) async for handle in dispatch.handles(project_id)}


def files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_text(name)
    return [folder / name for name in names]


async def test_a_command_decides_by_its_exit_code(stack: LocalStack, tmp_path: Path, start: Start) -> None:
    project_id = await project_of(stack, files(tmp_path, "good", "bad {did}", "worse", "-n"))
    script = 'case "$(cat "$1")" in good|-n) echo "got $(cat "$1")";; worse) exit 3;; *) echo oops >&2; exit 1;; esac'
    results = tmp_path / "results"
    options = (
        "--project",
        str(project_id),
        "-n",
        "2",
        "--final-code",
        "3",
        "--max-attempts",
        "2",
        "--results",
        str(results),
    )
    worker = start("worker", "run", *options, "--", "sh", "-c", script, "sh", "{file}")
    _, errors = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 1, errors
    assert await states(stack, project_id) == {
        "good": ("done", 1),
        "-n": ("done", 1),
        "worse": ("failed", 1),
        "bad {did}": ("failed", 2),
    }
    found = {(r["name"], r["attempt"]): r for r in map(json.loads, results.read_text().splitlines())}
    assert found["good", 1]["output"] == "got good\n"
    assert (found["bad {did}", 1]["outcome"], found["bad {did}", 2]["outcome"]) == ("failed_retry", "failed_final")
    assert (found["bad {did}", 2]["code"], found["bad {did}", 2]["message"]) == ("exit 1", "oops")


async def test_leases_are_renewed_while_a_command_runs(stack: LocalStack, tmp_path: Path, start: Start) -> None:
    project_id = await project_of(stack, files(tmp_path, "slow"), worker_timeout=0.9)
    worker = start("worker", "run", "--project", str(project_id), "--", "sleep", "2.5")
    _, errors = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0, errors
    assert await states(stack, project_id) == {"slow": ("done", 1)}


async def test_the_first_signal_finishes_what_is_in_hand(stack: LocalStack, tmp_path: Path, start: Start) -> None:
    project_id = await project_of(stack, files(tmp_path, "a", "b"))
    begun, go = tmp_path / "begun", tmp_path / "go"
    os.mkfifo(begun)
    os.mkfifo(go)
    script = f"echo > {begun}; read x < {go}"
    worker = start("worker", "run", "--project", str(project_id), "--", "sh", "-c", script)
    begun.read_text()
    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    while "finishing" not in (line := worker.stderr.readline()):
        assert line, "it did not say that it finishes"
    go.write_text("\n")
    worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert sorted((await states(stack, project_id)).values()) == [("done", 1), ("initial", 0)]


async def test_the_second_signal_gives_back_what_is_in_hand(stack: LocalStack, tmp_path: Path, start: Start) -> None:
    project_id = await project_of(stack, files(tmp_path, "a"))
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    worker = start("worker", "run", "--project", str(project_id), "--", "sh", "-c", f"echo > {begun}; exec sleep 600")
    begun.read_text()
    worker.send_signal(signal.SIGINT)
    assert worker.stderr is not None
    while "finishing" not in (line := worker.stderr.readline()):
        assert line, "it did not say that it finishes"
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=PATIENCE)
    assert await states(stack, project_id) == {"a": ("initial", 0)}


async def test_an_idle_worker_ends_when_told(stack: LocalStack, tmp_path: Path, start: Start) -> None:
    project_id = await project_of(stack, files(tmp_path, "a"))
    async with DispatchClient(stack.url, stack.token(stack.admin[0])) as dispatch:
        await dispatch.next_file(project_id, "somebody else")
    worker = start("worker", "run", "--project", str(project_id), "--idle-timeout", "0.2")
    _, errors = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0, errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--project", "999999"), "project 999999 not found"),
        (("--project", "x"), "not a valid integer"),
        (("--project", "1", "--results", "/nonexistent/results"), "cannot write results"),
    ],
)
def test_mistakes_are_one_line(start: Start, words: tuple[str, ...], text: str) -> None:
    worker = start("worker", "run", *words, "--quiet")
    _, errors = worker.communicate(timeout=PATIENCE)
    assert worker.returncode != 0
    assert text in errors
    assert len(errors.splitlines()) == 1


def test_without_a_token_it_says_how_to_get_one(stack: LocalStack) -> None:
    done = Cli(stack.url, None).run("worker", "run", "--project", "1", "--", "true")
    assert done.code == 1
    assert "`drayman login USERNAME` gets a token" in done.err


def test_the_demo_on_odd_names(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    odd = [
        b"plain",
        b"with space",
        b"new\nline",
        b"per%cent",
        "ü€".encode(),
        b"latin-\xe9",
        b"[bold]",
        b"{name}",
        b"-x",
    ]
    for name in odd:
        (folder / os.fsdecode(name)).write_bytes(name * 1000)
    (folder / "link").symlink_to("plain")
    os.mkfifo(folder / "fifo")
    demo = start("demo", "--dir", str(folder), "--workers", "2")
    output, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, output + errors
    assert f"all {len(odd)} digests are those of a plain walk" in output


def test_the_demo_leaves_nothing_behind_when_interrupted(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    files(folder, *(str(number) for number in range(20)))
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    before = set(Path(tempfile.gettempdir()).glob("drayman-demo-*"))
    demo = start(
        "demo", "--dir", str(folder), "--workers", "2", "--command", f"sh -c 'echo > {begun}; exec sleep 600' {{file}}"
    )
    begun.read_text()
    demo.send_signal(signal.SIGINT)
    output, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130, output + errors
    assert "cleaned up" in output
    assert set(Path(tempfile.gettempdir()).glob("drayman-demo-*")) <= before


def test_the_demo_says_what_is_wrong_with_its_folder(start: Start, tmp_path: Path) -> None:
    demo = start("demo", "--dir", str(tmp_path / "none"))
    _, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert errors.startswith("drayman: ")
    assert "no such folder" in errors
