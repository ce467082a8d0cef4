"""The asyncio client of what a process says of itself."""

from __future__ import annotations

import grpc.aio

from drayman.client.calls import Client
from drayman.system.v1 import system_service_pb2 as pb
from drayman.system.v1 import system_service_pb2_grpc


class SystemClient(Client):
    """Facts of the process that answers; no token is needed. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._system = system_service_pb2_grpc.SystemServiceStub(channel)

    async def version(self) -> str:
        """Return the version of the server's distribution."""
        version: str = (await self._call(self._system.GetServerInfo, pb.GetServerInfoRequest())).version
        return version
