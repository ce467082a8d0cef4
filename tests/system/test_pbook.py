"""`pbook`: the real command against real services."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from drayman.pbook.program import run
from drayman.testing import LocalStack
from system.cli_runner import Cli
from system.pilot_process import pilot


class Pbook:
    """`pbook` as one user, in a folder of its own."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.user = f"u{uuid4().hex[:12]}"
        stack.add_user(self.user)
        self.cli = Cli.of(stack, self.user)
        self.folder = folder

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run it in this process: it is run often."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.cli.environment, clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(list(words))
        return code, out.getvalue(), err.getvalue()

    def process(self, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """Run it in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "drayman.pbook", *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.cli.environment,
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: str) -> str:
        code, out, err = self.run(*words)
        assert (code, err) == (0, ""), (out, err)
        return out

    def failed(self, *words: str) -> str:
        """Run it; it must say what was not done, and end with 1."""
        code, out, err = self.run(*words)
        assert code == 1, (out, err)
        return out + err

    def json(self, *words: str) -> Any:
        return json.loads(self.ok("show", *words, "format=json"))

    def task(self, *words: str, command: str = "true", **more: Any) -> int:
        """Submit a task without jobs that anybody runs, unless a site is given."""
        record = {"exec": command, "outDS": f"user.{self.user}.{uuid4().hex[:8]}", "site": "NOWHERE", **more}
        path = self.folder / "options.json"
        path.write_text(json.dumps(record))
        arguments = ["run", "--loadJson", str(path), "--workDir", str(self.folder), "--no-follow", "--json", *words]
        return int(self.cli.ok(*arguments, "--excludeFile", "*").json["task_id"])

    def await_state(self, task_id: int, *states: str) -> None:
        command = self.cli.command("task", "watch", str(task_id), "--json", "--interval", "0.2s")
        with subprocess.Popen(command, env=self.cli.environment, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            seen = []
            for line in watch.stdout:
                seen.append(json.loads(line)["state"])
                if seen[-1] in states:
                    watch.kill()
                    return
        pytest.fail(f"{seen} has none of {states}")

    def state(self, task_id: int) -> str:
        return str(self.json(str(task_id))[0]["status"])


@pytest.fixture
def pbook(stack: LocalStack, tmp_path: Path) -> Pbook:
    return Pbook(stack, tmp_path)


@pytest.fixture
def working(pbook: Pbook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A pilot at the site HERE."""
    with pilot(pbook.cli, tmp_path_factory.mktemp("pilot"), "--site", "HERE"):
        yield


def test_what_is_shown(pbook: Pbook) -> None:
    assert pbook.json() == []
    first, second = pbook.task(), pbook.task(nJobs=3)
    titles, _, *rows = pbook.ok("show").splitlines()
    assert titles.split() == ["JediTaskID", "ReqID", "Status", "Progress", "TaskName"]
    assert [row.split()[0] for row in rows] == [str(second), str(first)]
    name = rows[0].split()[4]
    assert rows[0].split()[3] == "0%"

    pbook.await_state(second, "running", "scouting")
    titles, _, row = pbook.ok("showl", str(second)).splitlines()
    assert titles.split()[-3:] == ["Done|Failed|Total", "TaskName", "URL"]
    assert row.split()[-3:] == ["0|0|3", name, "-"]
    assert pbook.ok("show", f"taskname={name}", "format=plain").startswith(f"{second} {second} ")
    (record,) = pbook.json(f"{second},{second}")
    assert (record["jeditaskid"], record["reqid"], record["taskname"]) == (second, second, name)
    assert record["superstatus"] == "running"
    assert record["dsinfo"]["nfiles"] == 3

    def ids(*words: str) -> list[int]:
        return [task["jeditaskid"] for task in pbook.json(*words)]

    assert ids("run") == ids() == ids(f"[{first}, {second}]") == [second, first]
    assert ids("fin") == ids("status=done") == ids("superstatus=finished,failed") == []
    assert ids("limit=1") == ids(f"jeditaskid={second}") == ids(f"reqid={second}") == [second]
    assert ids("taskname=*" + name[-8:]) == [second]
    assert ids("username=nobody") == []
    assert "[]" in pbook.failed("show", "999999999", "format=json")
    assert "[]" in pbook.failed("show", str(10**12), "format=json")


def test_somebody_elses_tasks(pbook: Pbook, stack: LocalStack, tmp_path: Path) -> None:
    task_id = pbook.task()
    stranger = Pbook(stack, tmp_path)
    assert stranger.json() == []
    assert stranger.state(task_id) == pbook.state(task_id)
    assert "[False]" in stranger.failed("kill", str(task_id))
    assert stranger.ok("kill", "all") == "there are no such tasks\n[]\n"
    assert len(stranger.json(f"username={pbook.user}")) == 1


def test_commands(pbook: Pbook) -> None:
    first, second = pbook.task(), pbook.task()
    for task_id in (first, second):
        pbook.await_state(task_id, "running", "scouting", "ready")
    out = pbook.ok("pause", f"{first},{second}")
    assert out.endswith("[True, True]\n")
    assert out.startswith(f"JediTaskID={first}: ")
    assert pbook.state(first) == "paused"
    assert "[False]" in pbook.failed("pause", str(first))
    assert "[False]" in pbook.failed("retry", str(first), "nFiles=1")
    assert "[True]" in pbook.ok("-c", f"resume({first})")
    assert "[True]" in pbook.ok("retry", str(first))
    assert "there is no such task" in pbook.failed("kill", "9999999")
    assert "[False]" in pbook.failed("kill", "999999999")
    assert "[True]" in pbook.ok("finish", str(first), "soft=True")
    pbook.await_state(first, "failed")
    assert "[True]" in pbook.ok("retry", str(first), "memory=10", "site=THERE")
    pbook.await_state(first, "running", "scouting")
    assert pbook.cli.ok("task", "parameters", str(first), "--effective").json["ramCount"] == 10
    assert "[True]" in pbook.ok("-c", f"retry({first}, newOpts={{'excludedSite': ['A', 'B']}})")
    out = pbook.ok("kill", "all")
    assert out.endswith("[True, True]\n")
    for task_id in (first, second):
        pbook.await_state(task_id, "aborted")
    assert pbook.ok("kill", "all") == "there are no such tasks\n[]\n"
    assert "[False]" in pbook.failed("kill", str(first))
    assert "[True]" in pbook.ok("reload_input", str(first))


def test_a_request_of_several_tasks(pbook: Pbook) -> None:
    request_id = int(uuid4().hex[:5], 16) + 5_000_000
    parameters = {"taskName": "x", "vo": "wlcg", "prodSourceLabel": "user", "reqID": request_id}
    made = [pbook.cli.ok("task", "submit", json.dumps(parameters), "--json").json["task_id"] for _ in range(2)]
    assert [task["jeditaskid"] for task in pbook.json(str(request_id))] == made[::-1]
    for task_id in made:
        pbook.await_state(task_id, "broken")
    assert "[False, False]" in pbook.failed("kill", str(request_id))
    assert f"has the tasks {made[0]}, {made[1]}" in pbook.failed("getUserJobMetadata", str(request_id), "x.json")


def test_a_prompt(pbook: Pbook) -> None:
    task_id = pbook.task()
    lines = f"show({task_id}, format='json')\nhelp(kill)\nkill([{task_id}])\nquit()\nshow("
    code, out, err = pbook.process(stdin=lines)
    assert (code, err) == (0, "")
    assert f'"jeditaskid": {task_id}' in out
    assert "kill(taskIDs)" in out
    assert out.endswith("[True]\n")
    code, _, err = pbook.process(stdin="kill(1 + 1)\nlist_secrets()\nkill(999999999)")
    assert (code, err.count("\n")) == (1, 1)


def test_secrets(pbook: Pbook) -> None:
    assert pbook.ok("list_secrets") == "there are no secrets\n"
    assert pbook.ok("set_secret", "KEY", "a=b") == "OK\n"
    assert pbook.ok("set_secret", "NUMBER", "007") == "OK\n"
    (pbook.folder / "key.pem").write_bytes(b"\0\xff" * 40)
    assert pbook.ok("-c", "set_secret('my.pem', 'key.pem', is_file=True)") == "OK\n"
    rows = [line.split() for line in pbook.ok("list_secrets").splitlines()]
    assert [row[:2] for row in rows] == [["KEY", "text"], ["NUMBER", "text"], ["my.pem", "file"]]
    assert rows[0][2] == "a=b"
    assert rows[1][2] == "007"
    assert len(rows[2][2]) == 53
    assert pbook.ok("list_secrets", "full=True").split()[-1].startswith("AP8A")
    assert "..." not in pbook.ok("list_secrets", "True")
    assert pbook.ok("delete_secret", "my.pem") == pbook.ok("delete_secret", "nothing") == "OK\n"
    assert pbook.ok("delete_all_secrets") == "2 secrets deleted\n"
    assert "issuer" in pbook.failed("generate_credential")


def test_what_jobs_left(pbook: Pbook, working: None) -> None:
    task_id = pbook.task(
        command="echo '{\"n\": 1}' > userJobMetadata.json; touch out",
        site="HERE",
        nJobs=2,
        outputs="out",
        skipScout=True,
    )
    pbook.await_state(task_id, "done")
    assert pbook.ok("getUserJobMetadata", str(task_id), "meta.json") == "metadata of 2 jobs in meta.json\n"
    found = json.loads((pbook.folder / "meta.json").read_text())
    jobs = [job["job_id"] for job in pbook.cli.ok("job", "list", "--task", str(task_id), "--json").json]
    assert found == {str(job_id): {"n": 1} for job_id in jobs}
    assert "cannot be written" in pbook.failed("getUserJobMetadata", str(task_id), "no/meta.json")
    assert pbook.ok("recover_lost_files", str(task_id), "test_mode=True").startswith(f"JediTaskID={task_id}: ")
    assert "no task 999999999" in pbook.failed("recover_lost_files", "999999999")


def test_debug_mode(pbook: Pbook) -> None:
    task_id = pbook.task()
    pbook.await_state(task_id, "running", "scouting")
    (job,) = pbook.cli.ok("job", "list", "--task", str(task_id), "--json").json
    assert pbook.ok("debug", str(job["job_id"]), "True") == f"PandaID={job['job_id']}: debug mode on\n"
    assert pbook.cli.ok("job", "show", str(job["job_id"]), "--json").json[0]["debug"]
    assert pbook.ok("debug", str(job["job_id"]), "False").endswith("off\n")
    assert "pbook: " in pbook.failed("debug", "999999999", "True")
