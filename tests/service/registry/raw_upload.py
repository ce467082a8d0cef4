"""The upload stream message by message, for clients that do not behave."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc.aio

from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.rpc_end import true_error
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import content_service_pb2_grpc

PATIENCE = 20.0
_PIECE = 1 << 20


def announce(path: str, content: bytes, **fields: Any) -> pb.UploadFile:
    """Announce a file; `fields` replace what is true."""
    true = {
        "size": len(content),
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return pb.UploadFile(path=path, **(true | fields))


class RawUpload:
    """One stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def begin(self, address: str, upload_id: str = "", **fields: Any) -> None:
        """Say what is uploaded: `project/asset/version`."""
        project, asset, version = address.split("/")
        begin = pb.UploadBegin(
            project=project, asset=asset, version=version, upload_id=upload_id or str(uuid4()), **fields
        )
        await self.send(begin=begin)

    async def whole(self, address: str, upload_id: str, files: Mapping[str, bytes], **fields: Any) -> pb.UploadDone:
        """Send everything at once, and read the answer; `fields` replace what is true of each file."""
        project, asset, version = address.split("/")
        whole = pb.UploadWhole(
            begin=pb.UploadBegin(project=project, asset=asset, version=version, upload_id=upload_id),
            files=[announce(path, content, **fields) for path, content in files.items()],
            pieces=[pb.Piece(file=number, content=content) for number, content in enumerate(files.values()) if content],
        )
        await self.send(whole=whole)
        return (await self.read()).done

    async def manifest(self, *files: pb.UploadFile, count: int | None = None) -> None:
        """Announce files."""
        await self.send(manifest=pb.UploadManifest(files=files))
        await self.send(manifest_end=pb.UploadManifestEnd(files=len(files) if count is None else count))

    async def wanted(self) -> list[tuple[int, int]]:
        """Read what is wanted."""
        found: list[tuple[int, int]] = []
        while (reply := await self.read()).HasField("wanted"):
            found += [(file.file, file.offset) for file in reply.wanted.files]
        assert reply.wanted_end.files == len(found)
        return found

    async def piece(self, number: int, content: bytes, offset: int = 0) -> None:
        """Send a piece."""
        await self.send(data=pb.UploadData(pieces=[pb.Piece(file=number, offset=offset, content=content)]))

    async def finish(self) -> pb.UploadDone:
        """End, and read the answer."""
        await self.send(finish=pb.UploadFinish())
        return (await self.read()).done

    async def announce(self, *files: pb.UploadFile) -> list[tuple[int, int]]:
        """Announce files and read what is wanted."""
        await self.manifest(*files)
        return await self.wanted()

    async def last_piece(self, number: int, content: bytes, offset: int = 0) -> pb.UploadDone:
        """Send a piece and end."""
        await self.piece(number, content, offset)
        return await self.finish()

    async def rest(self, files: list[pb.UploadFile], contents: list[bytes]) -> pb.UploadDone:
        """Announce files, send all of their contents, and end."""
        await self.announce(*files)
        for number, content in enumerate(contents):
            for offset in range(0, len(content) or 1, _PIECE):
                await self.piece(number, content[offset : offset + _PIECE], offset)
        return await self.finish()

    async def send(self, **part: Any) -> None:
        """Send a message. Raises DraymanError if the call is over."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.call.write(pb.UploadRequest(**part))
        except grpc.aio.AioRpcError as error:
            raise await true_error(self.call, error) from None
        except asyncio.InvalidStateError:
            await self.read()

    async def read(self) -> pb.UploadResponse:
        """Read an answer. Raises DraymanError."""
        try:
            async with asyncio.timeout(PATIENCE):
                reply: pb.UploadResponse = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise await true_error(self.call, error) from None
        assert reply is not grpc.aio.EOF
        return reply


@asynccontextmanager
async def raw_upload(url: str, token: str) -> AsyncIterator[RawUpload]:
    """Open a stream; it is cancelled at the end."""
    async with open_channel(url) as channel:
        call = content_service_pb2_grpc.ContentServiceStub(channel).Upload(metadata=bearer(token))
        try:
            yield RawUpload(call)
        finally:
            call.cancel()


async def upload_all(url: str, token: str, address: str, files: Mapping[str, bytes], **fields: Any) -> pb.UploadDone:
    """Upload files in the plainest way."""
    async with raw_upload(url, token) as stream:
        await stream.begin(address, **fields)
        await stream.manifest(*[announce(path, content) for path, content in files.items()])
        names = list(files)
        for number, _ in await stream.wanted():
            await stream.piece(number, files[names[number]])
        return await stream.finish()
