"""The ceiling: a grpc.aio server with default options and loop that answers the worker's calls at once, always the same.

It speaks the same service with the same messages as dispatch, so the clients are the same to the last line and every byte on the wire
has its counterpart. It looks nothing up, checks no token and stores nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2

_START_LIMIT = 60.0
_END_LIMIT = 10.0


def _file() -> pb.ReservedFile:
    return pb.ReservedFile(
        handle=project_pb2.Handle(
            project_id=1,
            handle_id=10_000,
            did=project_pb2.Did(namespace="bench", name="file-0010000.root"),
            state=project_pb2.HANDLE_STATE_RESERVED,
            worker_id="bench-0-10",
            attempts=1,
            attributes_json="{}",
            reserve_time=Timestamp(seconds=1_700_000_000, nanos=123_456_000),
        ),
        project_attributes_json='{"virtual": true}',
    )


def _handler() -> grpc.GenericRpcHandler:
    following = pb.NextFileResponse(reserved=_file())
    reserved = pb.ReserveFilesResponse(files=[_file()])
    reported = pb.ReportResponse(results=[pb.ReportResult()])

    async def next_file(_request: pb.NextFileRequest, _context: Any) -> AsyncIterator[pb.NextFileResponse]:
        yield following

    async def reserve_files(_request: pb.ReserveFilesRequest, _context: Any) -> pb.ReserveFilesResponse:
        return reserved

    async def report(_request: pb.ReportRequest, _context: Any) -> pb.ReportResponse:
        return reported

    pushed = pb.WorkResponse(files=[_file().handle], acknowledged=1)

    async def work(requests: AsyncIterator[pb.WorkRequest], _context: Any) -> AsyncIterator[pb.WorkResponse]:
        async for request in requests:
            for _ in range(request.credits):
                yield pushed

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "NextFile": grpc.unary_stream_rpc_method_handler(
            next_file,
            request_deserializer=pb.NextFileRequest.FromString,
            response_serializer=pb.NextFileResponse.SerializeToString,
        ),
        "ReserveFiles": grpc.unary_unary_rpc_method_handler(
            reserve_files,
            request_deserializer=pb.ReserveFilesRequest.FromString,
            response_serializer=pb.ReserveFilesResponse.SerializeToString,
        ),
        "Report": grpc.unary_unary_rpc_method_handler(
            report,
            request_deserializer=pb.ReportRequest.FromString,
            response_serializer=pb.ReportResponse.SerializeToString,
        ),
        "Work": grpc.stream_stream_rpc_method_handler(
            work,
            request_deserializer=pb.WorkRequest.FromString,
            response_serializer=pb.WorkResponse.SerializeToString,
        ),
    }
    name = pb.DESCRIPTOR.services_by_name["HandleService"].full_name
    return grpc.method_handlers_generic_handler(name, handlers)


class EchoServer:
    """The echo server as a process. `address` is HOST:PORT."""

    def __init__(self) -> None:
        self.address = ""
        self._pid = 0

    @property
    def pid(self) -> int:
        """Process id."""
        return self._pid

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(_START_LIMIT):
            self.__exit__()
            raise RuntimeError("the echo server does not start")
        self.address = f"127.0.0.1:{self._connection.recv()}"
        self._pid = self._process.pid or 0
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()
        self._process.join(_END_LIMIT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(connection))


async def _run(connection: Connection) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handler(),))
    connection.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    with suppress(EOFError, OSError):
        await asyncio.to_thread(connection.recv)  # until the other end is closed
    await server.stop(0)
