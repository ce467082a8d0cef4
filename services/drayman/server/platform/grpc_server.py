"""The gRPC server of a process: options that hold under fleets, health, reflection, and a drain that ends."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from drayman.server.platform.calls import Access, Call, Dispatcher, Rule, Service
from drayman.server.platform.settings import Settings
from drayman.server.platform.tls import ServerCertificate
from drayman.system.v1 import system_service_pb2 as system

log = structlog.get_logger(__name__)

#: Entries that a client should put into one message of a stream; told by GetServerInfo.
MAX_BATCH = 1000
#: How often a drain looks whether calls are still running; and what they may take to send their answers' last bytes.
_LAST_CALLS_SECONDS = 0.2


def server_options(settings: Settings) -> list[tuple[str, Any]]:
    """Options of the gRPC core. Each is here because the default fails a fleet."""
    return [
        # bursts of thousands of new calls are answered CANCELLED by default; admission is ours (Dispatcher)
        ("grpc.server.max_pending_requests", 100_000),
        ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ("grpc.max_concurrent_streams", 100_000),
        # clients may ping every 20 s, also while nothing is under way; otherwise they get ENHANCE_YOUR_CALM
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # firewalls drop idle flows in silence: ping ourselves too, and notice who is gone
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        # several replicas may share a port
        ("grpc.so_reuseport", 1 if settings.reuse_port else 0),
    ]


SYSTEM_SERVICE = {"GetServerInfo": Rule(Access.PUBLIC)}


class SystemServicer:
    """SystemService: what the process says of itself."""

    def __init__(self, settings: Settings, services: list[str]) -> None:
        self._info = system.GetServerInfoResponse(
            version=importlib.metadata.version("drayman"),
            services=sorted(services),
            max_message_bytes=settings.max_message_bytes,
            max_batch=MAX_BATCH,
        )

    async def GetServerInfo(self, _request: system.GetServerInfoRequest, _call: Call) -> system.GetServerInfoResponse:  # noqa: N802
        """Return version and limits."""
        return self._info


class GrpcServer:
    """Serves a dispatcher's services, health and reflection on one port."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher, services: list[str]) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._services = services
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=server_options(settings), maximum_concurrent_rpcs=None)
        descriptor = system.DESCRIPTOR.services_by_name["SystemService"]
        system_servicer = SystemServicer(settings, services)
        dispatcher.add(Service(descriptor, system_servicer, SYSTEM_SERVICE))
        self._server.add_generic_rpc_handlers((dispatcher,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            self._add_reflection([*services, descriptor.full_name, health.SERVICE_NAME])
        self.port = 0

    def _add_reflection(self, services: list[str]) -> None:
        """Offer reflection v1alpha, and v1: the same messages under the newer name."""
        servicer = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call] # its stubs do not say
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        v1 = grpc.method_handlers_generic_handler(
            "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": handler}
        )
        self._server.add_generic_rpc_handlers((v1,))

    def bind(self) -> int:
        """Take the port; raises OSError if it cannot be had. Calls wait until `start`."""
        settings = self._settings
        try:
            if settings.tls_cert:
                certificate = ServerCertificate(settings.tls_cert, settings.tls_key)
                self.port = self._server.add_secure_port(settings.listen, certificate.credentials())
            else:
                self.port = self._server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.listen}: {error}") from error
        if self.port == 0:
            raise OSError(f"cannot listen on {settings.listen}: is the port taken?")
        return self.port

    async def start(self) -> None:
        """Begin to answer, not yet SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def serving(self) -> None:
        """Tell health checks that calls are welcome."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Tell health checks that calls are not welcome any more."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let running ones end for `grace` seconds, then cancel them.

        It waits no longer than our own calls run: one that arrived in the very moment may have been lost in gRPC, which would wait for it.
        """
        stopping = asyncio.create_task(self._server.stop(grace))
        end = time.monotonic() + grace
        while time.monotonic() < end and not stopping.done():
            await asyncio.wait([stopping], timeout=_LAST_CALLS_SECONDS)
            if not self._dispatcher.running:
                break
        await self._server.stop(0)
        await stopping

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)
