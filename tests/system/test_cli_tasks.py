"""`drayman task`, `drayman job`, `drayman pilot`: the real commands against real services."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli
from system.pilot_process import pilot


@pytest.fixture
def cli(stack: LocalStack) -> Cli:
    """A new user."""
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return Cli.of(stack, name)


def parameters(script: str, **more: Any) -> dict[str, Any]:
    """A task that runs a script in bash, as often as `nEvents` says, once by default."""
    name = f"t{uuid4().hex[:12]}"
    return {
        "taskName": name,
        "userName": "me",
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "test",
        "taskPriority": 1,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "bash",
        "noInput": True,
        "nEvents": 1,
        "nEventsPerJob": 1,
        "skipScout": True,
        "jobParameters": [
            {"type": "constant", "value": f'-c "{script}"'},
            {
                "type": "template",
                "param_type": "output",
                "hidden": True,
                "dataset": f"{name}.out",
                "value": f"{name}.${{SN}}.txt",
            },
        ],
    } | more


def submitted(cli: Cli, script: str, **more: Any) -> int:
    answer = cli.ok("task", "submit", json.dumps(parameters(script, **more)), "--json").json
    assert answer["code"] == 0
    return int(answer["task_id"])


def state_of(cli: Cli, task_id: int) -> str:
    return str(cli.ok("task", "show", str(task_id), "--json").json["task"]["state"])


def await_state(cli: Cli, task_id: int, *states: str) -> None:
    command = cli.command("task", "watch", str(task_id), "--json", "--interval", "0.2s")
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        seen = []
        for line in watch.stdout:
            seen.append(json.loads(line)["state"])
            if seen[-1] in states:
                watch.kill()
                return
    pytest.fail(f"{seen} has none of {states}")


@contextmanager
def following(cli: Cli, job_id: str) -> Iterator[subprocess.Popen[str]]:
    """Read what a job writes."""
    command = cli.command("job", "debug", job_id, "--follow")
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as tail:
        try:
            yield tail
        finally:
            tail.kill()


def test_a_tasks_life(cli: Cli, tmp_path: Path) -> None:
    script = "echo '{\\\"seed\\\": 1}' > userJobMetadata.json; echo out ${SN} > ${OUTPUT0}"
    task_id = submitted(cli, script, nEvents=3)
    words = ["pilot", "--jobs", "3", "--wait", "30", "--scratch", str(tmp_path), "--site", "HERE", "--json"]
    events = [json.loads(line) for line in cli.ok(*words).out.splitlines()]
    assert [event["event"] for event in events].count("begin") == 3
    assert [event["state"] for event in events if event["event"] == "end"] == ["finished"] * 3
    assert list(tmp_path.iterdir()) == []
    watched = cli.ok("task", "watch", str(task_id))
    assert "done  3 done  0 failed" in watched.out.splitlines()[-1]

    shown = cli.ok("task", "show", str(task_id), "--json").json
    task = shown["task"]
    assert (task["state"], task["counts"]["inputs_finished"], task["counts"]["jobs_finished"]) == ("done", 3, 3)
    assert {dataset["stream"]: dataset["files"] for dataset in shown["datasets"]}["OUTPUT0"] == 3
    text = cli.ok("task", "show", str(task_id)).out
    assert f"outputs/{task['name']}.out" in text
    assert cli.ok("task", "list", "--owner", task["owner"], "--json").json == [task]
    titles, row = cli.ok("task", "list", "--name", f"*{task['name'][-8:]}", "--state", "done").out.splitlines()
    assert titles.split()[:2] == ["task", "state"]
    assert row.split()[:2] == [str(task_id), "done"]
    inputs = cli.ok("task", "inputs", str(task_id), "--state", "finished", "--json").json
    assert [(each["state"], each["attempts"]) for each in inputs] == [("finished", 1)] * 3
    assert len(cli.ok("task", "inputs", str(task_id)).out.splitlines()) == 4
    given = cli.ok("task", "parameters", str(task_id)).json
    assert given["userName"] == "me"
    assert cli.ok("task", "parameters", str(task_id), "--effective").json["userName"] == task["owner"]

    jobs = cli.ok("job", "list", "--task", str(task_id), "--json").json
    ids = [str(job["job_id"]) for job in jobs]
    assert [(job["state"], job["site"]) for job in jobs] == [("finished", "HERE")] * 3
    assert cli.ok("task", "metadata", str(task_id)).json == {job_id: {"seed": 1} for job_id in ids}
    assert cli.ok("job", "list", "--owner", task["owner"], "--state", "failed", "--json").json == []
    (job,) = cli.ok("job", "show", ids[0], "--files", "--json").json
    assert [file["status"] for file in job["files"] if file["type"] == "output"] == ["ready"]
    assert "finished" in cli.ok("job", "show", ids[0]).out
    assert len(cli.ok("job", "list", "--task", str(task_id)).out.splitlines()) == 4

    assert "recover" in cli.run("task", "recover", "--help").out
    recovered = cli.run("task", "recover", str(task_id), "--dry-run", "--json").json
    assert recovered["lost"] == []


def test_submissions_that_are_refused_or_come_to_nothing(cli: Cli) -> None:
    outcome = cli.run("task", "submit", json.dumps({"taskName": "x"}))
    assert (outcome.code, outcome.out) == (1, "")
    assert "vo is missing" in outcome.err
    refused = cli.run("task", "submit", "{}", "--json")
    assert (refused.code, refused.json["code"]) == (1, 4)
    assert "not JSON" in cli.refused("task", "submit", "{", code=2)
    broken = parameters("true")
    del broken["transPath"]
    outcome = cli.run("task", "submit", json.dumps(broken), "--follow")
    assert outcome.code == 1
    assert "transPath is missing" in outcome.out.splitlines()[-1]
    assert "TASK_NOT_FOUND" in cli.refused("task", "show", "999999999")
    assert "whose" in cli.refused("job", "list", code=2)
    assert "there are" in cli.refused("task", "list", "--state", "walking")


def test_commands(cli: Cli) -> None:
    task_id = submitted(cli, "true", nEvents=2)
    await_state(cli, task_id, "running")
    number = str(task_id)

    def told(*words: str, code: int = 0) -> int:
        outcome = cli.run("task", *words, "--json")
        assert outcome.code == (1 if code else 0), outcome.out + outcome.err
        (answer,) = outcome.json
        assert answer["code"] == code
        return int(answer["task_id"])

    assert told("pause", number) == task_id
    assert state_of(cli, task_id) == "paused"
    assert {job["state"] for job in cli.ok("job", "list", "--task", number, "--json").json} == {"throttled"}
    told("pause", number, code=4)
    told("retry", number, code=4)
    told("resume", number)
    told("resume", number, code=4)
    told("attempts", number, "--by", "2")
    assert cli.ok("task", "inputs", number, "--json").json[0]["max_attempts"] > 2
    told("retry", number, "--live")
    told("avalanche", number, code=4)
    told("finish", number, "--soft")
    await_state(cli, task_id, "failed")
    told("kill", number, code=4)
    told("retry", number, "--set", '{"ramCount": 77}', "--sole")
    await_state(cli, task_id, "running")
    assert cli.ok("task", "parameters", number, "--effective").json["ramCount"] == 77
    outcome = cli.ok("task", "kill", number)
    assert outcome.out.startswith(f"task {number}: ")
    await_state(cli, task_id, "aborted")
    told("reload", number)
    await_state(cli, task_id, "running")
    told("reactivate", number)
    told("kill", number)
    await_state(cli, task_id, "aborted")
    both = cli.run("task", "kill", number, "999999999", "--json")
    assert both.code == 1
    assert [answer["code"] for answer in both.json] == [4, 2]


def test_strangers(cli: Cli, stack: LocalStack) -> None:
    task_id = submitted(cli, "true")
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    stranger = Cli.of(stack, name)
    outcome = stranger.run("task", "kill", str(task_id), "--json")
    assert (outcome.code, outcome.json[0]["code"]) == (1, 3)
    await_state(cli, task_id, "running")
    (job,) = cli.ok("job", "list", "--task", str(task_id), "--json").json
    killed = stranger.run("job", "kill", str(job["job_id"]), "--json")
    assert (killed.code, killed.json) == (1, {str(job["job_id"]): False})
    assert cli.ok("task", "kill", str(task_id), "--json").json[0]["code"] == 0


def test_jobs_are_killed_and_shown_while_they_run(cli: Cli, tmp_path: Path) -> None:
    task_id = submitted(cli, "echo on my way; while true; do sleep 0.1; done", maxAttempt=1)
    with pilot(cli, tmp_path):
        command = cli.command("task", "watch", str(task_id), "--json", "--interval", "0.2s")
        with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            for line in watch.stdout:
                if json.loads(line)["counts"]["jobs_live"]:
                    break
            watch.kill()
        (job,) = cli.ok("job", "list", "--task", str(task_id), "--json").json
        number = str(job["job_id"])
        assert cli.ok("job", "debug", number).out == f"job {number}: debug mode on\n"
        assert cli.ok("job", "debug", number, "--off").out == f"job {number}: debug mode off\n"
        with following(cli, number) as tail:
            assert tail.stdout is not None
            assert next(line for line in tail.stdout if line.strip()) == "on my way\n"
            assert cli.ok("job", "kill", number, "--reason", "no more").out == f"job {number}: killed\n"
            assert tail.wait(timeout=30) == 0
        again = cli.run("job", "kill", number, "999999999", "--json")
        assert (again.code, again.json) == (1, {number: False, "999999999": False})
        await_state(cli, task_id, "failed")
    (job,) = cli.ok("job", "show", number, "--json").json
    assert job["state"] in ("failed", "cancelled")
    missing = cli.run("job", "show", number, "999999999")
    assert missing.code == 1
    assert "there is no job 999999999" in missing.err


def test_a_pilot_ends_when_there_is_nothing_to_do_and_when_it_is_told(cli: Cli, tmp_path: Path) -> None:
    assert cli.ok("pilot", "--wait", "0.5", "--scratch", str(tmp_path)).out == ""
    assert "scratch" in cli.refused("pilot", "--scratch", str(tmp_path / "none"))
    elsewhere = submitted(cli, "true", site="NOWHERE")
    assert cli.ok("pilot", "--wait", "1", "--site", "HERE", "--scratch", str(tmp_path)).out == ""
    assert cli.ok("task", "kill", str(elsewhere)).err == ""
    task_id = submitted(cli, "echo begun; while true; do sleep 0.1; done", maxAttempt=1, debugMode=True)
    command = cli.command("pilot", "--scratch", str(tmp_path), "--grace", "0.5", "--task", str(task_id))
    with subprocess.Popen(
        command, env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert "begins" in running.stdout.readline()
        (job,) = cli.ok("job", "list", "--task", str(task_id), "--json").json
        with following(cli, str(job["job_id"])) as tail:
            assert tail.stdout is not None
            assert next(line for line in tail.stdout if line.strip()) == "begun\n"
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, "Traceback" in err) == (0, False), err
    assert "failed" in out
    await_state(cli, task_id, "failed")
