"""What all tests share: one stack for everybody who only adds to it, a fresh one for those who break it, and a database server."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.testing import LocalStack, local_stack
from log_watch import WATCH, install

HERE = Path(__file__).parent
#: What speaks of the whole run comes at its end.
LAST = "test_logs_hold_no_secrets.py"
#: What takes longest begins first, so that the processes of a run end at about the same time.
FIRST = ("system", "service")
#: Each process of a run has a PostgreSQL and services of its own, which need memory.
MOST_PROCESSES = 16


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart() -> Iterator[None]:
    """Watch all logs from now on, and let processes be interrupted: a shell has what it runs in the background ignore that for good."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    watching.append(install())
    next(watching[0])
    yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.path.name == LAST, _turn(item.path)))


def _turn(path: Path) -> int:
    return next((number for number, folder in enumerate(FIRST) if HERE / folder in path.parents), len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait, too."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_PROCESSES)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look once more: some processes end after the last test."""
    WATCH.look()
    for _ in itertools.chain.from_iterable(watching):
        pass
    if hasattr(session.config, "workeroutput"):  # one of several processes: the first one sums up
        session.config.workeroutput["watched"] = (WATCH.lines, WATCH.processes, len(WATCH.secrets), WATCH.findings)
    if WATCH.findings and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Tests print what nobody can encode; their reports have to travel between processes nevertheless."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(map(_encodable, value))
    return value


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the processes that ran the tests have seen."""
    output = getattr(node, "workeroutput", {})
    lines, processes, secrets, findings = output.get("watched", (0, 0, 0, ["nobody knows: a process of the run died"]))
    WATCH.lines += lines
    WATCH.processes += processes
    WATCH.findings += findings
    elsewhere.append(secrets)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seen = f"{WATCH.lines} lines of {WATCH.processes} service processes"
    secrets = len(WATCH.secrets) + sum(elsewhere)
    terminalreporter.write_line(f"logs: {seen}, {secrets} secrets looked for, {len(WATCH.findings)} found")
    for finding in WATCH.findings:
        terminalreporter.write_line(f"  {finding}", red=True)


watching: list[Iterator[None]] = []
elsewhere: list[int] = []


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """A stack for the whole run: use names of your own and do not stop it."""
    with local_stack() as running:
        yield running


@pytest.fixture
def own_stack() -> Iterator[LocalStack]:
    """A stack to kill. What its services log as defects is shown if the test fails."""
    with local_stack() as running:
        yield running
        print(*(line for line in running.log.read_text().splitlines() if '"defect"' in line), sep="\n")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for tests that need no services."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "server", fsync=False)
    server.start()
    yield server
    server.destroy()


_numbers = itertools.count(1)


@pytest_asyncio.fixture
async def database_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of one's own."""
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn.replace("@/drayman?", f"@/{name}?")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the account that runs the tests gets into them."""
    for name in ("DRAYMAN_URL", "DRAYMAN_TOKEN", "DATA_DISPATCHER_URL", "DATA_DISPATCHER_AUTH_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
