"""The port for X.509 logins: TLS by OpenSSL before a plaintext gRPC port on loopback.

gRPC's own TLS refuses grid proxies (RFC 3820) within the handshake, and a refused handshake tells a client nothing. This port takes
whatever a client presents and forwards what it decrypts; servicers look up by `context.peer()` which certificate came with a call, and
refuse it in a proper answer. A connection is known by its end of the loopback connection, which nobody else can have to the inner port
while it lasts. To another port of this machine somebody can: servicers must not ask here about calls that came by another one.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote

import structlog
from OpenSSL import SSL

from drayman.server.auth.certificates import PeerCertificate, open_connection, peer_certificate, server_context
from drayman.server.platform.lifecycle import Part

log = structlog.get_logger(__name__)

_CHUNK = 64 * 1024
#: What keepalive pings and their answers fit into: they do not make a connection busy.
_LARGEST_PING = 64
#: What the other side may take to close after one side did.
_LINGER_SECONDS = 10.0
#: A connection that has been quiet for this long may be ended if there are too many.
_QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class Limits:
    """What strangers may use up. Times are in seconds."""

    connections: int = 200
    handshakes_per_address: int = 20
    handshake_seconds: float = 10.0
    idle_seconds: float = 120.0
    #: How often, at most, the files are looked at for changes.
    reload_seconds: float = 5.0


@dataclass(frozen=True)
class Credentials:
    """Files of the server: its certificate (with those between it and the root) and key in PEM, and the authorities it trusts.

    `authorities` is a PEM file or a folder hashed by OpenSSL's rules; `revocation_lists` says whether the lists there are checked.
    """

    certificate: str
    key: str
    authorities: str
    revocation_lists: bool = False


@dataclass(frozen=True)
class _Peer:
    address: str
    certificate: PeerCertificate | None


class X509Port(Part):
    """Listens on `listen` (HOST:PORT; port 0 = a free one, see `port`) and forwards to the plaintext gRPC port `inner` (host, port)."""

    def __init__(
        self, listen: str, inner: tuple[str, int], credentials: Credentials, limits: Limits | None = None
    ) -> None:
        self._listen = listen
        self._inner = inner
        self._limits = limits or Limits()
        self._trust = _Trust(credentials, self._limits.reload_seconds)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._handshakes: Counter[str] = Counter()
        self._peers: dict[tuple[str, int], _Peer] = {}
        self.port = 0

    async def start(self) -> None:
        """Take the port. Raises ValueError if a file cannot be read, OSError if the port cannot be had."""
        await self._trust.load()
        host, port = _host_and_port(self._listen)
        self._server = await asyncio.start_server(self._accept, host, port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Take no more connections; those that are there may end."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """End all connections."""
        await self.drain()
        self._server = None
        while tasks := list(self._connections):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def connections(self) -> int:
        """How many connections there are, with those in the handshake."""
        return len(self._connections)

    def certificate_of(self, peer: str) -> PeerCertificate | None:
        """Return what the client behind a gRPC peer (`context.peer()`) presented; None if nothing, or if it did not come by this port."""
        found = self._find(peer)
        return found.certificate if found else None

    def address_of(self, peer: str) -> str | None:
        """Return the address of the client behind a gRPC peer, written as gRPC writes one; None if it did not come by this port."""
        found = self._find(peer)
        return found.address if found else None

    def _find(self, peer: str) -> _Peer | None:
        address = _peer_address(peer)
        return self._peers.get(address) if address else None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # gone again already if it has no name
        name = writer.get_extra_info("peername")
        if not name or not self._server or not self._has_room(name[0]):
            writer.transport.abort()
            return
        connection = _Connection(reader, writer)
        task = asyncio.create_task(self._run(connection, name[0], name[1]), name="x509 connection")
        self._connections[task] = connection
        # whether it ever ran or not
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).abort()

    async def _run(self, connection: _Connection, host: str, port: int) -> None:
        try:
            await self._serve(connection, host, port)
        except* (OSError, SSL.Error) as errors:  # among them time-outs
            log.debug("x509 connection ended", peer=host, error=_shortened(errors))
        except* Exception:
            log.exception("x509 connection failed", peer=host)

    def _has_room(self, host: str) -> bool:
        if self._handshakes[host] >= self._limits.handshakes_per_address:
            log.warning("too many handshakes of one address", peer=host)
            return False
        if len(self._connections) < self._limits.connections:
            return True
        now = asyncio.get_running_loop().time()
        task, quietest = min(self._connections.items(), key=lambda entry: entry[1].busy_at)
        if now - quietest.busy_at < _QUIET_SECONDS or task.cancelling():
            log.warning("too many x509 connections", peer=host)
            return False
        task.cancel()
        return True

    async def _serve(self, connection: _Connection, host: str, port: int) -> None:
        async with self._handshaking(host):
            await connection.handshake(await self._trust.current())
            inner_reader, inner_writer = await self._connect()
        key = _key(*inner_writer.get_extra_info("sockname")[:2])
        # before the first byte, so that no call comes from a peer that is not known yet
        self._peers[key] = _Peer(_as_grpc(host, port), peer_certificate(connection.tls))
        try:
            await connection.pump(inner_reader, inner_writer, self._limits.idle_seconds)
        finally:
            # before the close, after which another connection could have the same end
            del self._peers[key]
            inner_writer.transport.abort()
        await connection.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection(*self._inner, limit=_CHUNK)
        except OSError as error:
            log.warning("the gRPC port behind the x509 port is away", error=str(error))
            raise

    @asynccontextmanager
    async def _handshaking(self, host: str) -> AsyncIterator[None]:
        self._handshakes[host] += 1
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                yield
        finally:
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]


class _Connection:
    """One client's connection: TLS over memory buffers between its socket and what is forwarded."""

    tls: SSL.Connection

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.busy_at = self._loop.time()

    async def handshake(self, context: SSL.Context) -> None:
        """Agree on keys. Raises SSL.Error, OSError."""
        self.tls = open_connection(context)
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                if not await self._feed():
                    raise ConnectionResetError("closed within the handshake") from None
            except SSL.Error:
                # the alert that says why
                with suppress(OSError):
                    await self._flush()
                    await self.close()
                raise
            else:
                await self._flush()
                return

    async def close(self) -> None:
        """Close when what is under way to the client has left. Raises OSError, among them TimeoutError."""
        self._writer.close()
        async with asyncio.timeout(_LINGER_SECONDS):
            await self._writer.wait_closed()
        self._closed = True

    def abort(self) -> None:
        """Close at once."""
        # asyncio of Python 3.11 fails on a transport that is closed already
        if not self._closed:
            self._writer.transport.abort()

    async def pump(self, inner_reader: asyncio.StreamReader, inner_writer: asyncio.StreamWriter, idle: float) -> None:
        """Forward in both directions until both sides have closed. Raises TimeoutError if nothing comes for `idle` seconds."""
        async with asyncio.timeout(idle) as waiting:

            def heard(size: int) -> None:
                if size > _LARGEST_PING and not (inward.done() or outward.done() or waiting.expired()):
                    self.busy_at = self._loop.time()
                    waiting.reschedule(self.busy_at + idle)

            def closing(task: asyncio.Task[None]) -> None:
                if not task.cancelled() and not waiting.expired():
                    end = self._loop.time() + _LINGER_SECONDS
                    waiting.reschedule(min(end, waiting.when() or end))

            async def forward() -> None:
                while data := await self._read():
                    heard(len(data))
                    inner_writer.write(data)
                    await inner_writer.drain()
                inner_writer.write_eof()

            async def answer() -> None:
                while data := await inner_reader.read(_CHUNK):
                    heard(len(data))
                    await self._write(data)
                self.tls.shutdown()
                await self._flush()
                self._writer.write_eof()

            async with asyncio.TaskGroup() as group:
                inward, outward = group.create_task(forward()), group.create_task(answer())
                inward.add_done_callback(closing)
                outward.add_done_callback(closing)

    async def _read(self) -> bytes:
        """Return what the client sent; empty when it has closed."""
        while True:
            try:
                return self.tls.recv(_CHUNK)
            except SSL.WantReadError:
                await self._flush()
            except SSL.ZeroReturnError:
                return b""
            if not await self._feed():
                return b""

    async def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.tls.send(rest) :]
            await self._flush()

    async def _feed(self) -> bool:
        data = await self._reader.read(_CHUNK)
        if data:
            self.tls.bio_write(data)
        return bool(data)

    async def _flush(self) -> None:
        # taken out and written without a pause, so that records stay in order whoever sends them
        records = []
        with suppress(SSL.WantReadError):
            while True:
                records.append(self.tls.bio_read(_CHUNK))
        if records:
            self._writer.writelines(records)
            await self._writer.drain()


