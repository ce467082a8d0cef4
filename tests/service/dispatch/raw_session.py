"""A worker's session without the client's politeness: every message is the test's own, and everything that comes back is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import grpc.aio

from drayman.client.errors import DraymanError, from_rpc_error
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc, project_pb2, project_service_pb2, project_service_pb2_grpc
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

PATIENCE = 10.0


class RawSession:
    """One stream of a session."""

    def __init__(
        self,
        office: Office,
        project_id: int,
        worker_id: str,
        session_id: str = "",
        *,
        stub: Any = None,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.project_id = project_id
        self.worker_id = worker_id
        self.session_id = session_id or str(uuid4())
        self.started: pb.WorkStarted | None = None
        self.files: list[project_pb2.Handle] = []
        self.acknowledged = 0
        self.refused: list[pb.RefusedReport] = []
        self.lost: list[pb.Lease] = []
        self.progress: list[pb.Progress] = []
        self.ended: list[pb.ProjectEnded] = []
        self.draining = False
        self.over = False
        self.error: DraymanError | None = None
        self.granted = 0
        self.largest = 0
        self._change = asyncio.Event()
        self._call = (stub or office.handles).Work(metadata=office.metadata if metadata is None else metadata)
        self._reading: asyncio.Task[None] | None = None

    async def open(
        self,
        holding: Iterable[tuple[int, int]] = (),
        *,
        credits: int = 0,  # noqa: A002 - the contract's word
        cpu_site: str = "",
        reading: bool = True,
    ) -> RawSession:
        """Start, and wait for the answer."""
        start = pb.StartWork(
            project_id=self.project_id,
            worker_id=self.worker_id,
            session_id=self.session_id,
            cpu_site=cpu_site,
            holding=[pb.Lease(handle_id=handle_id, attempt=attempt) for handle_id, attempt in holding],
        )
        self.granted += credits
        await self._call.write(pb.WorkRequest(start=start, credits=credits))
        if reading:
            self.read()
            await self.until(lambda: self.started is not None or self.over)
        return self

    def read(self) -> None:
        """Begin to read."""
        self._reading = asyncio.create_task(self._read())

    async def say(self, *reports: pb.FileReport, credits: int = 0) -> None:  # noqa: A002 - see above
        """Send a message."""
        self.granted += credits
        await self._call.write(pb.WorkRequest(credits=credits, reports=reports))

    async def send(self, request: pb.WorkRequest) -> None:
        """Send any message, whether it makes sense or not."""
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await self._call.write(request)

    async def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until what was heard makes a condition true."""
        async with asyncio.timeout(seconds):
            while not condition():
                assert not self.over, f"the stream ended: {self.error}"
                self._change.clear()
                await self._change.wait()

    async def has(self, files: int) -> list[project_pb2.Handle]:
        """Wait for so many files in all."""
        await self.until(lambda: len(self.files) >= files)
        return self.files

    async def ends(self) -> DraymanError | None:
        """Wait for the end of the stream; returns its error."""
        if self._reading is None:
            self.read()
        assert self._reading is not None
        async with asyncio.timeout(PATIENCE):
            await self._reading
        return self.error

    async def close(self) -> None:
        """Close our side and wait for the other's."""
        await self._call.done_writing()
        assert await self.ends() is None

    async def break_off(self) -> None:
        """Be gone."""
        self._call.cancel()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        try:
            async for response in self._call:
                self._note(response)
        except grpc.aio.AioRpcError as error:
            self.error = from_rpc_error(error)
        except asyncio.CancelledError:
            pass
        finally:
            self.over = True
            self._change.set()

    def _note(self, response: pb.WorkResponse) -> None:
        self.largest = max(self.largest, response.ByteSize())
        if response.HasField("started"):
            assert self.started is None
            self.started = response.started
        self.files += response.files
        assert len(self.files) <= self.granted, "more files than credits"
        self.acknowledged += response.acknowledged
        assert len(response.refused) <= response.acknowledged
        self.refused += response.refused
        self.lost += response.lost
        if response.HasField("progress"):
            self.progress.append(response.progress)
        if response.HasField("ended"):
            self.ended.append(response.ended)
        self.draining |= response.draining
        self._change.set()


