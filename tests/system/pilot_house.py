"""Tasks and pilots of one test: real processes against a real deployment."""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from drayman.client import JobsClient, RegistryClient, SandboxClient, TaskClient
from drayman.client.job_values import Job
from drayman.client.task_values import Task
from drayman.testing import LocalStack

PATIENCE = 60.0


class PilotProcess:
    """`drayman pilot`, running. What it prints is read when it has ended."""

    def __init__(self, environment: Mapping[str, str], *options: str, **popen: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "drayman", "pilot", *options],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )
        self.out = self.err = ""

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns the exit code."""
        self.out, self.err = await asyncio.to_thread(self.process.communicate, timeout=seconds)
        assert "Traceback" not in self.out + self.err, self.err
        return self.process.returncode

    async def ended_well(self, seconds: float = PATIENCE) -> str:
        code = await self.end(seconds)
        assert code == 0, self.err
        return self.out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()


class House:
    """A user with tasks, and somebody else whose pilots run them."""

    def __init__(self, stack: LocalStack, folder: Path, *, pilot: str = "") -> None:
        self.stack = stack
        self.folder = folder
        self.mark = uuid4().hex[:8]
        self.user = f"u{self.mark}"
        self.worker = pilot or f"p{self.mark}"
        stack.add_user(self.user)
        stack.add_user(self.worker, roles=["pilot"])
        self.token = stack.token(self.user)
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self._pilots: list[PilotProcess] = []

    async def __aenter__(self) -> Self:
        self.tasks = TaskClient(self.stack.url, self.token)
        self.jobs_of = JobsClient(self.stack.url, self.token)
        self.registry = RegistryClient(self.stack.url, self.token)
        self.sandboxes = SandboxClient(self.stack.url, self.token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pilot in self._pilots:
            pilot.close()
        for client in (self.tasks, self.jobs_of, self.registry, self.sandboxes):
            await client.close()

    # --- tasks -------------------------------------------------------------------------------------------------------

    def dataset(self, name: str = "out") -> str:
        return f"user.{self.user}.{name}"

    def output(self, name: str = "out", **more: Any) -> dict[str, Any]:
        value = f"{self.dataset(name)}.${{SN}}"
        return {
            "type": "template", "param_type": "output", "dataset": self.dataset(name), "value": value, "hidden": True
        } | more  # fmt: skip

    def input(self, dataset: str, **more: Any) -> dict[str, Any]:
        return {"type": "template", "param_type": "input", "dataset": dataset, "value": "${IN}", "hidden": True} | more

    async def submit(self, script: str, *items: dict[str, Any], **more: Any) -> int:
        """Submit a task whose jobs run a script of bash; its id."""
        log = {"type": "template", "param_type": "log", "dataset": self.dataset("log"), "value": "log.${SN}.tgz"}
        parameters: dict[str, Any] = {
            "taskName": f"{self.dataset()}.{uuid4().hex[:6]}",
            "vo": "wlcg",
            "prodSourceLabel": "user",
            "taskType": "anal",
            "processingType": "test",
            "taskPriority": 1000,
            "architecture": "",
            "transUses": "",
            "transHome": "",
            "userName": self.user,
            "transPath": "bash",
            "skipScout": True,
            "maxAttempt": 1,
            "jobParameters": [{"type": "constant", "value": f"-c {shlex.quote(script)}"}, *items],
            "log": log,
        }
        if not any(item.get("param_type") == "input" for item in items):
            parameters |= {"noInput": True, "nEvents": 1, "nEventsPerJob": 1}
        submission = await self.tasks.submit(parameters | more)
        assert submission.code == 0, submission.message
        return submission.task_id

    async def jobs(self, task_id: int) -> list[Job]:
        return [job async for job in self.jobs_of.jobs(task_id, files=True)]

    async def job(self, task_id: int) -> Job:
        (job,) = await self.jobs(task_id)
        return job

    async def over(self, task_id: int) -> Task:
        """Wait until a task is over."""
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(self.tasks.watch(task_id, interval=0.1)) as news:
            async for task in news:
                if task.over:
                    return task
        raise AssertionError("the watch ended before the task")

    async def until(self, task_id: int, true: Callable[[list[Job]], bool], seconds: float = PATIENCE) -> list[Job]:
        """Wait until something is true of a task's jobs."""
        jobs: list[Job] = []
        try:
            async with asyncio.timeout(seconds):
                while not true(jobs := await self.jobs(task_id)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not true of {jobs}") from None
        return jobs

    async def running(self, task_id: int) -> Job:
        """Wait until the only job of a task runs."""
        (job,) = await self.until(task_id, lambda jobs: [job.state for job in jobs] == ["running"])
        return job

    async def read(self, asset: str, version: str, path: str) -> bytes:
        return b"".join([block async for block in self.registry.read("outputs", asset, version, path)])

    # --- pilots ------------------------------------------------------------------------------------------------------

    def environment(self, user: str = "") -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DRAYMAN_")}
        return kept | {"DRAYMAN_URL": self.stack.url, "DRAYMAN_TOKEN": self.stack.token(user or self.worker)}

    def start(
        self, *options: str, user: str = "", extra: Mapping[str, str] | None = None, **popen: Any
    ) -> PilotProcess:
        """Start a pilot."""
        environment = self.environment(user) | dict(extra or {})
        pilot = PilotProcess(environment, "--scratch", str(self.scratch), *options, **popen)
        self._pilots.append(pilot)
        return pilot

    async def run(self, task_id: int, *options: str, jobs: int = 1, **more: Any) -> str:
        """Let a pilot run jobs of a task; what it printed."""
        pilot = self.start("--task", str(task_id), "--jobs", str(jobs), "--wait", "20", *options, **more)
        return await pilot.ended_well()

    async def failed(self, task_id: int, *options: str, **more: Any) -> Job:
        """Run the only job of a task, which fails."""
        await self.run(task_id, *options, **more)
        job = await self.job(task_id)
        assert job.state == "failed", job
        return job
