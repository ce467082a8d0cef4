"""Client processes: load comes from outside of the process that measures.

A client process keeps its channels from job to job. For each job it gets ready (channels up, messages built), says so, waits until all
are ready and it is let go, and only then looks at the clock.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self

import grpc.aio

#: A job that takes longer, in seconds, has failed.
_LIMIT = 600.0
_START_LIMIT = 60.0
_END_LIMIT = 10.0
_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]


class FleetError(Exception):
    """A client process failed; the text says how."""


@dataclass(frozen=True)
class Outcome:
    """What a job did: how many, and times in seconds if it took any."""

    count: int
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sample:
    """An outcome with the process's clock (the machine's monotonic one) and CPU time around it, in seconds."""

    outcome: Outcome
    start: float
    end: float
    cpu: float


class Desk:
    """What a client process keeps from job to job: one channel an address."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def channel(self, address: str) -> grpc.aio.Channel:
        """Return the channel to HOST:PORT once it is connected."""
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        await channel.channel_ready()
        return channel

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()


Work = Callable[[], Awaitable[Outcome]]


class Job(Protocol):
    """Something a client process does. It is pickled to get there."""

    def ready(self, desk: Desk) -> AbstractAsyncContextManager[Work]:
        """Get ready; what is entered is what the clock runs for."""


class Fleet:
    """`size` client processes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._members: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self._busy: list[Connection] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        try:
            for _ in range(self._size):
                ours, theirs = context.Pipe()
                process = context.Process(target=_live, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._members.append((process, ours))
            for _, connection in self._members:
                _receive(connection, _START_LIMIT)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def run(self, jobs: Sequence[Job]) -> list[Sample]:
        """Do one job a process, all from the same moment on. Raises FleetError."""
        self.prepare(jobs)
        self.let_go()
        return self.collect()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Hand out jobs and return when all are ready to begin. Raises FleetError."""
        self._busy = [connection for (_, connection), _ in zip(self._members, jobs, strict=False)]
        assert len(self._busy) == len(jobs), "more jobs than processes"
        for connection, job in zip(self._busy, jobs, strict=True):
            connection.send(job)
        for connection in self._busy:
            _receive(connection, _LIMIT)

    def let_go(self) -> None:
        """Start the clocks."""
        for connection in self._busy:
            connection.send("go")

    def collect(self) -> list[Sample]:
        """Wait for the ends. Raises FleetError."""
        return [_receive(connection, _LIMIT) for connection in self._busy]

    def close(self) -> None:
        """End the processes."""
        for _, connection in self._members:
            with suppress(OSError):
                connection.send(None)
        for process, connection in self._members:
            process.join(_END_LIMIT)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
        self._members.clear()


def _receive(connection: Connection, limit: float) -> Any:
    if not connection.poll(limit):
        raise FleetError(f"a client process said nothing for {limit:.0f} s")
    try:
        message = connection.recv()
    except EOFError:
        raise FleetError("a client process ended") from None
    if isinstance(message, Exception):
        raise FleetError(f"a client process failed: {message}")
    return message


def _live(connection: Connection) -> None:
    """A client process from begin to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then ends us
    with suppress(EOFError, OSError):  # the parent has gone
        asyncio.run(_work(connection))


async def _work(connection: Connection) -> None:
    desk = Desk()
    connection.send("alive")
    while (job := await asyncio.to_thread(connection.recv)) is not None:
        try:
            async with asyncio.timeout(_LIMIT):
                sample = await _do(job, desk, connection)
        except Exception as error:
            connection.send(RuntimeError(f"{type(job).__name__}: {type(error).__name__}: {error}"))
        else:
            connection.send(sample)
    await desk.close()


async def _do(job: Job, desk: Desk, connection: Connection) -> Sample:
    async with job.ready(desk) as work:
        connection.send("ready")
        if await asyncio.to_thread(connection.recv) is None:
            raise SystemExit  # another client process failed, and all are ended
        cpu, start = time.process_time(), time.monotonic()
        outcome = await work()
        return Sample(outcome, start, time.monotonic(), time.process_time() - cpu)
