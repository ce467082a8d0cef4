"""Composition: which services run in this process, from the first line to the last."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import asyncpg
import grpc.aio
import structlog
import uvloop
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from drayman.client.channel import UrlError, open_channel
from drayman.server.auth.room import open_auth
from drayman.server.dispatch.room import open_dispatch
from drayman.server.platform.allocator import keep_buffers
from drayman.server.platform.calls import Dispatcher
from drayman.server.platform.database import MigrationError
from drayman.server.platform.embedded import EmbeddedPostgres, EmbeddedPostgresError
from drayman.server.platform.grpc_server import GrpcServer
from drayman.server.platform.lifecycle import Part, Room, Surroundings
from drayman.server.platform.logging import configure_logging
from drayman.server.platform.metrics import CallMetrics, serve_metrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.settings import Settings, SettingsError
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Trust
from drayman.server.platform.trust_watch import TrustWatch
from drayman.server.registry.room import open_registry
from drayman.server.task.room import open_task

log = structlog.get_logger(__name__)

#: Every service there is, by the name that `drayman serve` takes.
ROOMS: Mapping[str, Callable[[Surroundings], Awaitable[Room]]] = {
    "auth": open_auth,
    "dispatch": open_dispatch,
    "registry": open_registry,
    "task": open_task,
}


class StartError(Exception):
    """The process cannot serve; the text says why and what would help."""


def serve(
    settings: Settings, services: Sequence[str], ready: Callable[[str], None], *, until_eof: bool = False
) -> None:
    """Run services until SIGTERM or SIGINT (or, with `until_eof`, the end of standard input).

    `ready` is called with the URL once calls are answered. Raises StartError.
    """
    keep_buffers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, services, ready, until_eof=until_eof))


async def _serve(settings: Settings, services: Sequence[str], ready: Callable[[str], None], *, until_eof: bool) -> None:
    unknown = [name for name in services if name not in ROOMS]
    if unknown:
        raise StartError(f"no service {', '.join(unknown)}: there are {', '.join(ROOMS)}")
    configure_logging(settings.log_level, settings.log_format)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        loop.add_reader(sys.stdin, _heed_end_of_input, loop, stop)
    try:
        async with AsyncExitStack() as stack:
            await _run(settings, list(services) or list(ROOMS), ready, stop, stack)
    except (SettingsError, EmbeddedPostgresError, MigrationError) as error:
        raise StartError(str(error)) from error
    except asyncpg.PostgresError as error:
        raise StartError(f"the database refuses: {error}") from error
    except (OSError, asyncpg.InterfaceError) as error:
        raise StartError(str(error) or type(error).__name__) from error


def _heed_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        loop.remove_reader(sys.stdin)
        stop.set()


async def _run(
    settings: Settings, services: list[str], ready: Callable[[str], None], stop: asyncio.Event, stack: AsyncExitStack
) -> None:
    database_url = settings.database_url or await _embedded_database(settings, stack)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    if settings.metrics_listen:
        stack.callback(serve_metrics(settings.metrics_listen, registry))

    # Services of one process call each other over loopback, with the stubs that everybody uses.
    inner = grpc.aio.server()
    inner_port = inner.add_insecure_port("127.0.0.1:0")
    auth = _auth_channel(settings, services, inner_port)
    stack.push_async_callback(auth.close)
    peers = _Peers(settings, services, inner_port)
    stack.push_async_callback(peers.close)
    trust = Trust(settings.auth_silence)
    identity = ServiceIdentity(settings.service_key or secrets.token_urlsafe(32))
    watch = TrustWatch(auth, trust, identity)
    verifier = TokenVerifier(trust, watch.fetch_keys)
    dispatcher = Dispatcher(
        trust,
        verifier,
        identity,
        CallMetrics(registry),
        max_calls=settings.max_calls,
        public_reads=settings.public_reads,
    )
    inner.add_generic_rpc_handlers((dispatcher,))
    await inner.start()
    stack.push_async_callback(inner.stop, 0)

    rooms = []
    for name in services:
        room = await ROOMS[name](
            Surroundings(settings, database_url, auth, verifier, inner_port, registry, identity, peers.channel)
        )
        rooms.append(room)
        for service in room.services:
            dispatcher.add(service)
    server = GrpcServer(settings, dispatcher, [s.descriptor.full_name for room in rooms for s in room.services])
    parts = [part for room in rooms for part in room.parts] + [watch]
    for part in parts:
        stack.push_async_callback(part.stop)
        await part.start()
    port = server.bind()
    await server.start()
    await server.serving()
    host = settings.listen.rpartition(":")[0]
    url = f"{'grpcs' if settings.tls_cert else 'grpc'}://{host}:{port}"
    # What is there by now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    log.info("ready", url=url, services=services)
    ready(url)

    await stop.wait()
    await _drain(settings, server, parts)


async def _drain(settings: Settings, server: GrpcServer, parts: Sequence[Part]) -> None:
    """Stop handing out, let reports in, then close."""
    log.info("draining")
    await server.not_serving()
    for part in parts:
        await part.drain()
    await server.stop(settings.drain_seconds)
    log.info("stopped")


async def _embedded_database(settings: Settings, stack: AsyncExitStack) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    postgres = EmbeddedPostgres(settings.data_dir / "postgres")
    await asyncio.to_thread(postgres.start)
    stack.push_async_callback(asyncio.to_thread, postgres.stop)
    return postgres.dsn


class _Peers:
    """Channels to the other services: in this process, or where the settings say."""

    def __init__(self, settings: Settings, services: Sequence[str], inner_port: int) -> None:
        self._urls = {"dispatch": settings.dispatch_url, "registry": settings.registry_url}
        self._services = services
        self._inner_port = inner_port
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, name: str) -> grpc.aio.Channel:
        """Return the channel to a service. Raises SettingsError."""
        found = self._channels.get(name)
        if found is None:
            found = self._channels[name] = self._open(name, self._urls[name])
        return found

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    def _open(self, name: str, url: str) -> grpc.aio.Channel:
        if not url:
            if name not in self._services:
                raise SettingsError(f"{name} does not run in this process: set {name}_url to where it does")
            return grpc.aio.insecure_channel(f"127.0.0.1:{self._inner_port}")
        try:
            return open_channel(url)
        except UrlError as error:
            raise SettingsError(f"{name}_url: {error}") from error


def _auth_channel(settings: Settings, services: Sequence[str], inner_port: int) -> grpc.aio.Channel:
    """Open the channel to auth: in this process, or where the settings say. Raises SettingsError."""
    if not settings.auth_url:
        if "auth" not in services:
            raise SettingsError(
                "auth does not run in this process: set auth_url to where it does, and service_key to its key"
            )
        return grpc.aio.insecure_channel(f"127.0.0.1:{inner_port}")
    if not settings.service_key:
        raise SettingsError(
            "auth_url is set: set service_key to the one that auth has, so that auth knows this process"
        )
    try:
        return open_channel(settings.auth_url)
    except UrlError as error:
        raise SettingsError(f"auth_url: {error}") from error
