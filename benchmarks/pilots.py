"""Jobs per second: hand-out, start and finish, three calls a job, against the ceiling of two calls a file that are only echoed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import procfs
from echo import EchoServer
from fleet import Desk, Fleet, Outcome, Work
from jobs import Drain, Target
from meter import Run, paired, shares, timed
from report import Findings, at_least, cost, say
from scale import Scale
from stack import Service, Stack

from drayman.client.tasks import TaskClient
from drayman.task.v1 import job_pb2, pilot_service_pb2_grpc
from drayman.task.v1 import pilot_service_pb2 as pb

_CLIENTS = 2

_ECHO = "echo: two unary calls a file"
_JOBS = "tasks: NextJob + UpdateJobs (running) + UpdateJobs (finished)"


@dataclass(frozen=True)
class Pilots:
    """Take `jobs` jobs of a task one by one, start and finish each, with `workers` at a time."""

    target: Target  # its project is the task
    client: int
    jobs: int
    workers: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub = pilot_service_pb2_grpc.PilotServiceStub(await desk.channel(self.target.address))

        async def work() -> Outcome:
            jobs = iter(range(self.jobs))
            names = (f"bench-{self.client}-{number}" for number in range(self.workers))
            await asyncio.gather(*(self._worker(stub, name, jobs) for name in names))
            return Outcome(self.jobs)

        yield work

    async def _worker(self, stub: Any, name: str, jobs: Any) -> None:
        metadata = self.target.metadata
        for _ in jobs:
            wish = pb.NextJobRequest(worker_id=name, task_id=self.target.project_id, request_id=str(uuid4()))
            event = None
            async for event in stub.NextJob(wish, metadata=metadata):  # noqa: B007 - the last one counts
                pass
            if event is None or not event.HasField("jobs"):
                raise RuntimeError(f"expected a job, got {event}")
            (job,) = event.jobs.jobs
            for state in (job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_FINISHED):
                update = pb.JobUpdate(job_id=job.job_id, attempt=job.attempt, state=state)
                request = pb.UpdateJobsRequest(worker_id=name, updates=[update])
                reply = await stub.UpdateJobs(request, metadata=metadata)
                if reply.answers[0].status != pb.ANSWER_STATUS_TAKEN:
                    raise RuntimeError(f"expected that the update is taken, got {reply}")


def measure(stack: Stack, scale: Scale) -> Findings:
    """Run both contenders in every round."""
    service = stack.serve()
    with EchoServer() as echo, Fleet(_CLIENTS) as fleet:
        echo_cpu = partial(procfs.cpu_seconds, echo.pid)
        service_cpu = partial(procfs.cpu_seconds, service.pid)

        def of_echo(files: int) -> Run:
            target = Target(echo.address, service.token, 1)
            drains = [
                Drain(target, n, share, scale.workers, "ReserveFiles")
                for n, share in enumerate(shares(files, _CLIENTS))
            ]
            return timed(fleet, drains, echo_cpu, stack.database_cpu)

        def of_tasks(jobs: int) -> Run:
            target = service.target(new_task(service, jobs))
            pilots = [Pilots(target, n, share, scale.workers) for n, share in enumerate(shares(jobs, _CLIENTS))]
            return timed(fleet, pilots, service_cpu, stack.database_cpu)

        contenders: dict[str, Callable[[int], Run]] = {_ECHO: of_echo, _JOBS: of_tasks}
        for contend in contenders.values():
            contend(scale.warm_up)
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for number in range(scale.rounds):
            for name, contend in contenders.items():
                runs[name].append(contend(scale.files))
                say(f"  round {number + 1}: {name}: {runs[name][-1].rate:,.0f} /s")
    return _findings(runs)


def new_task(service: Service, jobs: int) -> int:
    """Submit a task without inputs and outputs, and return its id when all its jobs are ready."""
    return asyncio.run(_new_task(f"grpc://{service.address}", service.token, jobs))


async def _new_task(url: str, token: str, jobs: int) -> int:
    parameters = {
        "taskName": f"bench.{uuid4().hex}",
        "userName": "bench",
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "bench",
        "taskPriority": 1000,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "true",
        "noInput": True,
        "nEvents": jobs,
        "nEventsPerJob": 1,
        "skipScout": True,
        "jobParameters": [{"type": "constant", "value": "--first ${FIRSTEVENT}"}],
    }
    async with TaskClient(url, token) as tasks:
        answer = await tasks.submit(parameters)
        async with aclosing(tasks.watch(answer.task_id, interval=0.02)) as views:
            async for task in views:
                if task.over:
                    raise RuntimeError(f"the task ended: {task.error}")
                if task.counts.jobs_live == jobs:
                    return answer.task_id
    raise RuntimeError(f"the task was not accepted: {answer.message}")


def _findings(runs: dict[str, list[Run]]) -> Findings:
    rates = {name: [run.rate for run in of_one] for name, of_one in runs.items()}
    found = Findings()
    found.add(_ECHO, rates[_ECHO], unit=" files/s")
    found.add(_JOBS, rates[_JOBS], unit=" jobs/s")
    found.add("a job against an echoed file", paired(rates[_JOBS], rates[_ECHO]), ".2f", "×", at_least(0.35))
    found.costs += [cost(name, of_one) for name, of_one in runs.items()]
    return found
