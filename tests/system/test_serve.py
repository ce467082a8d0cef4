"""`drayman serve` as an operator meets it: what it prints, refuses and leaves behind."""

import asyncio
import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from drayman.client import AuthClient, DeadlineError, DispatchClient, File, UnavailableError
from drayman.client.channel import open_channel, open_sync_channel
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.settings import Settings
from drayman.system.v1 import system_service_pb2, system_service_pb2_grpc

PATIENCE = 40.0
ANY = "127.0.0.1:0"


class Served:
    """A running `drayman serve` and everything it says."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DRAYMAN_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "drayman", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ours | dict(environment),
            text=True,
        )
        self.url = ""

    def ready(self) -> "Served":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("drayman ready at "), (line, self.process.stderr and self.process.stderr.read())
        self.url = line.split()[-1]
        return self

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """End it; returns exit code, the rest of standard output, and standard error."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start servers that are gone after the test."""
    started: list[Served] = []

    def start(*arguments: str, **environment: str) -> Served:
        started.append(Served(list(arguments), {f"DRAYMAN_{name}": value for name, value in environment.items()}))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate(timeout=PATIENCE)


def refused(*arguments: str, code: int = 1, **environment: str) -> str:
    """Run it; it must end by itself with one line of reason. Returns that line."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DRAYMAN_")}
    done = subprocess.run(
        [sys.executable, "-m", "drayman", "serve", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ours | {f"DRAYMAN_{name}": value for name, value in environment.items()},
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # besides the log
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("drayman: ")
    return lines[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest_asyncio.fixture(scope="module")
async def module_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"serve_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn.replace("@/drayman?", f"@/{name}?")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


class Shared:
    """A server for all tests that only look at it."""

    def __init__(self, served: Served, metrics: str, deployment: dict[str, str]) -> None:
        self.url = served.url
        self.process = served.process
        self.metrics = metrics
        self.deployment = deployment


@pytest.fixture(scope="module")
def shared(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    metrics = f"127.0.0.1:{free_port()}"
    deployment = {
        "DATABASE_URL": module_database,
        "SECRETS_KEY_FILE": str(tmp_path_factory.mktemp("keys") / "secrets-keys"),
        "SERVICE_KEY": "what the services of this test have in common",
        "REGISTRY": str(tmp_path_factory.mktemp("registry")),
    }
    environment = {
        "DRAYMAN_METRICS_LISTEN": metrics,
        "DRAYMAN_ADMIN_PASSWORD": "secret",
        "DRAYMAN_ADMIN_USER": "root",
    } | {f"DRAYMAN_{name}": value for name, value in deployment.items()}
    data = tmp_path_factory.mktemp("shared")
    served = Served(["--listen", ANY, "--data-dir", str(data)], environment).ready()
    yield Shared(served, f"http://{metrics}/metrics", deployment)
    code, out, _ = served.end()
    assert (code, out) == (0, "")
    assert [path.name for path in data.iterdir()] == ["sandboxes"]  # the password was given, so there is none to write


# --- the first start -------------------------------------------------------------------------------------------------


async def test_a_deployment_from_its_first_start_to_its_second(serve: Any, tmp_path: Path) -> None:
    data = tmp_path / "some data"
    arguments = ("--data-dir", str(data), "--listen", ANY)
    first = await asyncio.to_thread(lambda: serve(*arguments).ready())
    assert first.url.startswith("grpc://127.0.0.1:")

    path = data / "admin-credentials"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    credentials = json.loads(path.read_text())
    assert credentials.keys() == {"username", "password"}
    assert credentials["username"] == "admin"
    async with AuthClient(first.url) as auth:
        session = await auth.login(**credentials)
        await auth.create_user("ann", "pw")
    async with DispatchClient(first.url, session.token) as dispatch:
        project = await dispatch.create_project([File("n", "a")], users=["ann"], attributes={"virtual": True})

    complaint = await asyncio.to_thread(refused, *arguments)
    assert f"in use by another Drayman (process {first.process.pid})" in complaint

    code, out, log = await asyncio.to_thread(first.end)
    assert (code, out) == (0, "")
    assert credentials["password"] not in log
    assert [json.loads(line)["event"] for line in log.splitlines()][-2:] == ["draining", "stopped"]
    written = (path.read_text(), path.stat().st_mtime_ns)

    second = await asyncio.to_thread(lambda: serve(*arguments).ready())
    async with AuthClient(second.url) as auth, DispatchClient(second.url, session.token) as dispatch:
        await auth.login("ann", "pw")
        assert (await dispatch.get_project(project.project_id)).users == ("ann",)
        assert (await auth.login(**credentials)).username == "admin"
    assert (path.read_text(), path.stat().st_mtime_ns) == written
    code, out, _ = await asyncio.to_thread(second.end, signal.SIGINT)
    assert (code, out) == (0, "")
    assert not (data / "postgres" / "cluster" / "postmaster.pid").exists()


async def test_credentials_that_others_can_read_are_not_used(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "admin-credentials"
    path.write_text('{"username": "admin", "password": "x"}')
    path.chmod(0o644)
    arguments = ("--data-dir", str(tmp_path), "--listen", ANY)
    complaint = await asyncio.to_thread(lambda: refused(*arguments, DATABASE_URL=database_url))
    assert str(path) in complaint


async def test_it_ends_when_its_input_does_if_it_was_asked_to(database_url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drayman", "serve", "--until-eof", "--listen", ANY, "--data-dir", str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DRAYMAN_DATABASE_URL": database_url},
    )
    async with asyncio.timeout(PATIENCE):
        assert process.stdout is not None
        assert process.stdin is not None
        assert (await process.stdout.readline()).startswith(b"drayman ready at ")
        process.stdin.close()
        assert await process.wait() == 0


# --- refusals --------------------------------------------------------------------------------------------------------


def test_the_configuration_is_printed_without_secrets() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drayman", "serve", "--print-config", "--listen", "127.0.0.1:1234"],
        capture_output=True,
        env=os.environ
        | {"DRAYMAN_DATABASE_URL": "postgresql://u:hunter2@h/d", "DRAYMAN_MAX_CALLS": "77", "COLUMNS": "500"},
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert set(rows) >= {f"DRAYMAN_{name.upper()}" for name in Settings.__dataclass_fields__}
    for name, value in (("DATABASE_URL", "***"), ("MAX_CALLS", "77"), ("LISTEN", "127.0.0.1:1234")):
        assert rows[f"DRAYMAN_{name}"].split()[1] == value


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["dispatcher"], {}, "no service dispatcher: there are auth, dispatch"),
        ([], {"MAX_CALLS": "many", "REFLECTION": "maybe"}, "DRAYMAN_MAX_CALLS='many'"),
        ([], {"LISTEN": "0.0.0.0:0"}, "insecure_plaintext"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, "127.0.0.1"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@nowhere.invalid/d"}, ""),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@h:port/d"}, "DRAYMAN_DATABASE_URL cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    complaint = refused(*arguments, **({"DATA_DIR": str(tmp_path)} | environment))
    assert said in complaint
    assert "hunter2" not in complaint


def test_a_database_that_does_not_exist_is_named(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    url = postgres.dsn.replace("@/drayman?", "@/nonesuch?")
    complaint = refused("--listen", ANY, DATA_DIR=str(tmp_path), DATABASE_URL=url)
    assert 'database "nonesuch" does not exist' in complaint


def test_a_taken_port_is_named(shared: Shared, tmp_path: Path) -> None:
    address = shared.url.partition("://")[2]
    environment = shared.deployment | {"DATA_DIR": str(tmp_path)}
    assert f"cannot listen on {address}" in refused("--listen", address, **environment)
    taken = shared.metrics.split("/")[2]
    assert refused("--listen", ANY, METRICS_LISTEN=taken, **environment)


@pytest.mark.parametrize("present", [False, True])
def test_certificates_that_cannot_be_used_are_refused(shared: Shared, tmp_path: Path, present: bool) -> None:
    files = {"TLS_CERT": tmp_path / "cert.pem", "TLS_KEY": tmp_path / "key.pem"}
    if present:
        for path in files.values():
            path.write_text("rubbish")
    environment = {name: str(path) for name, path in files.items()}
    assert "tls_cert" in refused("--listen", ANY, **shared.deployment, **environment, DATA_DIR=str(tmp_path))


async def test_plaintext_for_others_can_be_had_by_asking(serve: Any, shared: Shared, tmp_path: Path) -> None:
    environment = shared.deployment | {"INSECURE_PLAINTEXT": "1", "DATA_DIR": str(tmp_path)}
    served = await asyncio.to_thread(lambda: serve("--listen", "0.0.0.0:0", **environment).ready())
    assert served.url.startswith("grpc://0.0.0.0:")
    async with AuthClient(served.url.replace("0.0.0.0", "127.0.0.1")) as auth:
        await auth.login("root", "secret")


# --- what it offers --------------------------------------------------------------------------------------------------


SERVICES = {
    "drayman.auth.v1.AuditService",
    "drayman.auth.v1.SecretService",
    "drayman.auth.v1.SessionService",
    "drayman.auth.v1.TrustService",
    "drayman.auth.v1.AuthService",
    "drayman.auth.v1.UserService",
    "drayman.dispatch.v1.HandleService",
    "drayman.dispatch.v1.HistoryService",
    "drayman.dispatch.v1.ProjectService",
    "drayman.dispatch.v1.StorageService",
    "drayman.registry.v1.ContentService",
    "drayman.registry.v1.OutputService",
    "drayman.registry.v1.RegistryService",
    "drayman.task.v1.FarmService",
    "drayman.task.v1.JobService",
    "drayman.task.v1.PilotService",
    "drayman.task.v1.SandboxService",
    "drayman.task.v1.TaskService",
}


def test_health_is_told_for_all_and_for_each(shared: Shared) -> None:
    with open_sync_channel(shared.url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="drayman.nobody"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_the_services_and_their_files(shared: Shared, version: str) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="drayman.dispatch.v1.HandleService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="drayman.system.v1.SystemService"),
    ]
    with open_sync_channel(shared.url) as channel:
        if version == "v1alpha":
            replies = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests), timeout=10)
        else:
            replies = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )(iter(requests), timeout=10)
        listed, *files = replies
    names = {service.name for service in listed.list_services_response.service}
    assert names >= SERVICES | {"drayman.system.v1.SystemService", "grpc.health.v1.Health"}
    assert all(file.file_descriptor_response.file_descriptor_proto for file in files)


def test_it_tells_its_version_and_limits(shared: Shared) -> None:
    with open_sync_channel(shared.url) as channel:
        stub = system_service_pb2_grpc.SystemServiceStub(channel)
        info = stub.GetServerInfo(system_service_pb2.GetServerInfoRequest(), timeout=10)
    assert set(info.services) == SERVICES
    assert info.max_message_bytes == Settings().max_message_bytes
    assert info.version


async def test_metrics_count_calls(shared: Shared) -> None:
    def value(name: str, method: str, code: str = "") -> float:
        with urllib.request.urlopen(shared.metrics, timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        wanted = [f'grpc_method="{method}"', *([f'grpc_code="{code}"'] if code else [])]
        found = [line for line in lines if line.startswith(name + "{") and all(part in line for part in wanted)]
        return sum(float(line.split()[-1]) for line in found)

    before = await asyncio.to_thread(value, "grpc_server_handled_total", "Login", "OK")
    async with AuthClient(shared.url) as auth:
        await auth.login("root", "secret")
    assert await asyncio.to_thread(value, "grpc_server_handled_total", "Login", "OK") == before + 1
    assert await asyncio.to_thread(value, "grpc_server_handling_seconds_count", "Login") >= 1
    assert await asyncio.to_thread(value, "grpc_server_running", "Login") == 0


async def test_one_service_alone(serve: Any, shared: Shared, tmp_path: Path) -> None:
    """Auth here, dispatch there: tokens of one are good at the other."""
    environment = shared.deployment | {
        "AUTH_URL": shared.url,
        "REFLECTION": "no",
        "DATA_DIR": str(tmp_path),
    }
    served = await asyncio.to_thread(lambda: serve("dispatch", "--listen", ANY, **environment).ready())
    async with AuthClient(shared.url) as auth, open_channel(served.url) as channel:
        session = await auth.login("root", "secret")
        async with DispatchClient(served.url, session.token) as dispatch:
            assert (await dispatch.create_project([], users=["root"])).owner == "root"
        stub = system_service_pb2_grpc.SystemServiceStub(channel)
        info = await stub.GetServerInfo(system_service_pb2.GetServerInfoRequest(), timeout=10)
        assert {name for name in SERVICES if ".dispatch." in name} == set(info.services)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- TLS -------------------------------------------------------------------------------------------------------------


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "drayman test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


async def test_tls(serve: Any, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = self_signed(tmp_path)
    environment = shared.deployment | {
        "TLS_CERT": str(cert),
        "TLS_KEY": str(key),
        "DATA_DIR": str(tmp_path / "data"),
    }
    # not only on loopback: with TLS nobody has to ask for it in words
    served = await asyncio.to_thread(lambda: serve("--listen", "0.0.0.0:0", **environment).ready())
    assert served.url.startswith("grpcs://0.0.0.0:")
    port = served.url.rpartition(":")[2]
    monkeypatch.setenv("DRAYMAN_CA_FILE", str(cert))
    for host in ("127.0.0.1", "localhost"):
        async with AuthClient(f"grpcs://{host}:{port}") as auth:
            token = (await auth.login("root", "secret")).token
    # projects ask auth about names: within the process, past TLS
    async with DispatchClient(f"grpcs://localhost:{port}", token) as dispatch:
        assert (await dispatch.create_project([], users=["root"])).owner == "root"
    monkeypatch.delenv("DRAYMAN_CA_FILE")
    for url in (f"grpcs://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
        async with AuthClient(url, timeout=1) as auth:
            with pytest.raises((UnavailableError, DeadlineError)):
                await auth.login("root", "secret")
    code, _, _ = await asyncio.to_thread(served.end)
    assert code == 0
