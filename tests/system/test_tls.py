"""What travels, travels by TLS: versions, certificates that are replaced, starts that are refused, and services in several processes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from cryptography import x509

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.credentials import bearer
from drayman.client.errors import DraymanError, from_rpc_error
from drayman.dispatch.v1 import project_service_pb2, project_service_pb2_grpc
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.settings import Settings, SettingsError
from drayman.server.platform.tls import ServerCertificate
from grid import Grid, Identity
from service.auth.deployment import new_database
from service.auth.login_site import PATIENCE, Site, challenged, open_site, refusal

SERVICE_KEY = "a key that both processes of this test have"


@dataclass
class Secured:
    """A site with TLS on both of its ports, the files of its certificate, and where others find its database."""

    site: Site
    place: dict[str, str]
    grid: Grid
    certificate: Path
    key: Path
    x509_port: int


@asynccontextmanager
async def secured(dsn: str, folder: Path, *services: str, **environment: str) -> AsyncIterator[Secured]:
    grid = Grid()
    authorities = folder / "authorities.pem"
    authorities.write_bytes(grid.root_pem)
    certificate, key = grid.host().write(folder, "host")
    settings = {
        "TLS_CERT": str(certificate),
        "TLS_KEY": str(key),
        "X509_LISTEN": "127.0.0.1:0",
        "X509_CA": str(authorities),
        **environment,
    }
    async with open_site(dsn, folder, *services, roots=grid.root_pem, environment=settings) as site:
        options = await site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
        place = {
            "DATABASE_URL": dsn,
            "SECRETS_KEY_FILE": str(folder / "secrets-keys"),
            "REGISTRY": str(folder / "registry"),
        }
        yield Secured(site, place, grid, certificate, key, options.x509_port)


@pytest_asyncio.fixture(scope="module")
async def running(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    """A site whose certificate nobody replaces."""
    async with (
        new_database(postgres) as dsn,
        secured(dsn, tmp_path_factory.mktemp("secured"), SERVICE_KEY=SERVICE_KEY) as served,
    ):
        yield served


# --- versions --------------------------------------------------------------------------------------------------------


def agreed(port: int, version: ssl.TLSVersion) -> str:
    """Offer one version of TLS and nothing else; return what was agreed on, or what was said against it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _allow(context, version)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return str(connection.version())
    except ssl.SSLError as error:
        return str(error.reason)


