"""Uploads a few files in the plainest way that the protocol allows, without our own client."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc.aio

from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.client.registry_values import Version, version_of
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import content_service_pb2_grpc, version_pb2


@dataclass(frozen=True)
class Linked:
    """A link to a file of the registry."""

    key: str


async def upload(
    url: str,
    token: str,
    address: str,
    files: Mapping[str, bytes | Linked | None],
    *,
    probation: bool = False,
    spoof: str = "",
) -> Version:
    """Upload `project/asset/version`, and wait for the documents: bytes are files, None is an empty directory."""
    project, asset, version = address.split("/")
    begin = pb.UploadBegin(
        project=project,
        asset=asset,
        version=version,
        on_probation=probation,
        upload_id=str(uuid4()),
        spoof=spoof,
        with_documents=True,
    )
    pieces = [
        pb.Piece(file=number, content=what)
        for number, what in enumerate(files.values())
        if isinstance(what, bytes) and what
    ]
    requests = [
        pb.UploadRequest(begin=begin),
        pb.UploadRequest(manifest=pb.UploadManifest(files=[_file(path, what) for path, what in files.items()])),
        pb.UploadRequest(manifest_end=pb.UploadManifestEnd(files=len(files))),
        pb.UploadRequest(data=pb.UploadData(pieces=pieces)),
        pb.UploadRequest(finish=pb.UploadFinish()),
    ]

    async def each() -> AsyncIterator[pb.UploadRequest]:
        for request in requests:
            yield request

    async with open_channel(url) as channel:
        stub: Any = content_service_pb2_grpc.ContentServiceStub(channel)
        try:
            async for reply in stub.Upload(each(), metadata=tuple(bearer(token)), timeout=60):
                if reply.HasField("done"):
                    return version_of(reply.done.version)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    raise AssertionError("the stream ended without an answer")


def _file(path: str, what: bytes | Linked | None) -> pb.UploadFile:
    if what is None:
        return pb.UploadFile(path=path, empty_directory=True)
    if isinstance(what, Linked):
        to = version_pb2.FileAddress(
            **dict(zip(("project", "asset", "version", "path"), what.key.split("/", 3), strict=True))
        )
        return pb.UploadFile(path=path, link=pb.UploadLink(registry=to))
    return pb.UploadFile(
        path=path, size=len(what), md5=hashlib.md5(what).hexdigest(), sha256=hashlib.sha256(what).hexdigest()
    )
