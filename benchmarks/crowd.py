"""Crowds: sessions that wait in one server process, and a fleet that starts all at the same moment."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import grpc.aio
from fleet import Desk, Fleet, Outcome, Work
from jobs import Park, Target, take_file
from meter import elapsed, shares
from report import Findings, say
from scale import Scale
from sessions import Sessions
from stack import Service, Stack
from waiting import Crowd, nothing, watch

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2

_CREDITS = 32
#: Connections of each client process of the rush.
_CHANNELS = 4
#: What a server may answer a call with that is to be sent again.
_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
#: Seconds between being sent away and coming back, and until a call that is always sent away counts as lost.
_PAUSE = (0.2, 1.0)
_PATIENCE = 120.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class WaitingSessions(Park):
    """The same with `streams` sessions that have granted credits and get no file."""

    async def _stay(self, stub: Any, number: int, parked: asyncio.Event) -> float | None:
        start = pb.StartWork(
            project_id=self.target.project_id, worker_id=f"crowd-{self.client}-{number}", session_id=str(uuid4())
        )
        heard = None
        try:
            call = stub.Work(metadata=self.target.metadata)
            await call.write(pb.WorkRequest(start=start, credits=_CREDITS))
            async for response in call:
                if response.HasField("progress"):
                    parked.set()
                if response.HasField("ended"):
                    if response.ended.state == project_pb2.PROJECT_STATE_CANCELLED:
                        heard = time.monotonic()
                    await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter: written to after it has ended
            return None
        finally:
            parked.set()
        return heard


@dataclass(frozen=True, kw_only=True)
class RushOutcome(Outcome):
    """What became of a client process's workers; `count` are those that did their file."""

    again: int  # calls that were sent away, and sent again
    lost: dict[str, int]  # workers that gave up, by why
    handle_ids: tuple[int, ...]  # what the others did


@dataclass
class _Tally:
    """What is counted while the workers run."""

    again: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    handle_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Rush:
    """`workers` workers that ask for one file each, all at once, and report it done."""

    target: Target
    client: int
    workers: int

    @asynccontextmanager
    async def ready(self, _desk: Desk) -> AsyncIterator[Work]:
        async with AsyncExitStack() as channels:
            stubs: list[Any] = []
            for _ in range(_CHANNELS):
                # otherwise channels to the same address share a connection
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = grpc.aio.insecure_channel(self.target.address, options=options)
                await channels.enter_async_context(channel)
                await channel.channel_ready()
                stubs.append(handle_service_pb2_grpc.HandleServiceStub(channel))

            async def work() -> Outcome:
                tally = _Tally()
                await asyncio.gather(*(self._worker(stubs[n % _CHANNELS], n, tally) for n in range(self.workers)))
                return RushOutcome(
                    len(tally.handle_ids),
                    again=tally.again,
                    lost=dict(tally.lost),
                    handle_ids=tuple(tally.handle_ids),
                )

            yield work

    async def _worker(self, stub: Any, number: int, tally: _Tally) -> None:
        worker_id, project_id = f"rush-{self.client}-{number}", self.target.project_id
        wish = pb.NextFileRequest(project_id=project_id, worker_id=worker_id, request_id=str(uuid4()))
        try:
            handle = await _insist(lambda: take_file(stub, self.target, wish), tally, wish)
            said = pb.FileReport(handle_id=handle.handle_id, attempt=handle.attempts, outcome=pb.OUTCOME_DONE)
            report = pb.ReportRequest(
                project_id=project_id, worker_id=worker_id, reports=[said], request_id=str(uuid4())
            )
            await _insist(lambda: stub.Report(report, metadata=self.target.metadata), tally)
        except grpc.aio.AioRpcError as error:
            tally.lost[f"{error.code().name}: {error.details()}"] += 1
        except RuntimeError as error:
            tally.lost[str(error)] += 1
        else:
            tally.handle_ids.append(handle.handle_id)


async def _insist(
    call: Callable[[], Awaitable[Answer]], tally: _Tally, wish: pb.NextFileRequest | None = None
) -> Answer:
    """Send a call again that is sent away, as every client of ours does."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in _AGAIN or time.monotonic() > end:
                raise
        tally.again += 1
        if wish is not None:
            wish.resend = True
        await asyncio.sleep(random.uniform(*_PAUSE))


def measure(stack: Stack, scale: Scale) -> Findings:
    """Let sessions wait; then let a fleet rush."""
    sessions = Crowd(
        "waiting sessions",
        scale.crowd,
        WaitingSessions,
        lambda target, client: Sessions(target, client, scale.workers),
    )
    found = watch(stack, scale, sessions)
    service = stack.serve()
    with Fleet(scale.parked_clients) as fleet:
        rush = partial(_rush, service, fleet, scale)
        rounds = [rush(number) for number in range(scale.rounds)]
    what = f"{scale.rush:,} workers that start at the same moment, NextFile + Report each"
    found.add(f"{what}: until all are done", [r.seconds for r in rounds], ".1f", " s")
    found.add(f"{what}: lost, all rounds", [sum(r.lost for r in rounds)], "d", "", nothing())
    found.add(f"{what}: files not done exactly once, all rounds", [sum(r.wrong for r in rounds)], "d", "", nothing())
    found.add(f"{what}: calls sent away and sent again, all rounds", [sum(r.again for r in rounds)], "d")
    return found


@dataclass(frozen=True)
class _Round:
    seconds: float
    lost: int  # workers
    wrong: int  # files
    again: int  # calls


def _rush(service: Service, fleet: Fleet, scale: Scale, number: int) -> _Round:
    project_id = service.create_project(scale.rush)
    target = service.target(project_id)
    samples = fleet.run([Rush(target, n, part) for n, part in enumerate(shares(scale.rush, scale.parked_clients))])
    outcomes = [sample.outcome for sample in samples if isinstance(sample.outcome, RushOutcome)]
    lost = sum((Counter(outcome.lost) for outcome in outcomes), Counter[str]())
    done = Counter(handle_id for outcome in outcomes for handle_id in outcome.handle_ids)
    right = sum(
        handle.state == project_pb2.HANDLE_STATE_DONE and handle.attempts == 1 and done[handle.handle_id] == 1
        for handle in service.handles(project_id)
    )
    one = _Round(
        seconds=elapsed(samples),
        lost=lost.total(),
        wrong=scale.rush - right,
        again=sum(outcome.again for outcome in outcomes),
    )
    say(f"  rush {number + 1}: {one.seconds:.1f} s, {one.lost} lost, {one.wrong} wrong, {one.again} sent again")
    for why, count in lost.most_common(5):
        say(f"    {count} × {why}")
    return one