def _allow(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what it is about
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")  # else our side would not offer them


@contextmanager
def old_server(certificate: Path, key: Path, version: ssl.TLSVersion) -> Iterator[int]:
    """A server that agrees to an old version: yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    _allow(context, version)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE)


REFUSED = "TLSV1_ALERT_PROTOCOL_VERSION"
OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]


@pytest.mark.parametrize("version", OLD)
async def test_old_versions_of_tls_are_refused_on_both_ports(running: Secured, version: ssl.TLSVersion) -> None:
    with old_server(running.certificate, running.key, version) as port:
        spoken = await asyncio.to_thread(agreed, port, version)
    assert spoken == {"TLSv1": "TLSv1", "TLSv1_1": "TLSv1.1"}[version.name]  # our side can do it
    # gRPC says nothing and closes
    assert await asyncio.to_thread(agreed, running.site.port, version) in ("UNEXPECTED_EOF_WHILE_READING", REFUSED)
    assert await asyncio.to_thread(agreed, running.x509_port, version) == REFUSED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_versions_are_spoken_on_both_ports(running: Secured, version: ssl.TLSVersion) -> None:
    for port in (running.site.port, running.x509_port):
        assert await asyncio.to_thread(agreed, port, version) == version.name.replace("_", ".")


async def test_nobody_speaks_plaintext_to_a_port_with_tls(running: Secured) -> None:
    for port in (running.site.port, running.x509_port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = auth_service_pb2_grpc.AuthServiceStub(channel)
            error = await refusal(stub.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE))
        assert error.code is grpc.StatusCode.UNAVAILABLE


# --- certificates that are replaced ----------------------------------------------------------------------------------


def serial(port: int) -> int:
    """The number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of the old one, as tools for certificates do."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


async def test_a_new_certificate_is_taken_over_without_a_restart(database_url: str, tmp_path: Path) -> None:
    async with secured(database_url, tmp_path) as served:
        site = served.site
        warning, taken = "new TLS certificate not usable", "TLS certificate read again"

        async def shown() -> int:
            return await asyncio.to_thread(serial, site.port)

        def number(identity: Identity) -> int:
            return identity.certificate.serial_number

        first = x509.load_pem_x509_certificate(served.certificate.read_bytes()).serial_number
        assert await shown() == first
        done = asyncio.Event()
        answered = 0

        async def call_on() -> None:
            nonlocal answered
            while not done.is_set():
                await site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
                answered += 1

        calling = asyncio.create_task(call_on())  # over the connection that was there before
        second, third = served.grid.host(), served.grid.host()

        # the certificate is there and its key not yet; then half a certificate; then no file
        for content in (second.chain_pem, second.chain_pem[:200]):
            replace(served.certificate, content)
            for _ in range(3):
                assert await shown() == first
        served.certificate.unlink()
        assert await shown() == first
        log = site.log.read_text()
        assert "the key does not belong to the certificate" in log
        assert log.count(warning) == 3  # not one for each connection
        assert taken not in log

        replace(served.certificate, second.chain_pem)
        assert await shown() == first
        replace(served.key, second.key_pem)
        assert await shown() == number(second)
        # once more, written in place
        served.key.write_bytes(third.key_pem)
        assert await shown() == number(second)
        served.certificate.write_bytes(third.chain_pem)
        assert await shown() == number(third)
        assert site.log.read_text().count(taken) == 2
        # gRPC takes it too, and whoever was connected never noticed
        async with site.open(site.port) as channel:
            stub = auth_service_pb2_grpc.AuthServiceStub(channel)
            await stub.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
        before = answered
        async with asyncio.timeout(PATIENCE):
            while answered == before:
                await asyncio.sleep(0)
        done.set()
        await calling


# --- starts that are refused -----------------------------------------------------------------------------------------


def refused(folder: Path, *services: str, **environment: str) -> str:
    """Start a server that must not start: it ends by itself, with one line, which is returned."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DRAYMAN_")}
    settings = {"LISTEN": "127.0.0.1:0", "DATA_DIR": str(folder / "data"), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "drayman", "serve", *services],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ours | {f"DRAYMAN_{name}": value for name, value in settings.items()},
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # besides the log
    assert len(lines) == 1, done.stderr
    return lines[0]


def pair(folder: Path, certificate: bytes, key: bytes) -> dict[str, str]:
    files = {"TLS_CERT": folder / "cert.pem", "TLS_KEY": folder / "key.pem"}
    for path, content in zip(files.values(), (certificate, key), strict=True):
        path.write_bytes(content)
    return {name: str(path) for name, path in files.items()}


KINDS = ["missing", "rubbish", "empty", "cut off", "another key", "encrypted key", "no key", "key in both"]


def unusable(folder: Path, kind: str) -> dict[str, str]:
    """Settings with a certificate and a key that cannot be used."""
    host, other = Grid().host(), Grid().host()
    contents = {
        "missing": (host.chain_pem, host.key_pem),
        "rubbish": (b"rubbish", b"rubbish"),
        "empty": (b"", host.key_pem),
        "cut off": (host.chain_pem[:-40], host.key_pem),
        "another key": (host.chain_pem, other.key_pem),
        "encrypted key": (host.chain_pem, host.encrypted_key_pem()),
        "no key": (host.chain_pem, host.chain_pem),
        "key in both": (host.key_pem, host.key_pem),
    }
    settings = pair(folder, *contents[kind])
    if kind == "missing":
        settings["TLS_KEY"] += ".nowhere"
    return settings


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, kind: str) -> None:
    settings = unusable(tmp_path, kind)
    with pytest.raises(SettingsError) as caught:
        ServerCertificate(settings["TLS_CERT"], settings["TLS_KEY"])
    assert str(caught.value).startswith(f"tls_cert {settings['TLS_CERT']}, tls_key {settings['TLS_KEY']}: ")


@pytest.mark.parametrize("kind", ["missing", "another key"])
def test_a_server_does_not_start_with_files_that_cannot_be_used(running: Secured, tmp_path: Path, kind: str) -> None:
    settings = unusable(tmp_path, kind)
    complaint = refused(tmp_path, **running.place, **settings)
    assert complaint.startswith(f"drayman: tls_cert {settings['TLS_CERT']}, tls_key {settings['TLS_KEY']}: ")


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "anybody.example.org:0", "localhost.example.org:0", "*:0"]
)
def test_plaintext_beyond_loopback_has_to_be_asked_for(listen: str) -> None:
    settings = {"DRAYMAN_LISTEN": listen}
    for asked in ({}, {"DRAYMAN_INSECURE_PLAINTEXT": "false"}):
        with pytest.raises(SettingsError, match=r"reachable by others.*insecure_plaintext"):
            Settings.from_environment(settings | asked)
    Settings.from_environment(settings | {"DRAYMAN_INSECURE_PLAINTEXT": "true"})
    Settings.from_environment(settings | {"DRAYMAN_TLS_CERT": "x", "DRAYMAN_TLS_KEY": "x"})


def test_a_server_does_not_start_in_plaintext_for_others(tmp_path: Path) -> None:
    complaint = refused(tmp_path, LISTEN="[::]:0", DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert "reachable by others" in complaint
    assert "insecure_plaintext" in complaint


async def test_plaintext_beyond_loopback_can_be_asked_for(database_url: str, tmp_path: Path) -> None:
    environment = {"LISTEN": "0.0.0.0:0", "INSECURE_PLAINTEXT": "true"}
    async with open_site(database_url, tmp_path, environment=environment) as site:
        assert site.url.startswith("grpc://0.0.0.0:")
        await site.add_user()
        # the one who runs it has said that nobody listens: a token may travel
        token = (await site.as_admin())[0][1].removeprefix("Bearer ")
        address = _address_of_this_machine()
        async with grpc.aio.insecure_channel(f"{address}:{site.port}") as channel:
            stub = auth_service_pb2_grpc.AuthServiceStub(channel)
            request = pb.LoginRequest(token=pb.TokenCredential(token=token))
            assert (await stub.Login(request, timeout=PATIENCE)).token.username == "admin"


def _address_of_this_machine() -> str:
    """One that is not loopback, if there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))  # nothing is sent
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


