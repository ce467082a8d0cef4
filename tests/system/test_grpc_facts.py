"""What was measured of gRPC in Python, and that Drayman is built for it: one section per fact.

Two facts have no test: (6) mutual TLS is all or nothing per port, and no port of ours asks for client certificates; (10) what a Python
client can do at most is a matter of the benchmarks.
"""

import asyncio
import importlib
import importlib.util
import itertools
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
import urllib.request
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import drayman
from drayman.client import AuthClient, DispatchClient, File, Handle, OverloadedError, Project, Report
from drayman.client import channel as client_channel
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.dispatch.v1 import handle_service_pb2_grpc
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.grpc_server import server_options
from drayman.server.platform.settings import Settings
from drayman.testing.service_process import ServiceProcess

PATIENCE = 60.0
PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


class House:
    """A server with metrics, and its administrator's token."""

    def __init__(self, database_url: str, folder: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._metrics = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = {
            "DATABASE_URL": database_url,
            "METRICS_LISTEN": self._metrics,
            "ADMIN_PASSWORD": "secret",
            # one for all that use this database
            "SECRETS_KEY_FILE": str(folder.parent / f"secrets-keys-{zlib.crc32(database_url.encode())}"),
            "REGISTRY": str(folder.parent / f"registry-{zlib.crc32(database_url.encode())}"),
        }
        self.process = ServiceProcess(
            ["--listen", "127.0.0.1:0", "--data-dir", str(folder)],
            {f"DRAYMAN_{name}": value for name, value in (settings | environment).items()},
            folder / "log",
        )
        self.url = self.process.await_ready(30)
        self.token = ""

    async def log_in(self) -> "House":
        async with AuthClient(self.url) as auth:
            self.token = (await auth.login("admin", "secret")).token
        return self

    async def metric(self, name: str, method: str) -> float:
        """Return a metric of a method, all codes together."""

        def read() -> str:
            with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as reply:
                text: str = reply.read().decode()
            return text

        found = re.findall(
            rf'^{name}{{.*grpc_method="{method}".*}} (\S+)$', await asyncio.to_thread(read), re.MULTILINE
        )
        return sum(map(float, found))

    async def runs(self, method: str, number: int) -> None:
        """Wait until so many calls of a method are in progress."""
        async with asyncio.timeout(PATIENCE):
            while await self.metric("grpc_server_running", method) != number:
                await asyncio.sleep(0.02)


class Wait:
    """A worker's NextFile, on the wire as it is: no retry, nothing hidden."""

    def __init__(self, stub: Any, house: House, project_id: int, worker: str) -> None:
        self.parked = asyncio.Event()
        self.heard: list[pb.NextFileResponse] = []
        request = pb.NextFileRequest(project_id=project_id, worker_id=worker)
        self.call = stub.NextFile(request, metadata=bearer(house.token))
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> pb.NextFileResponse:
        try:
            async for event in self.call:
                self.heard.append(event)
                self.parked.set()
        finally:
            self.parked.set()
        return self.heard[-1]


@pytest_asyncio.fixture(scope="module")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"facts_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn.replace("@/drayman?", f"@/{name}?")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest_asyncio.fixture(scope="module")
async def house(database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    made = await asyncio.to_thread(House, database, tmp_path_factory.mktemp("house"))
    yield await made.log_in()
    assert made.process.terminate() == 0


@pytest_asyncio.fixture(scope="module")
async def dispatch(house: House) -> AsyncIterator[DispatchClient]:
    async with DispatchClient(house.url, house.token, timeout=30) as client:
        yield client


@pytest_asyncio.fixture
async def stub(house: House) -> AsyncIterator[Any]:
    async with open_channel(house.url) as channel:
        yield handle_service_pb2_grpc.HandleServiceStub(channel)


async def held_project(dispatch: DispatchClient, number: int = 1) -> tuple[Project, list[Handle]]:
    """Make a project all of whose files are held by somebody."""
    files = [File("n", str(each)) for each in range(number)]
    project = await dispatch.create_project(files, attributes={"virtual": True})
    held = await dispatch.reserve(project.project_id, "holder", number, timeout=10)
    assert isinstance(held, list)
    assert len(held) == number
    return project, held


async def all_parked(waits: list[Wait]) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(wait.parked.wait() for wait in waits))
    lost = [wait.task.exception() for wait in waits if wait.task.done()]
    assert lost == []


async def results(waits: list[Wait]) -> list[pb.NextFileResponse]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(wait.task for wait in waits))


# --- (1) default options answer bursts of new calls with CANCELLED ---------------------------------------------------


async def test_fact_1_a_burst_of_calls_loses_none(house: House, dispatch: DispatchClient, stub: Any) -> None:
    project, _ = await held_project(dispatch)
    waits = [Wait(stub, house, project.project_id, f"w{number}") for number in range(3200)]
    await all_parked(waits)
    assert await house.metric("grpc_server_running", "NextFile") == 3200
    await dispatch.cancel_project(project.project_id)
    assert {event.WhichOneof("event") for event in await results(waits)} == {"project_ended"}
    await house.runs("NextFile", 0)


