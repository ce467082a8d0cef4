"""A project of many million files from its making to its end, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import procfs
from fleet import Desk, Fleet, Outcome, Work
from jobs import Target, new_project
from meter import Run, elapsed, shares, timed
from report import Findings, at_most, cost, say
from scale import Scale
from sessions import Sessions
from stack import Service, Stack

from drayman.dispatch.v1 import project_service_pb2, project_service_pb2_grpc

_CLIENTS = 2
_LOOKS = 50
_MIB = 1024**2
_GIB = 1024**3
#: Room on the disk for each file, in bytes: the project, its copy, the log, and what deletion leaves until it is vacuumed.
_ROOM = 2_500
#: Seconds between two looks at the disk, and at what deletion has left.
_DISK_PAUSE = 1.0
_GONE_PAUSE = 0.05
_GONE_LIMIT = 1_800.0


@dataclass(frozen=True)
class StreamCreate:
    """Create a project of `files` files whose messages are made as they are sent. The outcome's time is the client's peak of memory, in
    bytes."""

    target: Target
    files: int

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub: Any = project_service_pb2_grpc.ProjectServiceStub(await desk.channel(self.target.address))

        async def work() -> Outcome:
            reply = await stub.CreateProject(new_project(self.files), metadata=self.target.metadata)
            return Outcome(reply.project.project_id, (procfs.peak_bytes(),))

        yield work


@dataclass(frozen=True)
class ListAll:
    """Read all handles of a project."""

    target: Target

    @asynccontextmanager
    async def ready(self, desk: Desk) -> AsyncIterator[Work]:
        stub: Any = project_service_pb2_grpc.ProjectServiceStub(await desk.channel(self.target.address))
        request = project_service_pb2.ListHandlesRequest(project_id=self.target.project_id)

        async def work() -> Outcome:
            count = 0
            async for reply in stub.ListHandles(request, metadata=self.target.metadata):
                count += len(reply.handles)
            return Outcome(count)

        yield work


def measure(stack: Stack, scale: Scale) -> Findings:
    """Make, work on, look up, list, copy, delete: once, whatever the number of rounds."""
    found = Findings()
    what = f"project of {scale.huge:,} files"
    needed, free = scale.huge * _ROOM / _GIB, stack.free_bytes() / _GIB
    if free < needed:
        say(f"  skipped: {free:.1f} GiB are free on the disk, {needed:.1f} are needed")
        found.lines.append((what, f"skipped: {free:.1f} GiB of {needed:.1f} GiB free", "", "", ""))
        return found
    service = stack.serve()
    with Fleet(_CLIENTS) as fleet, _disk_watched(stack) as disk:
        _Life(stack, service, fleet, scale, found, what).live()
    peak = procfs.peak_bytes(service.pid) / _MIB
    found.add(f"{what}: server's memory at its peak", [peak], ".0f", " MiB", at_most(500, " MiB"))
    found.add(f"{what}, and its copy: disk at its fullest, PostgreSQL's log included", [max(disk)], ".1f", " GiB")
    return found


class _Life:
    """What happens to the project, one after the other; each step adds what it found."""

    def __init__(self, stack: Stack, service: Service, fleet: Fleet, scale: Scale, found: Findings, what: str) -> None:
        self._stack = stack
        self._service = service
        self._fleet = fleet
        self._scale = scale
        self._found = found
        self._what = what
        self._server_cpu = partial(procfs.cpu_seconds, service.pid)

    def live(self) -> None:
        """From begin to end."""
        self._tell("started")
        project_id = self._create()
        self._work(project_id)
        self._look_up(project_id)
        self._list(project_id)
        copy_id = self._copy(project_id)
        self._delete((project_id, copy_id))

    def _create(self) -> int:
        files = self._scale.huge
        server, database = self._server_cpu(), self._stack.database_cpu()
        samples = self._fleet.run([StreamCreate(self._service.target(0), files)])
        (sample,) = samples
        run = Run(
            files=files,
            seconds=elapsed(samples),
            client_cpu=sample.cpu,
            server_cpu=self._server_cpu() - server,
            database_cpu=self._stack.database_cpu() - database,
        )
        what = f"{self._what}: create, messages made as they are sent"
        self._found.add(what, [run.rate], unit=" files/s")
        self._found.add(f"{what}: client's memory at its peak", [sample.outcome.times[0] / _MIB], ".0f", " MiB")
        self._found.costs.append(cost(what, [run]))
        self._tell(f"created in {run.seconds:.1f} s, {run.rate:,.0f} files/s")
        return sample.outcome.count

    def _work(self, project_id: int) -> None:
        target, workers = self._service.target(project_id), self._scale.workers
        parts = enumerate(shares(self._scale.huge_worked, _CLIENTS))
        jobs = [Sessions(target, n, workers, part) for n, part in parts]
        run = timed(self._fleet, jobs, self._server_cpu, self._stack.database_cpu)
        what = f"{self._what}: Work, some {self._scale.huge_worked:,} files"
        self._found.add(what, [run.rate], unit=" files/s")
        self._found.costs.append(cost(what, [run]))
        self._tell(f"worked on {run.files:,} files, {run.rate:,.0f} files/s")

    def _look_up(self, project_id: int) -> None:
        times = []
        for _ in range(_LOOKS):
            begin = time.monotonic()
            project = self._service.project(project_id)
            times.append((time.monotonic() - begin) * 1000)
        if project.counts.total != self._scale.huge:
            raise RuntimeError(f"expected {self._scale.huge:,} files, got {project.counts.total:,}")
        self._found.add(f"{self._what}: GetProject, {_LOOKS} times", times, ".1f", " ms")
        self._tell("looked up")

    def _list(self, project_id: int) -> None:
        (sample,) = samples = self._fleet.run([ListAll(self._service.target(project_id))])
        if sample.outcome.count != self._scale.huge:
            raise RuntimeError(f"expected {self._scale.huge:,} handles, got {sample.outcome.count:,}")
        rate = sample.outcome.count / elapsed(samples)
        self._found.add(f"{self._what}: ListHandles", [rate], unit=" files/s")
        self._tell(f"listed in {elapsed(samples):.1f} s, {rate:,.0f} files/s")

    def _copy(self, project_id: int) -> int:
        begin = time.monotonic()
        copy_id = self._service.copy_project(project_id)
        seconds = time.monotonic() - begin
        self._found.add(f"{self._what}: CopyProject", [seconds], ".1f", " s")
        self._found.add(f"{self._what}: CopyProject, rate", [self._scale.huge / seconds], unit=" files/s")
        self._tell(f"copied in {seconds:.1f} s, {self._scale.huge / seconds:,.0f} files/s")
        return copy_id

    def _delete(self, project_ids: tuple[int, ...]) -> None:
        begin, replies = time.monotonic(), []
        for project_id in project_ids:
            asked = time.monotonic()
            self._service.delete_project(project_id)
            replies.append(time.monotonic() - asked)
        asyncio.run(_until_gone(self._stack.dsn, project_ids))
        seconds = time.monotonic() - begin
        rate = len(project_ids) * self._scale.huge / seconds
        what = f"{self._what}, and its copy: DeleteProject"
        self._found.add(f"{what}, until the reply", replies, ".2f", " s")
        self._found.add(f"{what}, until no row of both is left", [seconds], ".1f", " s")
        self._found.add(f"{what}, rate", [rate], unit=" files/s")
        self._tell(f"deleted in {seconds:.1f} s, {rate:,.0f} files/s, longest reply {max(replies):.2f} s")

    def _tell(self, what: str) -> None:
        pid = self._service.pid
        now, peak = procfs.resident_bytes(pid) / _MIB, procfs.peak_bytes(pid) / _MIB
        disk = self._stack.database_bytes() / _GIB
        say(f"  {what}; server's memory {now:.0f} MiB, at its peak {peak:.0f} MiB; disk {disk:.1f} GiB")


@contextmanager
def _disk_watched(stack: Stack) -> Iterator[list[float]]:
    """Look at the disk now and then; the list gets how full it was, in GiB."""
    sizes = [stack.database_bytes() / _GIB]
    over = threading.Event()

    def look() -> None:
        while not over.wait(_DISK_PAUSE):
            sizes.append(stack.database_bytes() / _GIB)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


async def _until_gone(dsn: str, project_ids: tuple[int, ...]) -> None:
    """Wait until no file and no handle of the projects is left. Lowest ids go last: one step into the index finds the next to wait for."""
    left = [
        f"SELECT 1 FROM dispatch.{table} WHERE project_id = {project_id:d} ORDER BY project_id, handle_id LIMIT 1"
        for project_id in project_ids
        for table in ("handle", "file")
    ]
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(_GONE_LIMIT):
            while left:
                if await connection.fetchval(left[0]) is None:
                    del left[0]
                else:
                    await asyncio.sleep(_GONE_PAUSE)
    finally:
        await connection.close()