@pytest.mark.parametrize("missing", ["x509_ca", "tls_cert", "tls_key"])
def test_the_port_for_certificates_needs_what_it_needs(missing: str) -> None:
    settings = {f"DRAYMAN_{name.upper()}": "x" for name in ("x509_ca", "tls_cert", "tls_key") if name != missing}
    with pytest.raises(SettingsError, match="x509_listen needs tls_cert, tls_key and x509_ca"):
        Settings.from_environment(settings | {"DRAYMAN_X509_LISTEN": "127.0.0.1:0"})


@pytest.mark.parametrize("kind", ["not set", "rubbish", "missing"])
def test_a_server_does_not_start_without_authorities_to_trust(running: Secured, tmp_path: Path, kind: str) -> None:
    host, path = Grid().host(), tmp_path / "authorities.pem"
    if kind == "rubbish":
        path.write_bytes(b"rubbish")
    settings = {
        "X509_LISTEN": "127.0.0.1:0",
        "X509_CA": "" if kind == "not set" else str(path),
        **pair(tmp_path, host.chain_pem, host.key_pem),
    }
    complaint = refused(tmp_path, **running.place, **settings)
    assert "x509_ca" in complaint
    if kind != "not set":
        assert str(path) in complaint


# --- services in several processes -----------------------------------------------------------------------------------


