"""The port for X.509 logins before a real gRPC server, with clients on both TLS libraries."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from drayman.client.channel import UrlError
from drayman.client.x509 import ClientIdentity, IdentityFileError, open_x509_channel, read_identity
from drayman.server.auth.distinguished_names import parse
from drayman.server.auth.x509_port import Credentials, Limits, X509Port
from grid import Grid, Identity

JANE = "CN=Jane Doe,O=Site,DC=grid,DC=org"
NOBODY = b"nobody|"
PATIENCE = 20


@dataclass
class Served:
    """A gRPC server with the port before it; /Test/Who answers who calls, /Test/Echo gives back what it is sent."""

    port: X509Port
    grid: Grid
    folder: Path
    peers: list[str] = field(default_factory=list)
    parked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"grpcs://127.0.0.1:{self.port.port}"

    async def who(self, identity: Identity | None, *, timeout: float = PATIENCE) -> bytes:
        """Ask over gRPC with a certificate."""
        async with self.channel(identity) as channel:
            return await call(channel, "Who", b"", timeout=timeout)

    def channel(self, identity: Identity | None) -> grpc.aio.Channel:
        pair = (identity.key_pem, identity.chain_pem) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.grid.root_pem, *pair)
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port.port}", credentials, options=options)

    async def open_tls(
        self, identity: Identity | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with the ssl module."""
        return await asyncio.open_connection("127.0.0.1", self.port.port, ssl=context or self.context(identity))

    def context(self, identity: Identity | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.grid.root_pem.decode())
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        if identity is not None:
            context.load_cert_chain(identity.write_proxy(self.folder / f"{id(identity)}.pem"))
        return context

    async def empty(self) -> None:
        """Wait until no connection is left."""
        async with asyncio.timeout(PATIENCE):
            while self.port.connections or self.port._peers:
                await asyncio.sleep(0.01)


async def call(channel: grpc.aio.Channel, method: str, request: bytes, *, timeout: float = PATIENCE) -> bytes:
    answer = channel.unary_unary(f"/Test/{method}")(request, timeout=timeout, wait_for_ready=True)
    return bytes(await answer)