class Office:
    """Stubs, a token, and the database behind them."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]], database: asyncpg.Pool) -> None:
        self.handles = handle_service_pb2_grpc.HandleServiceStub(channel)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.metadata = metadata
        self._database = database

    def session(self, project_id: int, worker_id: str = "w", session_id: str = "", **options: Any) -> RawSession:
        """Make a session that is not open yet."""
        return RawSession(self, project_id, worker_id, session_id, **options)

    async def create(self, count: int, *, attributes_json: str = "", virtual: bool = True, **rules: Any) -> int:
        """Create a project of so many files; returns its id."""
        spec = project_service_pb2.ProjectSpec(attributes_json=f'{{"virtual": {str(virtual).lower()}}}', **rules)
        files = [_file(f"f{number:06d}", attributes_json) for number in range(count)]

        async def messages() -> AsyncIterator[project_service_pb2.CreateProjectRequest]:
            yield project_service_pb2.CreateProjectRequest(spec=spec)
            for begin in range(0, count, 100):
                batch = project_service_pb2.FileBatch(files=files[begin : begin + 100])
                yield project_service_pb2.CreateProjectRequest(files=batch)
            yield project_service_pb2.CreateProjectRequest(end=project_service_pb2.EndOfFiles(file_count=count))

        reply = await self.projects.CreateProject(messages(), metadata=self.metadata)
        project_id: int = reply.project.project_id
        return project_id

    async def add(self, project_id: int, count: int, *, still_open: bool) -> None:
        """Add files to a project."""
        begin = project_service_pb2.BeginAddFiles(project_id=project_id, open=still_open, request_id=str(uuid4()))
        files = [_file(f"{uuid4().hex}", "") for _ in range(count)]
        messages = [
            project_service_pb2.AddFilesRequest(begin=begin),
            project_service_pb2.AddFilesRequest(files=project_service_pb2.FileBatch(files=files)),
            project_service_pb2.AddFilesRequest(end=project_service_pb2.EndOfFiles(file_count=count)),
        ]
        await self.projects.AddFiles(iter(messages), metadata=self.metadata)

    async def rows(self, project_id: int) -> dict[int, tuple[str, int, str | None]]:
        """Read the handles from the database: state, attempts, reason code."""
        rows = await self._database.fetch(
            "SELECT handle_id, state::text, attempts, code FROM dispatch.handle WHERE project_id = $1", project_id
        )
        return {row["handle_id"]: (row["state"], row["attempts"], row["code"]) for row in rows}

    async def count(self, project_id: int, state: str) -> int:
        """Count handles in the database."""
        number: int = await self._database.fetchval(
            "SELECT count(*) FROM dispatch.handle WHERE project_id = $1 AND state::text = $2", project_id, state
        )
        return number

    async def comes_to(self, project_id: int, state: str, number: int, seconds: float = PATIENCE) -> None:
        """Wait until so many handles are in a state."""
        async with asyncio.timeout(seconds):
            while await self.count(project_id, state) != number:
                await asyncio.sleep(0.02)

    async def tally(self, project_id: int) -> tuple[int, int, int]:
        """Read the counts: files, done, failed. What the groups say is ready must be what is."""
        row = await self._database.fetchrow(
            """SELECT t.files, t.done, t.failed, t.running, t.max_running,
                      (SELECT coalesce(sum(ready), 0) FROM dispatch.ready_group g WHERE g.project_id = $1) AS ready
                 FROM dispatch.tally t WHERE t.project_id = $1""",
            project_id,
        )
        assert row is not None
        states = [state for state, _, _ in (await self.rows(project_id)).values()]
        counted = [row["files"], row["done"], row["failed"], row["ready"]]
        assert counted == [len(states), *(states.count(state) for state in ("done", "failed", "initial"))]
        assert row["running"] == (states.count("reserved") if row["max_running"] else 0)
        return row["files"], row["done"], row["failed"]


def report(handle: project_pb2.Handle, outcome: pb.Outcome = pb.OUTCOME_DONE, **fields: Any) -> pb.FileReport:
    """Write a report on a file."""
    return pb.FileReport(**({"handle_id": handle.handle_id, "attempt": handle.attempts, "outcome": outcome} | fields))


def leases(handles: Iterable[project_pb2.Handle]) -> list[tuple[int, int]]:
    """Name the leases of files."""
    return [(handle.handle_id, handle.attempts) for handle in handles]


@contextmanager
def replica(stack: LocalStack, directory: Path) -> Iterator[tuple[ServiceProcess, str]]:
    """Another process of the same services on the same database, and its URL."""
    directory.mkdir(exist_ok=True)
    arguments = ["--data-dir", str(directory / "data"), "--listen", "127.0.0.1:0"]
    process = ServiceProcess(arguments, stack.environment, directory / "log")
    try:
        yield process, process.await_ready(60)
    finally:
        process.terminate()


def _file(name: str, attributes_json: str) -> project_pb2.File:
    return project_pb2.File(did=project_pb2.Did(namespace="ns", name=name), attributes_json=attributes_json)
