"""A site that people log in to: auth as a process with settings of its own, and what its users, administrators and operators see of it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from drayman.auth.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    auth_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.client import digest
from drayman.client.challenge import answer_challenge
from drayman.client.credentials import bearer
from drayman.client.errors import DraymanError, from_rpc_error
from drayman.testing.service_process import ServiceProcess
from grid import Identity

ADMIN, ADMIN_PASSWORD = "admin", "nobody else has this password of the administrator"
PATIENCE = 20.0

#: Linux 6.3 and later.
IP_LOCAL_PORT_RANGE = 51

_START_SECONDS = 60.0
#: Connections must not be shared between channels of different certificates.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def fresh(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


class Site:
    """One server process. `roots` are the authorities that its certificate is trusted by, in PEM."""

    def __init__(self, process: ServiceProcess, url: str, log: Path, roots: bytes | None) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.roots = roots
        self.channel = self.open(self.port)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        self.users = user_service_pb2_grpc.UserServiceStub(self.channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self._audit = audit_service_pb2_grpc.AuditServiceStub(self.channel)
        self._admin_token = ""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def open(self, port: int, identity: Identity | None = None, host: str = "127.0.0.1") -> grpc.aio.Channel:
        """Open a channel to a port of the site, showing a certificate if there is one."""
        if self.roots is None:
            return grpc.aio.insecure_channel(f"{host}:{port}", options=_OPTIONS)
        pair = (identity.key_pem, identity.chain_pem) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.roots, *pair)
        return grpc.aio.secure_channel(f"{host}:{port}", credentials, options=_OPTIONS)

    # --- administrators ----------------------------------------------------------------------------------------------

    async def as_admin(self) -> Any:
        """Metadata of the administrator."""
        if not self._admin_token:
            reply = await self.auth.Login(await challenged(self.auth, ADMIN, ADMIN_PASSWORD), timeout=PATIENCE)
            self._admin_token = reply.token.token
        return bearer(self._admin_token)

    async def add_user(self, name: str = "", *, password: str = "", disabled: bool = False, **identity: Any) -> str:
        """Create a user, with an identity if one is given by the name of its field; returns the name."""
        name = name or fresh("user")
        request = user_service_pb2.CreateUserRequest(username=name)
        if password:
            request.secrets.add(algorithm="SHA-256", realm="drayman", ha1=digest.ha1(name, "drayman", password))
        await self.users.CreateUser(request, metadata=await self.as_admin(), timeout=PATIENCE)
        if identity:
            await self.register(name, **identity)
        if disabled:
            await self.disable(name)
        return name

    async def disable(self, name: str, *, disabled: bool = True) -> None:
        request = user_service_pb2.UpdateUserRequest(username=name, disabled=disabled)
        await self.users.UpdateUser(request, metadata=await self.as_admin(), timeout=PATIENCE)

    async def register(self, name: str, *, remove: bool = False, **identity: Any) -> None:
        """Register an identity, given by the name of its field, or remove it."""
        listed = [user_service_pb2.Identity(**identity)]
        request = user_service_pb2.UpdateIdentitiesRequest(username=name, **{"remove" if remove else "add": listed})
        await self.users.UpdateIdentities(request, metadata=await self.as_admin(), timeout=PATIENCE)

    async def audit(self, name: str, action: str = "LOGIN") -> list[Event]:
        """What the audit log says of a user, newest first."""
        request = audit_service_pb2.ListAuditEventsRequest(username=name, actions=[action])
        pages = self._audit.ListAuditEvents(request, metadata=await self.as_admin(), timeout=PATIENCE)
        return [Event.of(event) async for page in pages for event in page.events]

    async def session(self, name: str) -> session_service_pb2.Session:
        """The latest session of a user."""
        request = session_service_pb2.ListSessionsRequest(username=name)
        reply = await self.sessions.ListSessions(request, metadata=await self.as_admin(), timeout=PATIENCE)
        return reply.sessions[0]

    # --- users -------------------------------------------------------------------------------------------------------

    async def info(self, token: str) -> pb.GetAuthInfoResponse:
        reply: pb.GetAuthInfoResponse = await self.auth.GetAuthInfo(
            pb.GetAuthInfoRequest(), metadata=bearer(token), timeout=PATIENCE
        )
        return reply


@dataclass(frozen=True)
class Event:
    """An event of the audit log."""

    actor: str
    subject: str
    method: str
    reason: str
    peer: str
    refused: bool
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: audit_service_pb2.AuditEvent) -> Event:
        detail = json.loads(event.detail_json)
        return cls(event.actor, event.subject, event.method, event.reason, event.peer, event.refused, detail)


async def challenged(auth: Any, username: str, password: str) -> pb.LoginRequest:
    """A login by challenge and response."""
    challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=username), timeout=PATIENCE)
    return pb.LoginRequest(digest=answer_challenge(username, password, challenge)[0].credential)


async def refusal(call: Any) -> DraymanError:
    """What a call is refused with."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"not refused: {reply}")


def seen(error: DraymanError) -> tuple[Any, ...]:
    """All that somebody sees of a refusal."""
    metadata = tuple(sorted(error.metadata.items()))
    return (error.code, error.reason, error.message, error.field, metadata, error.retry_after)


@asynccontextmanager
async def open_site(
    dsn: str, folder: Path, *services: str, roots: bytes | None = None, environment: dict[str, str] | None = None
) -> AsyncIterator[Site]:
    """Run a server on a database; `environment` has settings without `DRAYMAN_`."""
    settings = {
        "DATABASE_URL": dsn,
        "SECRETS_KEY_FILE": str(folder / "secrets-keys"),
        "ADMIN_USER": ADMIN,
        "ADMIN_PASSWORD": ADMIN_PASSWORD,
        "LISTEN": "127.0.0.1:0",
        "DATA_DIR": str(folder / "data"),
        **(environment or {}),
    }
    log = folder / f"{fresh('services')}.log"
    process = ServiceProcess(services or ["auth"], {f"DRAYMAN_{name}": text for name, text in settings.items()}, log)
    url = await asyncio.to_thread(process.await_ready, _START_SECONDS)
    site = Site(process, url, log, roots)
    try:
        yield site
    finally:
        await site.channel.close()
        code = await asyncio.to_thread(process.terminate)
    assert code == 0
    assert '"defect"' not in log.read_text()


@asynccontextmanager
async def relay(port: int, *, source: str = "127.0.0.1", own_port: int = 0) -> AsyncIterator[int]:
    """Forward connections to a port of this machine, from another address of it or from a certain port; yields where to connect."""
    pumps: set[asyncio.Task[None]] = set()
    with socket.socket() as probe:
        try:
            _prepare(probe, source, own_port)
        except OSError as error:
            pytest.skip(f"no connection from {source}, port {own_port} here: {error}")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(sock=await _connected(port, source, own_port))
        except OSError:
            writer.transport.abort()
            return
        pumps.update(
            (asyncio.create_task(_pump(reader, other_writer)), asyncio.create_task(_pump(other_reader, writer)))
        )

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _connected(port: int, source: str, own_port: int) -> socket.socket:
    connection = socket.socket()
    try:
        connection.setblocking(False)
        _prepare(connection, source, own_port)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: socket.socket, source: str, own_port: int) -> None:
    if own_port:
        # not by bind, which refuses a port in use even where its other end is elsewhere
        connection.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", own_port | own_port << 16))
    else:
        connection.bind((source, 0))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