@asynccontextmanager
async def serving(folder: Path, limits: Limits | None = None, *, hashed: bool = False) -> AsyncIterator[Served]:
    grid = Grid()
    certificate, key = grid.host().write(folder, "host")
    roots = folder / "root.pem"
    roots.write_bytes(grid.root_pem)
    if hashed:
        roots = grid.write_hashed(folder / "hashed", grid.revocation_list())
    served: Served

    async def who(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        served.peers.append(context.peer())
        found = served.port.certificate_of(context.peer())
        return f"{found.identity}|{found.problem}".encode() if found else NOBODY

    async def echo(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    async def park(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        served.parked.set()
        await asyncio.Event().wait()
        return b""

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method)
        for name, method in (("Who", who), ("Echo", echo), ("Park", park))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    inner = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    credentials = Credentials(str(certificate), str(key), str(roots), revocation_lists=hashed)
    port = X509Port("127.0.0.1:0", ("127.0.0.1", inner), credentials, limits)
    served = Served(port, grid, folder)
    await port.start()
    try:
        yield served
    finally:
        await port.stop()
        await server.stop(0)
        assert port.connections == 0


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits(reload_seconds=0)) as running:
        yield running


async def test_a_certificate(served: Served) -> None:
    assert await served.who(served.grid.user()) == f"{JANE}|".encode()


async def test_proxies(served: Served) -> None:
    proxy = served.grid.proxy(served.grid.user())
    assert await served.who(proxy) == f"{JANE}|".encode()
    assert await served.who(served.grid.proxy(proxy)) == f"{JANE}|".encode()


async def test_no_certificate(served: Served) -> None:
    assert await served.who(None) == NOBODY


async def test_bad_certificates_come_through_with_their_problem(served: Served) -> None:
    grid = served.grid
    jane = grid.user()
    for identity, problem in (
        (grid.user(days=(-10, -1)), "expired"),
        (grid.user(days=(1, 2)), "not yet valid"),
        (grid.proxy(jane, days=(-2, -1)), "expired"),
        (grid.proxy(jane, signing_key=grid.user("Thief").key), "untrusted"),
        (grid.legacy_proxy(jane), "untrusted"),
        (replace(Grid().user(), issuers=()), "untrusted"),
        (grid.user(signer=grid.user("Thief")), "untrusted"),
    ):
        assert await served.who(identity) == f"{JANE}|{problem}".encode()


async def test_each_connection_is_its_own(served: Served) -> None:
    async with AsyncExitStack() as stack:
        names = [f"User {number}" for number in range(8)]
        channels = [await stack.enter_async_context(served.channel(served.grid.user(name))) for name in names]
        for _ in range(3):
            answers = await asyncio.gather(*(call(channel, "Who", b"") for channel in channels))
            assert answers == [f"CN={name},O=Site,DC=grid,DC=org|".encode() for name in names]
        assert {served.port.certificate_of(peer).identity for peer in served.peers} == {
            parse(f"/DC=org/DC=grid/O=Site/CN={name}") for name in names
        }
    await served.empty()
    assert all(served.port.certificate_of(peer) is None for peer in served.peers)


async def test_the_address_behind_a_peer(served: Served) -> None:
    async with served.channel(served.grid.user()) as channel:
        await call(channel, "Who", b"")
        peer = served.peers[0]
        address = served.port.address_of(peer)
        assert address is not None
        assert address.startswith("ipv4:127.0.0.1:")
        assert address != peer
        number = peer.rpartition(":")[2]
        for spelling in (f"ipv6:[::ffff:127.0.0.1]:{number}", f"ipv6:%5B::ffff:127.0.0.1%5D:{number}"):
            assert served.port.address_of(spelling) == address
            assert served.port.certificate_of(spelling) == served.port.certificate_of(peer)
        for other in (f"ipv4:127.0.0.2:{number}", f"ipv6:[::1]:{number}", "unix:", "", "ipv4:", "ipv4:x:1", "ipv4:1"):
            assert served.port.address_of(other) is None
            assert served.port.certificate_of(other) is None


async def test_ipv6(tmp_path: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    grid = Grid()
    certificate, key = grid.host(addresses=("::1",)).write(tmp_path, "host")
    (tmp_path / "root.pem").write_bytes(grid.root_pem)
    peers: list[str] = []

    async def who(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        peers.append(context.peer())
        found = port.certificate_of(context.peer())
        return str(found and found.identity).encode() + b"|" + str(port.address_of(context.peer())).encode()

    server = grpc.aio.server()
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    inner = server.add_insecure_port("[::1]:0")
    await server.start()
    credentials = Credentials(str(certificate), str(key), str(tmp_path / "root.pem"))
    port = X509Port("[::1]:0", ("::1", inner), credentials)
    await port.start()
    user = grid.user()
    tls = grpc.ssl_channel_credentials(grid.root_pem, user.key_pem, user.chain_pem)
    async with grpc.aio.secure_channel(f"[::1]:{port.port}", tls) as channel:
        identity, _, address = (await call(channel, "Who", b"")).partition(b"|")
        assert identity.decode() == JANE
        assert address.startswith(b"ipv6:[::1]:")
    await port.stop()
    await server.stop(0)


async def test_much_in_both_directions(served: Served) -> None:
    data = os.urandom(8 * 1024 * 1024)
    async with served.channel(served.grid.proxy(served.grid.user())) as channel:
        answers = await asyncio.gather(*(call(channel, "Echo", data) for _ in range(3)))
    assert answers == [data] * 3


async def test_tls_by_the_ssl_module(served: Served) -> None:
    for identity in (served.grid.proxy(served.grid.user()), None):
        reader, writer = await served.open_tls(identity)
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        # the server's settings frame: the way to the gRPC server and back is open
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readexactly(9))[3] == 4
        found = [peer.certificate for peer in served.port._peers.values()]
        assert [str(certificate and certificate.identity) for certificate in found] == [JANE if identity else "None"]
        await close(writer)
        await served.empty()


async def test_sessions_are_not_resumed(served: Served) -> None:
    def connect(context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection(("127.0.0.1", served.port.port), PATIENCE) as plain,
            context.wrap_socket(plain, session=session) as tls,
        ):
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            tls.recv(9)
            return tls.session, tls.session_reused

    for newest in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        context = served.context(served.grid.user())
        context.maximum_version = newest
        session, _ = await asyncio.to_thread(connect, context, None)
        _, reused = await asyncio.to_thread(connect, context, session)
        assert not reused


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(served: Served) -> None:
    context = served.context(None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await served.open_tls(context=context)
    context = served.context(None)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await served.open_tls(context=context)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    await close(writer)


async def test_files_that_change_are_taken_over(served: Served) -> None:
    grid, other = served.grid, Grid("Elsewhere")
    assert await served.who(other.user("Eve")) == b"CN=Eve,O=Elsewhere,DC=grid,DC=org|untrusted"
    (served.folder / "root.pem").write_bytes(grid.root_pem + other.root_pem)
    assert await served.who(other.user("Eve")) == b"CN=Eve,O=Elsewhere,DC=grid,DC=org|"

    fresh = grid.host()
    (served.folder / "host.key").write_bytes(fresh.key_pem)
    # the certificate is still the old one: go on as before
    assert await served.who(grid.user()) == f"{JANE}|".encode()
    fresh.write(served.folder, "host")
    _, writer = await served.open_tls()
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert ssl.DER_cert_to_PEM_cert(shown).split() == fresh.certificate_pem.decode().split()
    await close(writer)


async def test_revocation_lists_that_change_are_taken_over(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(reload_seconds=0), hashed=True) as served:
        jane = served.grid.user()
        assert await served.who(served.grid.proxy(jane)) == f"{JANE}|".encode()
        served.grid.write_hashed(tmp_path / "hashed", served.grid.revocation_list(jane))
        assert await served.who(served.grid.proxy(jane)) == f"{JANE}|untrusted".encode()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close, and wait for it; what was under way from the other side does not matter."""
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed."""
    with suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    return True


async def test_a_slow_handshake_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(handshake_seconds=0.3)) as served:
        silent, writer = await asyncio.open_connection("127.0.0.1", served.port.port)
        other, slow = await asyncio.open_connection("127.0.0.1", served.port.port)
        slow.write(b"\x16\x03\x01")
        assert await closed(silent)
        assert await closed(other)
        writer.close()
        slow.close()
        await served.empty()
        assert await served.who(served.grid.user()) == f"{JANE}|".encode()


async def test_handshakes_of_one_address_are_limited(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(handshakes_per_address=3)) as served:
        opened = [await asyncio.open_connection("127.0.0.1", served.port.port) for _ in range(4)]
        assert await closed(opened[3][0])
        assert served.port.connections == 3
        opened[0][1].transport.abort()
        # gRPC tries until there is room
        assert await served.who(served.grid.user()) == f"{JANE}|".encode()
        for _, writer in opened:
            writer.transport.abort()


async def test_connections_are_limited(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(connections=5)) as served:
        opened = [await served.open_tls() for _ in range(5)]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await served.open_tls()
        assert served.port.connections == 5
        for _, writer in opened:
            writer.transport.abort()
        await served.empty()
        assert await served.who(served.grid.user()) == f"{JANE}|".encode()


async def test_the_quietest_connection_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drayman.server.auth.x509_port._QUIET_SECONDS", 0.0)
    async with serving(tmp_path, Limits(connections=3)) as served:
        opened = [await served.open_tls() for _ in range(3)]
        assert await served.who(served.grid.user()) == f"{JANE}|".encode()
        assert await closed(opened[0][0])
        assert not opened[2][0].at_eof()
        for _, writer in opened:
            writer.transport.abort()


async def test_idle_connections_are_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(idle_seconds=0.3)) as served:
        reader, writer = await served.open_tls()
        assert await closed(reader)
        writer.close()
        await served.empty()


async def test_many_logins_at_once(served: Served) -> None:
    proxy = served.grid.proxy(served.grid.user())
    answers = await asyncio.gather(*(served.who(proxy) for _ in range(60)))
    assert answers == [f"{JANE}|".encode()] * 60
    await served.empty()
    assert not served.port._handshakes


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def before_bytes(folder: Path, handler: Handler, limits: Limits | None = None) -> AsyncIterator[Served]:
    """The port before a server that is not gRPC's."""
    grid = Grid()
    certificate, key = map(str, grid.host().write(folder, "host"))
    handlers = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.create_task(handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = X509Port(
        "127.0.0.1:0", server.sockets[0].getsockname()[:2], Credentials(certificate, key, certificate), limits
    )
    await port.start()
    try:
        yield Served(port, grid, folder)
    finally:
        await port.stop()
        server.close()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*handlers)


async def stuffed(writer: asyncio.StreamWriter) -> int:
    """Write until it goes no further, and return how much went."""
    chunk, size = bytes(1024 * 1024), 0
    while size < 200 * len(chunk):
        writer.write(chunk)
        try:
            async with asyncio.timeout(1):
                await writer.drain()
        except TimeoutError:
            return size
        size += len(chunk)
    raise AssertionError("everything is taken in")


async def test_a_server_that_does_not_read_holds_the_client_back(tmp_path: Path) -> None:
    read = asyncio.Event()
    total = 0

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal total
        await read.wait()
        while data := await reader.read(65536):
            total += len(data)

    async with before_bytes(tmp_path, handler) as served:
        _, writer = await served.open_tls()
        size = await stuffed(writer)
        assert total == 0
        read.set()
        await close(writer)
        await served.empty()
        assert total >= size


async def test_a_client_that_does_not_read_holds_the_server_back(tmp_path: Path) -> None:
    stuck = asyncio.Event()
    sizes = []

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sizes.append(await stuffed(writer))
        stuck.set()
        await writer.drain()

    async with before_bytes(tmp_path, handler) as served:
        reader, writer = await served.open_tls()
        writer.transport.pause_reading()
        await asyncio.wait_for(stuck.wait(), 5 * PATIENCE)
        writer.transport.resume_reading()
        async with asyncio.timeout(PATIENCE):
            assert len(await reader.read(-1)) > sizes[0]
        await close(writer)
        await served.empty()


async def test_a_client_may_close_its_half_and_still_get_its_answer(tmp_path: Path) -> None:
    answer = os.urandom(4 * 1024 * 1024)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(-1) == b"question"
        writer.write(answer)
        writer.write_eof()
        await writer.drain()

    async with before_bytes(tmp_path, handler) as served:

        def ask_and_close() -> bytes:
            received = bytearray()
            with (
                socket.create_connection(("127.0.0.1", served.port.port), PATIENCE) as plain,
                served.context(None).wrap_socket(plain) as tls,
            ):
                tls.sendall(b"question")
                socket.socket.shutdown(tls, socket.SHUT_WR)
                while data := tls.recv(65536):
                    received += data
            return bytes(received)

        assert await asyncio.to_thread(ask_and_close) == answer
        await served.empty()


async def test_pings_do_not_keep_a_connection(tmp_path: Path) -> None:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(17))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with before_bytes(tmp_path, handler, Limits(idle_seconds=0.3)) as served:
        reader, writer = await served.open_tls()
        assert await closed(reader)
        await close(writer)
        await served.empty()


