"""Tasks of very many jobs: how soon they are ready, how soon a command holds, what a job costs among a million."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from uuid import uuid4

from meter import paired
from report import Findings, at_least, at_most, say
from scale import Scale
from stack import Stack

from drayman.client.job_values import JobUpdate
from drayman.client.jobs import JobsClient
from drayman.client.pilots import PilotClient
from drayman.client.task_values import Task
from drayman.client.tasks import TaskClient

#: What one task may have.
_MOST = 200_000
_BATCH = 100
_ASKED = 5_000


def measure(stack: Stack, scale: Scale) -> Findings:
    """Measure in one event loop: the client is this process, the service another one."""
    service = stack.serve()
    return asyncio.run(_measure(f"grpc://{service.address}", service.token, scale))


async def _measure(url: str, token: str, scale: Scale) -> Findings:
    async with TaskClient(url, token) as tasks, JobsClient(url, token) as jobs, PilotClient(url, token) as pilots:
        bench = _Bench(tasks, jobs, pilots, scale)
        await bench.grow(1_000)  # warms up
        for number in range(scale.rounds):
            await bench.round()
            say(f"  round {number + 1}")
        await bench.million()
        return bench.findings()


class _Bench:
    def __init__(self, tasks: TaskClient, jobs: JobsClient, pilots: PilotClient, scale: Scale) -> None:
        self._tasks, self._jobs, self._pilots = tasks, jobs, pilots
        self._scale = scale
        self._made: list[float] = []
        self._commands: dict[str, list[float]] = {"kill": [], "pause": []}
        self._aborted: list[float] = []
        self._asked: list[float] = []
        self._small: list[float] = []
        self._big: list[float] = []

    async def round(self) -> None:
        """Make a task, hold it, ask for its jobs, kill it."""
        size = self._scale.task_jobs
        begin = time.perf_counter()
        task = await self.grow(size)
        self._made.append(size / (time.perf_counter() - begin))
        ids = await self._jobs.ids(task.task_id)
        begin = time.perf_counter()
        found = await self._jobs.get(ids[: min(_ASKED, size)], files=True)
        self._asked.append(time.perf_counter() - begin)
        assert None not in found
        await self._command(task.task_id, "pause")
        assert (await self._tasks.command(task.task_id, "resume")).code == 0
        begin = time.perf_counter()
        await self._command(task.task_id, "kill")
        await self._until_over(task.task_id)
        self._aborted.append(time.perf_counter() - begin)

    async def million(self) -> None:
        """Work on a small task, and on one among very many jobs, in turn."""
        left = self._scale.many_jobs
        big = []
        while left > 0:
            big.append((await self.grow(min(left, _MOST))).task_id)
            left -= _MOST
            say(f"  {self._scale.many_jobs - max(left, 0):,} jobs")
        slice_jobs = self._scale.small
        await self._work(big[0], slice_jobs)  # warms up
        for number in range(self._scale.rounds * 2):
            small = await self.grow(slice_jobs)
            self._small.append(await self._work(small.task_id, slice_jobs))
            self._big.append(await self._work(big[number % len(big)], slice_jobs))

    def findings(self) -> Findings:
        """Say what was found."""
        found = Findings()
        size = f"{self._scale.task_jobs:,} jobs"
        found.add(f"a task of {size}: submission → all ready, jobs/s", self._made, target=at_least(20_000))
        for command, seconds in self._commands.items():
            found.add(f"{command} of a task of {size}: until in force", seconds, ".2f", " s", at_most(2, " s"))
        found.add(f"kill of a task of {size}: until it is aborted", self._aborted, ".1f", " s")
        found.add(
            f"{min(_ASKED, self._scale.task_jobs):,} jobs with their files, asked for by id",
            self._asked,
            ".2f",
            " s",
            at_most(1, " s"),
        )
        found.add("hand-out + start + finish, a small task, µs a job", [each * 1e6 for each in self._small])
        ratio = paired(self._big, self._small)
        found.add(f"the same among {self._scale.many_jobs:,} jobs, against that", ratio, ".2f", "×", at_most(1.2, " ×"))
        return found

    async def grow(self, size: int) -> Task:
        """Submit a task and wait until all its jobs are ready."""
        name = f"bench.{uuid4().hex}"
        parameters = {
            "taskName": name,
            "vo": "wlcg",
            "prodSourceLabel": "user",
            "taskType": "anal",
            "processingType": "bench",
            "taskPriority": 1000,
            "architecture": "",
            "transUses": "",
            "transHome": "",
            "transPath": "true",
            "userName": "bench",
            "noInput": True,
            "nEvents": size,
            "nEventsPerJob": 1,
            "skipScout": True,
            "jobParameters": [
                {"type": "constant", "value": "--first ${FIRSTEVENT}"},
            ],
        }
        answer = await self._tasks.submit(parameters)
        assert answer.code == 0, answer.message
        async with aclosing(self._tasks.watch(answer.task_id, interval=0.02)) as views:
            async for task in views:
                assert not task.over, task.error
                if task.counts.jobs_live == size:
                    return task
        raise AssertionError("the task ended")

    async def _command(self, task_id: int, command: str) -> None:
        """Give a command, and see that it holds: no job is handed out any more."""
        begin = time.perf_counter()
        answer = await self._tasks.command(task_id, command)
        assert answer.code == 0, answer.message
        given = await self._pilots.next_jobs(worker_id=uuid4().hex, task_id=task_id, timeout=0)
        self._commands[command].append(time.perf_counter() - begin)
        assert not given, f"a job was handed out after {command}"

    async def _until_over(self, task_id: int) -> None:
        async with aclosing(self._tasks.watch(task_id, interval=0.1)) as views:
            async for task in views:
                if task.over:
                    return

    async def _work(self, task_id: int, jobs: int) -> float:
        """Take, start and finish so many jobs, a hundred at a time; returns seconds a job."""
        worker = uuid4().hex
        begin = time.perf_counter()
        done = 0
        while done < jobs:
            given = await self._pilots.next_jobs(
                worker_id=worker, task_id=task_id, max_jobs=min(_BATCH, jobs - done), timeout=10
            )
            assert given, "there are jobs"
            for state in ("running", "finished"):
                answers = await self._pilots.update(
                    worker, [JobUpdate(job.job_id, job.attempt, state) for job in given]
                )
                assert all(answer.status == "taken" for answer in answers)
            done += len(given)
        return (time.perf_counter() - begin) / jobs
