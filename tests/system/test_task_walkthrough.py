"""The README's walk-through of tasks, as it stands; and the same with a pilot that certainly dies in the middle of a job."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drayman.client import JobsClient, RegistryClient, TaskClient
from drayman.testing import LocalStack, local_stack

README = Path(__file__).parents[2] / "README.md"
PATIENCE = 150.0
SILENCE = 4.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def impatient() -> Iterator[LocalStack]:
    """A stack that takes a job back from whoever is silent for a few seconds."""
    settings = {"DRAYMAN_TASK_HEARTBEAT_TIMEOUT": str(SILENCE), "DRAYMAN_TASK_SENT_TIMEOUT": str(SILENCE)}
    with local_stack(settings=settings) as stack:
        yield stack
        print(stack.log.read_text()[-4000:])


def environment(stack: LocalStack, user: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DRAYMAN_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"DRAYMAN_URL": stack.url, "DRAYMAN_TOKEN": stack.token(user), "PATH": path}


def test_the_readme_does_what_it_shows(impatient: LocalStack, tmp_path: Path) -> None:
    section = README.read_text().partition("\n## Tasks\n")[2]
    script = section.partition("```sh\n")[2].partition("```")[0]
    assert script.count("drayman pilot") == 1
    shell = subprocess.Popen(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(impatient, impatient.admin[0]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = shell.communicate(timeout=PATIENCE)
    finally:  # with pilots that did not end by themselves
        with ExitStack() as ends:
            ends.callback(shell.wait)
            ends.push(lambda kind, *_: kind is ProcessLookupError)
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, out
    assert [int(line) for line in out.splitlines()[-6:]] == [1, 2, 3, 101, 102, 103], out
    assert {path.name.rpartition(".")[2] for path in (tmp_path / "sorted").iterdir()} == {"all"}


class Pilot:
    """`drayman pilot` as one user, and what it says."""

    def __init__(self, stack: LocalStack, user: str, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "drayman", "pilot", "--worker-id", folder.name, "--scratch", str(folder), *options],
            env=environment(stack, user),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.seek(0)
        print(self.log.read()[-2000:])
        self.log.close()


def parameters(name: str, command: str, dataset: str, output: str, **more: Any) -> dict[str, Any]:
    inputs = {"type": "template", "param_type": "input", "value": "${IN}", "dataset": dataset, "hidden": True}
    made = {
        "type": "template",
        "param_type": "output",
        "dataset": output,
        "value": output + ".${SN}.txt",
        "hidden": True,
    }
    return {
        "taskName": name,
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "taskPriority": 1000,
        "processingType": "walk",
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "userName": "",
        "transPath": "bash",
        "jobParameters": [{"type": "constant", "value": f"-c '{command}'"}, inputs, made],
        "log": {
            "type": "template",
            "param_type": "log",
            "dataset": f"{output}.log",
            "value": output + ".${SN}.log.tgz",
        },
    } | more


async def test_one_of_three_pilots_is_killed_in_the_middle_of_a_job(impatient: LocalStack, tmp_path: Path) -> None:
    """Its job goes to another pilot; every input is in the outputs once."""
    await asyncio.to_thread(impatient.add_user, "ann")
    await asyncio.to_thread(impatient.add_user, "farm", roles=["pilot"])
    token = await asyncio.to_thread(impatient.token, "ann")
    folder, marks = tmp_path / "files", tmp_path / "marks"
    for each in (folder, marks):
        each.mkdir()
    for number in range(9):
        (folder / f"f{number}").write_text(f"line {number}\n")
    admin = environment(impatient, impatient.admin[0])
    for words in (["project", "create", "lists", "--owner", "ann"], ["upload", "lists/all/v1", str(folder)]):
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "drayman", "registry", *words, env=admin)
        assert await process.wait() == 0
    # whoever has the sixth file goes on only when told to: its pilot is killed before
    wait = f"while test ${{IN}} = f5 -a ! -e {marks}/go; do sleep 0.1; done"
    command = f"echo $PANDAID > {marks}/${{IN}}; {wait}; cat ${{IN}} > ${{OUTPUT0}}"
    async with TaskClient(impatient.url, token) as tasks, JobsClient(impatient.url, token) as jobs:
        submitted = await tasks.submit(parameters("walk", command, "lists/all/v1", "walk.out", nFilesPerJob=1))
        assert submitted.code == 0, submitted
        child = await tasks.submit(
            parameters(
                "child", 'cat $(echo ${IN/L} | tr , " ") > ${OUTPUT0}', "walk.out/", "walk.all", nFilesPerJob=100
            ),
            parent=submitted.task_id,
        )
        pilots = {name: Pilot(impatient, "farm", tmp_path / name) for name in ("one", "two", "three")}
        try:
            async with asyncio.timeout(PATIENCE):
                while not (marks / "f5").exists() or not (marks / "f5").read_text().strip():
                    await asyncio.sleep(0.05)
                unlucky_id = int((marks / "f5").read_text())
                (unlucky,) = await jobs.get([unlucky_id])
                assert unlucky is not None
                pilots[unlucky.worker_id].process.kill()
                killed_at = time.monotonic()
                while (now := (await jobs.get([unlucky_id]))[0]) is None or now.state != "failed":
                    await asyncio.sleep(0.1)
                assert time.monotonic() - killed_at < 10 * SILENCE
                (marks / "go").touch()
                async for task in tasks.watch(submitted.task_id):
                    last = task
                assert (last.state, last.counts.inputs_finished, last.counts.jobs_failed) == ("done", 9, 1), last
                async for task in tasks.watch(child.task_id):
                    last = task
                assert (last.state, last.counts.inputs) == ("done", 9), last
            again = [job async for job in jobs.jobs(submitted.task_id) if job.attempt == 2]
            assert [job.parent_job_id for job in again] == [unlucky_id]
            assert again[0].worker_id != unlucky.worker_id
            assert now.fields["jobDispatcherErrorCode"] == 100
        finally:
            await asyncio.gather(*(asyncio.to_thread(pilot.end) for pilot in pilots.values()))
    async with RegistryClient(impatient.url, token) as registry:
        (entry,) = [entry async for entry in registry.entries("outputs", "walk.all", str(child.task_id))]
        content = b"".join(
            [part async for part in registry.read("outputs", "walk.all", str(child.task_id), entry.path)]
        )
    assert sorted(content.decode().splitlines()) == [f"line {number}" for number in range(9)]