class _Trust:
    """The TLS side as the files say; made anew when they have changed, kept as it was if they cannot be read."""

    def __init__(self, credentials: Credentials, reload_seconds: float) -> None:
        self._credentials = credentials
        self._reload_seconds = reload_seconds
        self._context: SSL.Context | None = None
        self._stamp: object = None
        self._looked_at = 0.0

    async def load(self) -> None:
        """Read the files. Raises ValueError."""
        self._stamp = await asyncio.to_thread(_stamp, self._credentials)
        self._context = await asyncio.to_thread(_read, self._credentials)
        self._looked_at = asyncio.get_running_loop().time()

    async def current(self) -> SSL.Context:
        """Return the context for a new connection."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= self._reload_seconds:
            self._looked_at = now
            stamp = await asyncio.to_thread(_stamp, self._credentials)
            if stamp != self._stamp:
                await self._renew(stamp)
        assert self._context is not None
        return self._context

    async def _renew(self, stamp: object) -> None:
        # a file may be half written or its partner still the old one: the next change is looked at again
        self._stamp = stamp
        try:
            self._context = await asyncio.to_thread(_read, self._credentials)
        except ValueError as error:
            log.warning("x509 files not taken over", error=str(error))
        else:
            log.info("x509 files read again")


def _read(files: Credentials) -> SSL.Context:
    return server_context(files.certificate, files.key, files.authorities, revocation_lists=files.revocation_lists)


def _stamp(files: Credentials) -> list[tuple[str, int, int, int]]:
    """Return what is different after any of the files has changed."""
    return sorted(_stamps(files.certificate, files.key, files.authorities))


def _stamps(*paths: str) -> Iterator[tuple[str, int, int, int]]:
    for path in paths:
        with suppress(OSError):
            entries = [entry.path for entry in os.scandir(path)] if Path(path).is_dir() else [path]
            for entry in entries:
                with suppress(OSError):
                    found = Path(entry).stat()
                    yield entry, found.st_mtime_ns, found.st_size, found.st_ino


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{listen!r}: expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _peer_address(peer: str) -> tuple[str, int] | None:
    """Read what gRPC calls a peer: `ipv4:127.0.0.1:1234`, `ipv6:[::1]:1234`, `ipv6:%5B::1%5D:1234`."""
    scheme, _, address = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return None
    try:
        return _key(*_host_and_port(address))
    except ValueError:
        return None


def _key(host: str, port: int) -> tuple[str, int]:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address), port


def _as_grpc(host: str, port: int) -> str:
    name, _ = _key(host, port)
    return f"ipv6:[{name}]:{port}" if ":" in name else f"ipv4:{name}:{port}"


def _shortened(errors: BaseExceptionGroup[BaseException]) -> str:
    return ", ".join(str(error)[:200] or type(error).__name__ for error in errors.exceptions)
