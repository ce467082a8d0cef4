"""A connection that can be cut: a port that passes everything on to another one, until it is told not to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cuttable:
    """Passes bytes on. `cut_after` bytes from the client the connection is reset, once for each number that is left."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[object]] = set()
        self.cuts_after: list[int] = []
        self.cuts = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"grpc://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self.cuts += 1

    async def end(self) -> None:
        """Reset every connection and wait for their ends."""
        self.cut()
        async with asyncio.timeout(5):
            while self._connections:
                await asyncio.wait(self._connections)
                # what was reset is closed by the loop, a moment later
                await asyncio.sleep(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        pair = {writer}
        self._writers |= pair
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pair.add(other_writer)
            self._writers.add(other_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, other_writer, count=True))
                group.create_task(self._pass(other_reader, writer, count=False))
        except* (OSError, EOFError):
            pass
        finally:
            for each in pair:
                each.transport.abort()
            self._writers -= pair

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        passed = 0
        while data := await reader.read(1 << 16):
            passed += len(data)
            if count and self.cuts_after and passed > self.cuts_after[0]:
                self.cuts_after.pop(0)
                self.cut()
                return
            writer.write(data)
            await writer.drain()
        raise EOFError


@asynccontextmanager
async def cuttable(url: str) -> AsyncIterator[Cuttable]:
    """Open a port in front of another one."""
    passing = Cuttable(int(url.rpartition(":")[2]))
    server = await asyncio.start_server(passing.serve, "127.0.0.1", 0)
    passing.port = server.sockets[0].getsockname()[1]
    try:
        yield passing
    finally:
        server.close()
        await passing.end()
