"""The asyncio client of sandboxes: archives with users' code, which their jobs unpack."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc.aio

from drayman.client.calls import Client
from drayman.client.errors import UnavailableError
from drayman.task.v1 import sandbox_service_pb2 as pb
from drayman.task.v1 import sandbox_service_pb2_grpc

_CHUNK = 1 << 20


class SandboxClient(Client):
    """Stores and fetches sandboxes. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._sandboxes = sandbox_service_pb2_grpc.SandboxServiceStub(channel)

    async def put(self, path: str | Path, name: str = "") -> str:
        """Store a file under a name (its own, unless one is given); returns that name. Raises OSError for a file that cannot be read."""
        source = Path(path)
        with await asyncio.to_thread(source.open, "rb") as file:
            size = os.fstat(file.fileno()).st_size

            async def parts() -> AsyncIterator[pb.PutSandboxRequest]:
                yield pb.PutSandboxRequest(header=pb.SandboxHeader(name=name or source.name, size=size))
                offset = 0
                # whoever is refused at once leaves this unfinished, and may begin again
                while chunk := await asyncio.to_thread(os.pread, file.fileno(), _CHUNK, offset):
                    offset += len(chunk)
                    yield pb.PutSandboxRequest(chunk=chunk)

            stored: str = (await self._send(self._sandboxes.PutSandbox, parts, again=True)).name
        return stored

    async def get(self, name: str, target: str | Path) -> int:
        """Fetch a sandbox into a file, which is there whole or not at all; returns its size. Raises OSError for a target that cannot be."""
        target = Path(target)
        partial = target.with_name(f".{target.name[:200]}.{uuid4().hex}")
        try:
            with partial.open("xb") as file:
                announced = 0
                async with self._stream(self._sandboxes.GetSandbox, pb.GetSandboxRequest(name=name)) as replies:
                    async for reply in replies:
                        if reply.WhichOneof("part") == "chunk":
                            await asyncio.to_thread(file.write, reply.chunk)
                        else:
                            announced = reply.size
                size = file.tell()
            if size != announced:
                raise UnavailableError(
                    f"{size} of {announced} bytes of the sandbox {name} came", code=grpc.StatusCode.UNAVAILABLE
                )
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return size

    async def find(self, size: int, trailer: bytes) -> str | None:
        """Look for a sandbox of one's own of the last 3 days by its size and its last 8 bytes; None = there is none."""
        request = pb.FindSandboxRequest(size=size, trailer=trailer)
        return (await self._call(self._sandboxes.FindSandbox, request)).name or None
