"""Files per second by worker's sessions: between an echo with one message each way a file, and SQL by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import procfs
import row_at_a_time
from echo import EchoServer
from fleet import Desk, Fleet, Outcome, Work
from jobs import Target
from meter import Clock, Run, no_cpu, paired, shares, timed
from report import Findings, at_least, cost, say
from scale import Scale
from stack import Service, Stack

from drayman.client.channel import open_channel
from drayman.client.dispatch import DispatchClient
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc

_CLIENTS = 2
_CONNECTIONS = 8
_CREDITS = 32

_ECHO = f"echo: a stream, one message each way a file, {_CREDITS} in flight"
_WORK = f"dispatch: Work, {_CREDITS} credits"
_TWO = f"dispatch: Work, {_CREDITS} credits, two replicas"
_CLIENT = f"dispatch: Work, {_CREDITS} credits, with drayman.client"
_SQL = f"row-at-a-time SQL, {_CONNECTIONS} connections"


@dataclass(frozen=True)
class Sessions:
    """`workers` sessions that report each file done as soon as they have it.

    What arrives in one message is answered in one. With `files` they stop after so many; without they work until the project ends.
    """

    target: Target
    client: int
    workers: int
    files: int | None = None

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub: Any = handle_service_pb2_grpc.HandleServiceStub(await desk.channel(self.target.address))

        async def work() -> Outcome:
            taken = [0]
            await asyncio.gather(*(self._session(stub, f"bench-{self.client}-{n}", taken) for n in range(self.workers)))
            return Outcome(taken[0])

        yield work

    async def _session(self, stub: Any, name: str, taken: list[int]) -> None:
        call = stub.Work(metadata=self.target.metadata)
        start = pb.StartWork(project_id=self.target.project_id, worker_id=name, session_id=str(uuid4()))
        await call.write(pb.WorkRequest(start=start, credits=_CREDITS))
        async for response in call:
            if response.files:
                taken[0] += len(response.files)
                reports = [
                    pb.FileReport(handle_id=handle.handle_id, attempt=handle.attempts, outcome=pb.OUTCOME_DONE)
                    for handle in response.files
                ]
                await call.write(pb.WorkRequest(credits=len(reports), reports=reports))
            if response.HasField("ended") or (self.files is not None and taken[0] >= self.files):
                break
        await call.done_writing()
        async for _ in call:
            pass


@dataclass(frozen=True)
class ClientSessions:
    """The same with Drayman's own client, one `async with` a file."""

    target: Target
    client: int
    workers: int

    @asynccontextmanager
    async def ready(self, _desk: Desk) -> AsyncIterator[Work]:
        async with open_channel(f"grpc://{self.target.address}") as channel:
            await channel.channel_ready()
            dispatch = DispatchClient(token=self.target.token, channel=channel)

            async def work() -> Outcome:
                counts = await asyncio.gather(
                    *(self._session(dispatch, f"bench-{self.client}-{n}") for n in range(self.workers))
                )
                return Outcome(sum(counts))

            yield work

    async def _session(self, dispatch: DispatchClient, name: str) -> int:
        count = 0
        async with dispatch.work(self.target.project_id, name, credits=_CREDITS) as session:
            async for file in session:
                async with file:
                    count += 1
        return count


def measure(stack: Stack, scale: Scale) -> Findings:
    """Run every contender in every round."""
    services = [stack.serve(), stack.serve()]
    with EchoServer() as echo, Fleet(_CLIENTS) as fleet:
        contenders = _contenders(stack, services, echo, fleet, scale)
        for contend in contenders.values():
            contend(scale.warm_up)
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for number in range(scale.rounds):
            for name, contend in contenders.items():
                runs[name].append(contend(scale.session_files))
                say(f"  round {number + 1}: {name}: {runs[name][-1].rate:,.0f} files/s")
    return _findings(runs)


def _contenders(
    stack: Stack, services: list[Service], echo: EchoServer, fleet: Fleet, scale: Scale
) -> dict[str, Callable[[int], Run]]:
    one, two = services

    def cpu(of: list[Service]) -> Clock:
        return lambda: sum(procfs.cpu_seconds(service.pid) for service in of)

    def of_echo(files: int) -> Run:
        target = Target(echo.address, one.token, 1)
        jobs = [Sessions(target, n, scale.workers, share) for n, share in enumerate(shares(files, _CLIENTS))]
        return timed(fleet, jobs, partial(procfs.cpu_seconds, echo.pid))

    def of_dispatch(replicas: list[Service], files: int) -> Run:
        project_id = one.create_project(files)
        jobs = [Sessions(replicas[n % len(replicas)].target(project_id), n, scale.workers) for n in range(_CLIENTS)]
        return timed(fleet, jobs, cpu(replicas), stack.database_cpu)

    def of_client(files: int) -> Run:
        target = one.target(one.create_project(files))
        jobs = [ClientSessions(target, n, scale.workers) for n in range(_CLIENTS)]
        return timed(fleet, jobs, cpu([one]), stack.database_cpu)

    def of_sql(files: int) -> Run:
        row_at_a_time.fill(stack.dsn, files)
        jobs = [
            row_at_a_time.RowAtATime(stack.dsn, n, share, _CONNECTIONS // _CLIENTS)
            for n, share in enumerate(shares(files, _CLIENTS))
        ]
        return timed(fleet, jobs, no_cpu, stack.database_cpu)

    return {
        _ECHO: of_echo,
        _WORK: partial(of_dispatch, [one]),
        _TWO: partial(of_dispatch, [one, two]),
        _CLIENT: of_client,
        _SQL: of_sql,
    }


def _findings(runs: dict[str, list[Run]]) -> Findings:
    rates = {name: [run.rate for run in of_one] for name, of_one in runs.items()}
    found = Findings()
    for name in runs:
        found.add(name, rates[name], unit=" files/s")
    found.add(f"{_WORK}, against the echo stream", paired(rates[_WORK], rates[_ECHO]), ".2f", "×", at_least(1.0))
    found.add(f"{_WORK}, against {_SQL}", paired(rates[_WORK], rates[_SQL]), ".2f", "×", at_least(3.0))
    found.add(f"{_CLIENT}, against the echo stream", paired(rates[_CLIENT], rates[_ECHO]), ".2f", "×")
    found.add(f"{_TWO}, against one", paired(rates[_TWO], rates[_WORK]), ".2f", "×")
    found.costs += [cost(name, of_one) for name, of_one in runs.items()]
    return found