# --- (1) admission control, and (5) a stop that waits for parked streams --------------------------------------------


async def test_facts_1_and_5_a_full_server_says_so_and_drains_at_once(database: str, tmp_path: Path) -> None:
    house = await asyncio.to_thread(lambda: House(database, tmp_path, MAX_CALLS="50", DRAIN_SECONDS="20"))
    try:
        await house.log_in()
        async with DispatchClient(house.url, house.token) as dispatch, open_channel(house.url) as channel:
            project, _ = await held_project(dispatch)
            stub = handle_service_pb2_grpc.HandleServiceStub(channel)
            waits = [Wait(stub, house, project.project_id, f"w{number}") for number in range(50)]
            await all_parked(waits)

            for number in range(5):
                refused = Wait(stub, house, project.project_id, f"late{number}")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await refused.task
                error = from_rpc_error(caught.value)
                assert isinstance(error, OverloadedError)
                assert (error.reason, error.retry_after) == ("OVERLOADED", 1.0)

            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            begin = time.monotonic()
            ending = asyncio.create_task(asyncio.to_thread(house.process.terminate))
            events = await results(waits)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert [event.timed_out.cause for event in events] == [pb.TimedOut.CAUSE_DRAINING] * 50
            assert await ending == 0
            # about one second on a quiet machine; waiting for parked streams would take the 20 s it is given
            assert time.monotonic() - begin < 6
    finally:
        house.process.kill()


# --- (2) abandoned streams may keep their handler alive --------------------------------------------------------------


async def test_fact_2_who_leaves_takes_no_file_along(house: House, dispatch: DispatchClient, stub: Any) -> None:
    project, (held,) = await held_project(dispatch)
    gone = [Wait(stub, house, project.project_id, f"gone{number}") for number in range(20)]
    stays = Wait(stub, house, project.project_id, "stays")
    await all_parked([*gone, stays])
    for wait in gone:
        wait.call.cancel()
    await asyncio.wait([wait.task for wait in gone])
    await dispatch.release(held)
    (event,) = await results([stays])
    assert event.reserved.handle.worker_id == "stays"
    assert (await dispatch.get_project(project.project_id)).counts.reserved == 1


WORKER = textwrap.dedent("""
    import asyncio, sys
    from drayman.client import DispatchClient
    async def main(url, token, project_id):
        async with DispatchClient(url, token) as dispatch:
            await dispatch.next_file(int(project_id), "victim", on_wait=lambda _: print("parked", flush=True))
    asyncio.run(main(*sys.argv[1:]))
""")


async def test_fact_2_a_killed_client_leaves_nothing_parked(house: House, dispatch: DispatchClient, stub: Any) -> None:
    project, (held,) = await held_project(dispatch)
    await house.runs("NextFile", 0)
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, house.url, house.token, str(project.project_id)), stdout=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        assert victim.stdout is not None
        assert await victim.stdout.readline() == b"parked\n"
        await house.runs("NextFile", 1)
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
    await house.runs("NextFile", 0)
    await dispatch.release(held)
    (event,) = await results([Wait(stub, house, project.project_id, "heir")])
    assert (event.reserved.handle.worker_id, event.reserved.handle.attempts) == ("heir", 1)


async def test_fact_2_a_client_cancels_what_it_does_not_read_to_the_end(house: House, dispatch: DispatchClient) -> None:
    files = [File("n", "x" * 200 + str(number)) for number in range(10_000)]  # more than fits into gRPC's windows
    project = await dispatch.create_project(files, attributes={"virtual": True})
    async with aclosing(dispatch.handles(project.project_id)) as handles:
        assert (await anext(handles)).handle_id == 1
        assert await house.metric("grpc_server_running", "ListHandles") == 1
    await house.runs("ListHandles", 0)


# --- (3) handlers that swallow CancelledError leak -------------------------------------------------------------------


async def test_fact_3_cancelled_calls_end_on_the_server(house: House, dispatch: DispatchClient, stub: Any) -> None:
    project, _ = await held_project(dispatch)
    before = await house.metric("grpc_server_handled_total", "NextFile")
    waits = [Wait(stub, house, project.project_id, f"w{number}") for number in range(100)]
    reserving = [asyncio.create_task(dispatch.reserve(project.project_id, f"r{number}", 5)) for number in range(20)]
    await all_parked(waits)
    await house.runs("NextFile", 100)
    await house.runs("ReserveFiles", 20)
    for wait in waits:
        wait.call.cancel()
    for task in reserving:
        task.cancel()
    await asyncio.wait([*reserving, *(wait.task for wait in waits)])
    await house.runs("NextFile", 0)
    await house.runs("ReserveFiles", 0)
    assert await house.metric("grpc_server_handled_total", "NextFile") == before + 100


# --- (4) waking everybody takes long ---------------------------------------------------------------------------------


