"""What client processes do: raw stubs of grpc.aio, one channel a process, a new request id a call as every client sends it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import grpc.aio
from fleet import Desk, Outcome, Work

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2, project_service_pb2, project_service_pb2_grpc

_BATCH = 1_000
_BATCHES_AT_ONCE = 4
#: Seconds between parking and release: longer than what the service needs to settle, and never in step with it.
_PAUSE = (0.01, 0.06)


@dataclass(frozen=True)
class Target:
    """Where to work: HOST:PORT, session token, project."""

    address: str
    token: str
    project_id: int

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self.token}"),)


def new_project(files: int) -> Iterator[project_service_pb2.CreateProjectRequest]:
    """Messages that create a virtual project: names of 17 characters, no attributes, 1,000 files to a message."""
    spec = project_service_pb2.ProjectSpec(attributes_json='{"virtual": true}')
    yield project_service_pb2.CreateProjectRequest(spec=spec)
    for begin in range(0, files, _BATCH):
        batch = project_service_pb2.FileBatch(
            files=[
                project_pb2.File(did=project_pb2.Did(namespace="bench", name=f"file-{number:07d}.root"))
                for number in range(begin, min(files, begin + _BATCH))
            ]
        )
        yield project_service_pb2.CreateProjectRequest(files=batch)
    yield project_service_pb2.CreateProjectRequest(end=project_service_pb2.EndOfFiles(file_count=files))


async def take_file(stub: Any, target: Target, request: pb.NextFileRequest) -> project_pb2.Handle:
    """Ask by NextFile on a project that has a file for everybody who asks."""
    event = None
    async for event in stub.NextFile(request, metadata=target.metadata):  # noqa: B007 - the last one counts
        pass
    if event is None or not event.HasField("reserved"):
        raise RuntimeError(f"expected a file, got {event}")
    handle: project_pb2.Handle = event.reserved.handle
    return handle


@dataclass(frozen=True)
class Drain:
    """Take `files` files one by one and report each done, with `workers` at a time."""

    target: Target
    client: int
    files: int
    workers: int
    by: Literal["ReserveFiles", "NextFile"]

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub = handle_service_pb2_grpc.HandleServiceStub(await desk.channel(self.target.address))
        take = self._next_file if self.by == "NextFile" else self._reserve_files

        async def work() -> Outcome:
            files = iter(range(self.files))
            names = (f"bench-{self.client}-{number}" for number in range(self.workers))
            await asyncio.gather(*(self._worker(stub, name, files, take) for name in names))
            return Outcome(self.files)

        yield work

    async def _worker(
        self, stub: Any, name: str, files: Any, take: Callable[[Any, str], Awaitable[project_pb2.Handle]]
    ) -> None:
        for _ in files:
            handle = await take(stub, name)
            report = pb.FileReport(handle_id=handle.handle_id, attempt=handle.attempts, outcome=pb.OUTCOME_DONE)
            request = pb.ReportRequest(
                project_id=self.target.project_id, worker_id=name, reports=[report], request_id=str(uuid4())
            )
            await stub.Report(request, metadata=self.target.metadata)

    async def _next_file(self, stub: Any, name: str) -> project_pb2.Handle:
        request = pb.NextFileRequest(project_id=self.target.project_id, worker_id=name, request_id=str(uuid4()))
        return await take_file(stub, self.target, request)

    async def _reserve_files(self, stub: Any, name: str) -> project_pb2.Handle:
        request = pb.ReserveFilesRequest(
            project_id=self.target.project_id, worker_id=name, max_files=1, request_id=str(uuid4())
        )
        reply = await stub.ReserveFiles(request, metadata=self.target.metadata)
        if len(reply.files) != 1:
            raise RuntimeError(f"expected a file, got {reply}")
        handle: project_pb2.Handle = reply.files[0].handle
        return handle


@dataclass(frozen=True)
class SkipAhead:
    """Finish `files` files in batches of 1,000."""

    target: Target
    client: int
    files: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub = handle_service_pb2_grpc.HandleServiceStub(await desk.channel(self.target.address))

        async def work() -> Outcome:
            shares = [len(range(part, self.files, _BATCHES_AT_ONCE)) for part in range(_BATCHES_AT_ONCE)]
            await asyncio.gather(
                *(self._worker(stub, f"skip-{self.client}-{part}", share) for part, share in enumerate(shares))
            )
            return Outcome(self.files)

        yield work

    async def _worker(self, stub: Any, name: str, files: int) -> None:
        project_id = self.target.project_id
        while files > 0:
            wanted = pb.ReserveFilesRequest(
                project_id=project_id, worker_id=name, max_files=min(files, _BATCH), request_id=str(uuid4())
            )
            taken = await stub.ReserveFiles(wanted, metadata=self.target.metadata)
            if not taken.files:
                raise RuntimeError(f"expected files, got {taken}")
            reports = [
                pb.FileReport(handle_id=file.handle.handle_id, attempt=file.handle.attempts, outcome=pb.OUTCOME_DONE)
                for file in taken.files
            ]
            request = pb.ReportRequest(project_id=project_id, worker_id=name, reports=reports, request_id=str(uuid4()))
            await stub.Report(request, metadata=self.target.metadata)
            files -= len(reports)


@dataclass(frozen=True)
class Create:
    """Create a project of `files` files; its messages are built before the clock starts, and encoded while it runs."""

    address: str
    token: str
    files: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub: Any = project_service_pb2_grpc.ProjectServiceStub(await desk.channel(self.address))
        requests = list(new_project(self.files))
        metadata = Target(self.address, self.token, 0).metadata

        async def work() -> Outcome:
            reply = await stub.CreateProject(iter(requests), metadata=metadata)
            return Outcome(reply.project.counts.total)

        yield work


@dataclass(frozen=True)
class WakeUps:
    """Two workers pass one file to each other: one parks, the other releases. Times are from before the release is sent until the
    parked stream has the file: two commits and, between two replicas, the announcement."""

    targets: tuple[Target, Target]
    wakes: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stubs: list[Any] = [
            handle_service_pb2_grpc.HandleServiceStub(await desk.channel(target.address)) for target in self.targets
        ]
        first = self._ask(stubs, 0)
        event = await first.read()
        if event is grpc.aio.EOF or not event.HasField("reserved"):
            raise RuntimeError(f"expected a file, got {event}")
        handle = event.reserved.handle
        await _rest_of(first)

        async def work() -> Outcome:
            nonlocal handle
            times = []
            for number in range(self.wakes):
                seconds, handle = await self._pass_on(stubs, number % 2, handle)
                times.append(seconds)
            return Outcome(self.wakes, tuple(times))

        yield work

    def _ask(self, stubs: list[Any], side: int) -> Any:
        target = self.targets[side]
        request = pb.NextFileRequest(project_id=target.project_id, worker_id=f"wake-{side}", request_id=str(uuid4()))
        return stubs[side].NextFile(request, metadata=target.metadata)

    async def _pass_on(
        self, stubs: list[Any], holder: int, handle: project_pb2.Handle
    ) -> tuple[float, project_pb2.Handle]:
        waiting = self._ask(stubs, 1 - holder)
        event = await waiting.read()
        if event is grpc.aio.EOF or not event.HasField("progress"):
            raise RuntimeError(f"expected to wait, got {event}")
        await asyncio.sleep(random.uniform(*_PAUSE))
        release = pb.FileReport(handle_id=handle.handle_id, attempt=handle.attempts, outcome=pb.OUTCOME_RELEASED)
        target = self.targets[holder]
        request = pb.ReportRequest(
            project_id=target.project_id, worker_id=f"wake-{holder}", reports=[release], request_id=str(uuid4())
        )
        begin = time.monotonic()
        (event, end), _ = await asyncio.gather(
            _timed_read(waiting), stubs[holder].Report(request, metadata=target.metadata)
        )
        if event is grpc.aio.EOF or not event.HasField("reserved"):
            raise RuntimeError(f"expected a file, got {event}")
        await _rest_of(waiting)
        return end - begin, event.reserved.handle


@dataclass(frozen=True)
class Park:
    """Keep `streams` NextFile streams open on a project that has nothing to give, all opened at once.

    Ready when each is parked or has ended. The outcome counts those that ended otherwise than by the project's cancellation; its time is
    the moment when the last of the others heard of that, by the machine's monotonic clock.
    """

    target: Target
    client: int
    streams: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub: Any = handle_service_pb2_grpc.HandleServiceStub(await desk.channel(self.target.address))
        parked = [asyncio.Event() for _ in range(self.streams)]
        stays = [asyncio.create_task(self._stay(stub, number, parked[number])) for number in range(self.streams)]

        async def work() -> Outcome:
            ends = await asyncio.gather(*stays)
            right = [end for end in ends if end is not None]
            return Outcome(len(ends) - len(right), (max(right),) if right else ())

        try:
            for event in parked:
                await event.wait()
            yield work
        finally:
            for stay in stays:
                stay.cancel()

    async def _stay(self, stub: Any, number: int, parked: asyncio.Event) -> float | None:
        name = f"park-{self.client}-{number}"
        request = pb.NextFileRequest(project_id=self.target.project_id, worker_id=name, request_id=str(uuid4()))
        event = None
        try:
            async for event in stub.NextFile(request, metadata=self.target.metadata):
                if event.HasField("progress"):
                    parked.set()
        except grpc.aio.AioRpcError:
            return None
        finally:
            parked.set()
        cancelled = event is not None and event.project_ended.state == project_pb2.PROJECT_STATE_CANCELLED
        return time.monotonic() if cancelled else None


async def _timed_read(call: Any) -> tuple[Any, float]:
    event = await call.read()
    return event, time.monotonic()


async def _rest_of(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