async def test_stop_with_open_connections(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        silent, plain = await asyncio.open_connection("127.0.0.1", served.port.port)
        reader, writer = await served.open_tls()
        async with served.channel(served.grid.user()) as channel:
            running = asyncio.ensure_future(channel.unary_unary("/Test/Park")(b"", timeout=PATIENCE))
            await asyncio.wait_for(served.parked.wait(), PATIENCE)
            before = {task for task in asyncio.all_tasks() if task.get_name() == "x509 connection"}
            assert len(before) == 3
            await served.port.stop()
            assert all(task.done() for task in before)
            assert await closed(silent)
            assert await closed(reader)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", served.port.port)
        await served.port.stop()
        plain.close()
        writer.close()


async def test_drain_takes_no_more_but_ends_nothing(served: Served) -> None:
    async with served.channel(served.grid.user()) as channel:
        await call(channel, "Who", b"")
        await served.port.drain()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", served.port.port)
        assert await call(channel, "Who", b"") == f"{JANE}|".encode()


async def test_nothing_behind_the_port(tmp_path: Path) -> None:
    grid = Grid()
    certificate, key = grid.host().write(tmp_path, "host")
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = free.getsockname()[1]
    port = X509Port("127.0.0.1:0", ("127.0.0.1", unused), Credentials(str(certificate), str(key), str(certificate)))
    await port.start()
    served = Served(port, grid, tmp_path)
    reader, writer = await served.open_tls()
    assert await closed(reader)
    writer.close()
    await served.empty()
    await port.stop()


async def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    certificate, key = map(str, Grid().host().write(tmp_path, "host"))
    with pytest.raises(ValueError, match="no such file"):
        await X509Port("127.0.0.1:0", ("127.0.0.1", 1), Credentials(certificate, key, "missing")).start()
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        await X509Port("nowhere", ("127.0.0.1", 1), Credentials(certificate, key, certificate)).start()
    never_started = X509Port("127.0.0.1:0", ("127.0.0.1", 1), Credentials(certificate, key, certificate))
    await never_started.stop()


async def test_any_bytes_do_no_harm(served: Served) -> None:
    flights = await asyncio.to_thread(first_flight, served.grid.proxy(served.grid.user()))
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300), st.integers(0, len(flights)), st.booleans())
    def harm(noise: bytes, place: int, inside: bool) -> None:
        data = flights[:place] + noise + flights[place + len(noise) :] if inside else noise
        with socket.create_connection(("127.0.0.1", served.port.port), PATIENCE) as plain, suppress(ConnectionError):
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass

    failed: list[object] = []
    loop.set_exception_handler(lambda _loop, context: failed.append(context))
    try:
        await asyncio.to_thread(harm)
        await served.empty()
        assert await served.who(served.grid.user()) == f"{JANE}|".encode()
    finally:
        loop.set_exception_handler(None)
    assert not failed