async def make_project(site: Site, metadata: Any) -> str:
    """Make a project, which needs to know who calls; returns its owner."""
    requests = [
        project_service_pb2.CreateProjectRequest(spec=project_service_pb2.ProjectSpec()),
        project_service_pb2.CreateProjectRequest(end=project_service_pb2.EndOfFiles()),
    ]
    stub = project_service_pb2_grpc.ProjectServiceStub(site.channel)
    reply = await stub.CreateProject(iter(requests), metadata=metadata, timeout=PATIENCE)
    owner: str = reply.project.owner
    return owner


@asynccontextmanager
async def apart(running: Secured, dsn: str, folder: Path, **environment: str) -> AsyncIterator[Site]:
    """A process with dispatch alone, whose auth is `running`."""
    roots = folder / "roots.pem"
    roots.write_bytes(running.grid.root_pem)
    settings = {"AUTH_URL": f"grpcs://localhost:{running.site.port}", "CA_FILE": str(roots), **environment}
    async with open_site(dsn, folder, "dispatch", environment=settings) as site:
        yield site


async def test_dispatch_apart_from_auth_trusts_its_tokens_until_auth_says_otherwise(
    running: Secured, database_url: str, tmp_path: Path
) -> None:
    name = await running.site.add_user(password="secret")
    login = await running.site.auth.Login(await challenged(running.site.auth, name, "secret"), timeout=PATIENCE)
    token = bearer(login.token.token)
    async with apart(running, database_url, tmp_path, SERVICE_KEY=SERVICE_KEY) as site:
        assert await make_project(site, token) == name
        await running.site.disable(name)
        async with asyncio.timeout(PATIENCE):
            while (error := await _refusal(make_project(site, token))) is None:
                await asyncio.sleep(0.05)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")


async def _refusal(call: Any) -> DraymanError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_without_the_right_key_nobody_is_told_whom_to_trust(
    running: Secured, database_url: str, tmp_path: Path
) -> None:
    key = SERVICE_KEY.upper()
    token = await running.site.as_admin()
    async with apart(running, database_url, tmp_path, SERVICE_KEY=key) as site:
        error = await refusal(make_project(site, token))
        log = site.log.read_text()
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert "auth has not been heard of" in error.message
    assert "auth not heard of" in log
    assert "UNAUTHENTICATED" in log or "PERMISSION_DENIED" in log
    assert log.count("auth not heard of") == 1  # and not again with every attempt
    assert key not in log


async def test_an_auth_that_cannot_prove_who_it_is_is_not_heard(
    running: Secured, database_url: str, tmp_path: Path
) -> None:
    """Its certificate is of an authority that the other process does not know."""
    roots = tmp_path / "others.pem"
    roots.write_bytes(Grid("Elsewhere").root_pem)
    token = await running.site.as_admin()
    async with apart(running, database_url, tmp_path, SERVICE_KEY=SERVICE_KEY, CA_FILE=str(roots)) as site:
        error = await refusal(make_project(site, token))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "set auth_url to where it does, and service_key"),
        ({"AUTH_URL": "grpcs://localhost:1"}, "set service_key to the one that auth has"),
        ({"AUTH_URL": "grpcs://localhost:1", "SERVICE_KEY": "short"}, "service_key must have at least 32 characters"),
        # where others could read what services say to each other
        ({"AUTH_URL": "grpc://192.0.2.1:1", "SERVICE_KEY": SERVICE_KEY}, "auth_url: "),
        ({"AUTH_URL": "nonsense://", "SERVICE_KEY": SERVICE_KEY}, "auth_url: "),
    ],
)
def test_dispatch_apart_from_auth_does_not_start_without_what_it_needs(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    complaint = refused(tmp_path, "dispatch", DATABASE_URL="postgresql://127.0.0.1:1/x", **environment)
    assert said in complaint
    assert SERVICE_KEY not in complaint