async def test_fact_4_as_many_are_woken_as_there_are_files(house: House, dispatch: DispatchClient, stub: Any) -> None:
    project, held = await held_project(dispatch, 3)
    waits = [Wait(stub, house, project.project_id, f"w{number}") for number in range(200)]
    await all_parked(waits)
    assert await dispatch.report([Report(handle, "released") for handle in held]) == [None] * 3
    async with asyncio.timeout(PATIENCE):
        for first in itertools.islice(asyncio.as_completed([wait.task for wait in waits]), 3):
            await first
    lucky = [wait for wait in waits if wait.task.done()]
    assert sorted(wait.heard[-1].reserved.handle.handle_id for wait in lucky) == [1, 2, 3]
    await house.runs("NextFile", 197)
    rest = [wait for wait in waits if wait not in lucky]
    assert [[event.WhichOneof("event") for event in wait.heard] for wait in rest] == [["progress"]] * 197
    # they wait indeed: what comes reaches them
    for wait in lucky:
        handle = wait.heard[-1].reserved.handle
        request = pb.ReportRequest(
            project_id=project.project_id,
            worker_id=handle.worker_id,
            reports=[pb.FileReport(handle_id=handle.handle_id, outcome=pb.OUTCOME_DONE)],
        )
        await stub.Report(request, metadata=bearer(house.token), timeout=10)
    assert {event.WhichOneof("event") for event in await results(rest)} == {"project_ended"}


# --- (7) stubs refuse a runtime older than their generator -----------------------------------------------------------


def stub_files() -> Iterator[Path]:
    for root in drayman.__path__:
        yield from Path(root).glob("*/v1/*_pb2*.py")


def test_fact_7_stubs_import_under_the_installed_runtime() -> None:
    names = [f"drayman.{path.parent.parent.name}.v1.{path.stem}" for path in stub_files()]
    assert len(names) >= 16
    for name in names:
        importlib.import_module(name)


def test_fact_7_stubs_are_of_the_oldest_runtime_that_is_allowed() -> None:
    for path in stub_files():
        text = path.read_text()
        if path.stem.endswith("_grpc"):
            assert re.search(r"^GRPC_GENERATED_VERSION = '1\.76\.", text, re.MULTILINE), path.name
        else:
            major, minor = re.search(r"# Protobuf Python Version: (\d+)\.(\d+)", text).groups()  # type: ignore[union-attr]
            assert (int(major), int(minor)) <= (6, 31), path.name


def test_fact_7_the_generator_is_pinned_and_newer_runtimes_are_allowed() -> None:
    assert "grpcio-tools==1.76.*" in PYPROJECT["build-system"]["requires"]
    dependencies = PYPROJECT["project"]["dependencies"]
    assert "grpcio>=1.76,<2" in dependencies
    assert "protobuf>=6.31.1,<8" in dependencies


# --- (8) clients that ping are sent away with ENHANCE_YOUR_CALM ------------------------------------------------------


def test_fact_8_the_server_allows_the_pings_that_clients_send() -> None:
    server, client = dict(server_options(Settings())), dict(client_channel._OPTIONS)
    assert server["grpc.http2.min_recv_ping_interval_without_data_ms"] <= 10_000
    assert server["grpc.keepalive_permit_without_calls"] == 1
    assert 10_000 < int(client["grpc.keepalive_time_ms"]) <= 20_000
    # both sides ping, for as long as the connection lives
    assert server["grpc.keepalive_time_ms"] <= 60_000
    assert server["grpc.http2.max_pings_without_data"] == client["grpc.http2.max_pings_without_data"] == 0


def faster(options: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Let the clocks of pings run a hundred times as fast."""
    clocks = ("grpc.keepalive_time_ms", "grpc.http2.min_recv_ping_interval_without_data_ms")
    return [(name, value // 100 if name in clocks else value) for name, value in options]


@pytest.mark.parametrize("ours", [True, False])
async def test_fact_8_a_client_that_pings_all_the_time_is_not_sent_away(ours: bool) -> None:
    """A parked call outlives many pings, which it does not with gRPC's defaults."""

    async def park(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"parked"
        await asyncio.Event().wait()

    server = grpc.aio.server(options=faster(server_options(Settings())) if ours else None)
    handlers = {"Park": grpc.unary_stream_rpc_method_handler(park)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Parking", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = faster(client_channel._OPTIONS)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_stream("/test.Parking/Park")(b"")
        assert await call.read() == b"parked"
        reading = asyncio.create_task(call.read())
        done, _ = await asyncio.wait([reading], timeout=2.0 if ours else PATIENCE)
        if ours:
            assert not done
            call.cancel()
            await asyncio.wait([reading])
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="Too many pings"):
                await reading
    await server.stop(0)


# --- (9) annotations that drag top-level packages along --------------------------------------------------------------


def test_fact_9_nothing_but_drayman_is_installed() -> None:
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).name for package in packages} == {"drayman"}
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]) == {"packages"}
    for package in ("buf", "validate", "protoc_gen_openapiv2", "protovalidate"):
        assert importlib.util.find_spec(package) is None


def test_fact_9_protos_import_nothing_but_googles_and_our_own() -> None:
    protos = Path(__file__).parents[2] / "protos"
    imported = {
        name
        for path in protos.rglob("*.proto")
        for name in re.findall(r'^import "(.*)";', path.read_text(), re.MULTILINE)
    }
    assert {name for name in imported if not name.startswith(("google/protobuf/", "google/api/", "drayman/"))} == set()