def first_flight(identity: Identity) -> bytes:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    with suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65536)


def test_under_uvloop(tmp_path: Path) -> None:
    async def all_of_it() -> None:
        async with serving(tmp_path) as served:
            proxy = served.grid.proxy(served.grid.user())
            async with asyncio.timeout(PATIENCE):
                # gRPC's asyncio client belongs to another loop in this process: ask in a thread
                identity = ClientIdentity(proxy.chain_pem, proxy.key_pem)
                assert await asyncio.to_thread(ask, served, identity) == f"{JANE}|".encode()
            reader, writer = await served.open_tls()
            await served.port.stop()
            assert await closed(reader)
            writer.close()

    uvloop.run(all_of_it())


def ask(served: Served, identity: ClientIdentity) -> bytes:
    with open_x509_channel(served.url, identity, root_certificates=served.grid.root_pem) as channel:
        return bytes(channel.unary_unary("/Test/Who")(b"", timeout=PATIENCE, wait_for_ready=True))


async def test_the_client_reads_what_the_field_has(served: Served, tmp_path: Path) -> None:
    user = served.grid.user()
    proxy = served.grid.proxy(user)
    certificate, key = user.write(tmp_path, "usercert")
    proxy_file = proxy.write_proxy(tmp_path / "x509up_u1000")
    windows = tmp_path / "windows.pem"
    windows.write_bytes(b"Bag Attributes: <none>\r\n" + proxy.proxy_pem.replace(b"\n", b"\r\n"))
    for identity in (read_identity(proxy_file), read_identity(certificate, key), read_identity(str(windows))):
        assert "PRIVATE" not in repr(identity)
        assert await asyncio.to_thread(ask, served, identity) == f"{JANE}|".encode()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder, _user: (folder / "none", None), "none: No such file"),
        (lambda folder, _user: (folder, None), "Is a directory"),
        (lambda folder, user: (written(folder / "c", user.key_pem), None), "c: no certificate in it"),
        (lambda folder, user: (written(folder / "c", user.chain_pem), None), "c: no private key in it; name the file"),
        (
            lambda folder, user: (written(folder / "c", user.chain_pem), written(folder / "k", b"x")),
            "k: no private key in it",
        ),
        (
            lambda folder, user: (
                written(folder / "c", user.chain_pem),
                written(folder / "k", user.encrypted_key_pem()),
            ),
            "k: the private key is encrypted",
        ),
        (
            lambda folder, user: (written(folder / "c", user.chain_pem), written(folder / "k", Grid().user().key_pem)),
            "k: the private key is not the certificate's",
        ),
        (
            lambda folder, user: (written(folder / "c", user.proxy_pem.replace(b"MII", b"M!!", 1)), None),
            "c: a certificate in it is damaged",
        ),
        (
            lambda folder, user: (written(folder / "c", user.proxy_pem.replace(b"MII", b"MIJ", 1)), None),
            "c: not usable",
        ),
        (lambda folder, _user: (written(folder / "c", b"x" * 2_000_000), None), "c: too large"),
    ],
)
def test_the_client_says_what_is_wrong_with_a_file(
    tmp_path: Path, make: Callable[[Path, Identity], tuple[Path, Path | None]], said: str
) -> None:
    with pytest.raises(IdentityFileError, match=said):
        read_identity(*make(tmp_path, Grid().user()))


def test_a_certificate_is_not_shown_without_tls() -> None:
    with pytest.raises(UrlError, match="over TLS only"):
        open_x509_channel("grpc://127.0.0.1:1", ClientIdentity(b"", b""))
