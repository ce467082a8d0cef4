"""SandboxService: archives with users' code, on their way in and out (reference §7)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.lifecycle import Repeating
from drayman.server.task.sandbox_bytes import SandboxBytes
from drayman.server.task.sandbox_store import LONGEST_NAME, SandboxStore, is_name
from drayman.task.v1 import sandbox_service_pb2 as pb

_MB = 1024 * 1024
_LARGEST_SOURCES = 768 * _MB
_LARGEST = 100 * _MB
_REUSED = 3 * 86400.0
_DAY = 86400.0
_SWEEP_EVERY = 3600.0
_SWEPT_AT_ONCE = 100
#: Names that may be stored again.
_OVERWRITE = ".__ow__"


class SandboxServicer:
    """Stores and sends sandboxes."""

    def __init__(self, store: SandboxStore, content: SandboxBytes) -> None:
        self._store = store
        self._bytes = content

    async def PutSandbox(self, requests: AsyncIterator[pb.PutSandboxRequest], call: Call) -> pb.PutSandboxResponse:
        """Store a sandbox."""
        first = await anext(requests, None)
        if first is None or not first.HasField("header"):
            raise invalid("header", "expected the header first: the name and the size")
        name, size = first.header.name, first.header.size
        _check_name(name)
        if size < 0:
            raise invalid("header.size", f"size {size}: expected the number of bytes that come")
        limit = _LARGEST_SOURCES if name.startswith("sources.") else _LARGEST
        if size > limit:
            raise Refusal(
                "SANDBOX_TOO_LARGE",
                f"{name} has {size} bytes: at most {limit}",
                metadata={"size": str(size), "limit": str(limit)},
            )
        replace = name.endswith(_OVERWRITE)
        if not replace and await self._store.find(name) is not None:
            raise await self._present(name)
        key = uuid4().hex
        stored, trailer = await self._bytes.put(key, _chunks(requests, size), limit)
        facts = name, key, call.caller.username, stored, trailer
        if replace:
            old = await self._store.replace(*facts)
            if old is not None:
                await self._bytes.delete(old)
        elif not await self._store.add(*facts):
            await self._bytes.delete(key)
            raise await self._present(name)
        return pb.PutSandboxResponse(name=name)

    async def GetSandbox(self, request: pb.GetSandboxRequest, call: Call) -> None:
        """Send a sandbox."""
        name = request.name
        found = await self._open(name) if is_name(name) else None
        if found is None:
            shown = name[:LONGEST_NAME]
            raise Refusal("SANDBOX_NOT_FOUND", f"there is no sandbox {shown!r}", metadata={"name": shown})
        await self._store.used([name])
        size, content = found
        await call.send(pb.GetSandboxResponse(size=size))
        async with aclosing(content) as chunks:
            async for chunk in chunks:
                await call.send(pb.GetSandboxResponse(chunk=chunk))

    async def FindSandbox(self, request: pb.FindSandboxRequest, call: Call) -> pb.FindSandboxResponse:
        """Look for one of the caller's with the same content."""
        row = await self._store.same(call.caller.username, request.size, request.trailer, _REUSED)
        if row is None or not await self._bytes.has(row["key"]):
            return pb.FindSandboxResponse()
        await self._store.used([row["name"]])
        at = Timestamp()
        at.FromDatetime(row["created_at"])
        return pb.FindSandboxResponse(name=row["name"], create_time=at)

    async def _open(self, name: str) -> tuple[int, AsyncGenerator[bytes, None]] | None:
        before = None
        while (row := await self._store.find(name)) is not None and row["key"] != before:
            if (found := await self._bytes.open(row["key"])) is not None:
                return found
            before = row["key"]  # if it was replaced just now, there is another one
        return None

    async def _present(self, name: str) -> Refusal:
        await self._store.used([name])
        return Refusal("SANDBOX_EXISTS", f"there is a sandbox {name!r}, which is kept", metadata={"name": name})


class SandboxSweeper(Repeating):
    """Removes sandboxes that nobody used for long."""

    def __init__(self, store: SandboxStore, content: SandboxBytes, days: float) -> None:
        super().__init__("sandboxes", self._sweep)
        self._store = store
        self._bytes = content
        self._seconds = days * _DAY

    async def _sweep(self) -> float:
        looked_at, keys = await self._store.sweep(self._seconds, _SWEPT_AT_ONCE)
        for key in keys:
            await self._bytes.delete(key)
        if looked_at == _SWEPT_AT_ONCE:
            return 0.0
        # what a crash left between the bytes and the row
        left = await self._bytes.older(_DAY)
        for begin in range(0, len(left), _SWEPT_AT_ONCE):
            keys = left[begin : begin + _SWEPT_AT_ONCE]
            for key in set(keys) - await self._store.known(keys):
                await self._bytes.delete(key)
        return _SWEEP_EVERY


async def _chunks(requests: AsyncIterator[pb.PutSandboxRequest], size: int) -> AsyncIterator[bytes]:
    came = 0
    async for request in requests:
        if not request.HasField("chunk"):
            raise invalid("part", "a second header came where bytes were to come")
        came += len(request.chunk)
        if came > size:
            break
        yield request.chunk
    if came != size:
        raise Refusal("CONTENT_MISMATCH", f"{came} bytes came of a sandbox that was announced with {size}")


def _check_name(name: str) -> None:
    if not is_name(name):
        raise invalid(
            "header.name", f"name {name[:80]!r}: expected 1 to {LONGEST_NAME} bytes without `/` and control characters"
        )
