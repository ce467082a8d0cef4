"""A client never sees an expired token: real services whose tokens last two seconds, real processes that share a home folder."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.client import (
    AuthClient,
    DispatchClient,
    File,
    Handle,
    Session,
    UnauthenticatedError,
    UnavailableError,
    WorkSession,
    session_file,
)
from drayman.client.session_file import SessionFile
from drayman.client.session_token import expiration, session_id_of
from drayman.client.token_library import TokenLibrary
from drayman.data_dispatcher.api import APIError, DataDispatcherClient
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.testing.service_process import ServiceProcess

WORKER = Path(__file__).with_name("home_worker.py")
LIFETIME = 2.0


class Deployment:
    """Services whose tokens do not last, with the users `admin` and `ann`, whose passwords are `secret`."""

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        self._environment = {
            "DRAYMAN_DATABASE_URL": database_url,
            "DRAYMAN_ADMIN_PASSWORD": "secret",
            "DRAYMAN_TOKEN_LIFETIME": f"{LIFETIME:g}",
        } | settings
        self._arguments = ["--data-dir", str(folder / "data"), "--listen"]
        self._log = folder / "log"
        self.process = ServiceProcess([*self._arguments, "127.0.0.1:0"], self._environment, self._log)
        self.url = self.process.await_ready(60)

    def start(self) -> None:
        self.process = ServiceProcess([*self._arguments, self.url.partition("://")[2]], self._environment, self._log)
        self.process.await_ready(60)

    def kill(self) -> None:
        self.process.kill()


@asynccontextmanager
async def deployed(postgres: EmbeddedPostgres, folder: Path, **settings: str) -> AsyncIterator[Deployment]:
    name = f"renewal_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    url = postgres.dsn.replace("@/drayman?", f"@/{name}?")
    deployment = await asyncio.to_thread(Deployment, url, folder, **settings)
    async with AuthClient(deployment.url) as admin:
        await admin.login("admin", "secret")
        await admin.create_user("ann", "secret")
    try:
        yield deployment
    finally:
        await asyncio.to_thread(deployment.process.terminate)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


@pytest_asyncio.fixture(scope="module")
async def shared(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(postgres, tmp_path_factory.mktemp("shared")) as deployment:
        yield deployment


@pytest_asyncio.fixture
async def own(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Deployment]:
    """One to kill."""
    async with deployed(postgres, tmp_path) as deployment:
        yield deployment


async def at_home(deployment: Deployment) -> Session:
    """Log in as ann and keep that in the home folder, as `drayman login` does."""
    async with AuthClient(deployment.url) as client:
        session = await client.login("ann", "secret")
        assert client.credentials.keep()
    return session


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def gone(token: str) -> Callable[[], bool]:
    return lambda: time.time() > (expiration(token) or 0.0)


async def refusal_of(client: AuthClient) -> str:
    """Call until that is refused."""
    while True:
        try:
            await client.auth_info()
        except UnauthenticatedError as error:
            return error.reason
        await asyncio.sleep(0.02)


# --- one client ------------------------------------------------------------------------------------------------------


async def test_a_client_works_through_many_expirations(shared: Deployment) -> None:
    tokens = set()
    async with AuthClient(shared.url) as client:
        session = await client.login("ann", "secret")
        while len(tokens) < 13:
            info = await client.auth_info()
            assert info.session_id == session.session_id
            tokens.add(client.credentials.token)
            await asyncio.sleep(0.05)


async def test_so_does_the_mirror_in_several_threads(shared: Deployment) -> None:
    client = DataDispatcherClient(shared.url, worker_id="w")
    client.login_digest("ann", "secret")
    session_id = session_id_of(client.Token or "")
    tokens: set[str | None] = set()
    problems: list[APIError] = []

    def work() -> None:
        while len(tokens) < 6 and not problems:
            try:
                client.auth_info()
            except APIError as error:
                problems.append(error)
            tokens.add(client.Token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert not problems
    assert {session_id_of(token or "") for token in tokens} == {session_id}
    # whoever comes next finds the latest in the library
    assert DataDispatcherClient(shared.url, worker_id="w").auth_info()[0] == "ann"


async def test_a_token_that_has_expired_meanwhile_is_replaced_before_the_call(shared: Deployment) -> None:
    session = await at_home(shared)
    async with AuthClient(shared.url) as client:
        await until(gone(session.token))
        assert (await client.auth_info()).session_id == session.session_id
        token = client.credentials.token
    assert TokenLibrary().get(shared.url) == token != session.token


async def test_a_wait_for_a_file_goes_on_beyond_the_token(shared: Deployment) -> None:
    async with DispatchClient(shared.url) as dispatch, AuthClient(shared.url) as auth:
        session = await at_home(shared)
        project = await dispatch.create_project([], attributes={"virtual": True}, open=True)
        waiting = asyncio.create_task(dispatch.next_file(project.project_id, "w"))
        await until(gone(session.token))
        await dispatch.add_files(project.project_id, [File("data", "late")], open=False)
        handle = await asyncio.wait_for(waiting, 20)
        assert isinstance(handle, Handle)
        await until(gone(auth.credentials.token or ""))
        await dispatch.done(handle)


async def test_a_session_of_work_goes_on_beyond_several_tokens(shared: Deployment) -> None:
    await at_home(shared)
    async with DispatchClient(shared.url) as dispatch:
        project = await dispatch.create_project(
            [File("data", f"f{number}") for number in range(8)], attributes={"virtual": True}
        )
        done = 0
        async with dispatch.work(project.project_id, "w", credits=2) as work:
            async for file in work:
                async with file:
                    await asyncio.sleep(0.8)
                    done += 1
        assert done == 8
        assert (await dispatch.get_project(project.project_id)).state == "done"


async def test_a_session_of_work_whose_stream_breaks_takes_a_fresh_token(own: Deployment) -> None:
    session = await at_home(own)
    async with DispatchClient(own.url) as dispatch:
        project = await dispatch.create_project([File("data", "a"), File("data", "b")], attributes={"virtual": True})
        work: WorkSession
        async with dispatch.work(project.project_id, "w") as work:
            async with await anext(work):
                await asyncio.to_thread(own.kill)
                await until(gone(session.token))
                await asyncio.to_thread(own.start)
            async with await anext(work):
                pass
        assert (await dispatch.get_project(project.project_id)).state == "done"


async def test_a_list_of_files_is_sent_a_second_time_with_another_token(shared: Deployment) -> None:
    """What the clock does not tell the service does: here the token was spoilt."""
    session = await at_home(shared)
    async with DispatchClient(shared.url) as dispatch:
        await until(gone(session.token))
        files = SessionFile(TokenLibrary())
        keeper = dispatch.credentials._keeper
        keeper._skew = 3600.0  # our clock is an hour ahead, it believes: nothing has expired
        TokenLibrary().remove(shared.url)
        assert keeper.state() == (session.token, False)
        project = await dispatch.create_project([File("data", "a")], attributes={"virtual": True})
        assert project.counts.total == 1
        assert files.read().sessions[session.session_id].session.token != session.token


# --- the end of a session --------------------------------------------------------------------------------------------


async def test_a_session_that_was_ended_is_begun_again_with_the_password(shared: Deployment) -> None:
    async with AuthClient(shared.url) as client, AuthClient(shared.url) as other:
        session = await client.login("ann", "secret")
        await other.login("ann", "secret")
        await other.revoke_sessions(session.session_id)
        await until(gone(session.token))
        info = await client.auth_info()
        assert info.session_id != session.session_id


async def test_streams_that_end_with_their_session_are_opened_again_in_the_next(shared: Deployment) -> None:
    async with AuthClient(shared.url) as auth, AuthClient(shared.url) as other:
        session = await auth.login("ann", "secret")
        await other.login("ann", "secret")
        async with DispatchClient(shared.url, credentials=auth.credentials) as dispatch:
            project = await dispatch.create_project([], attributes={"virtual": True}, open=True)
            worked = await dispatch.create_project([], attributes={"virtual": True}, open=True)
            waiting = asyncio.create_task(dispatch.next_file(project.project_id, "w"))
            watching = dispatch.watch_project(project.project_id)
            await anext(watching)
            async with dispatch.work(worked.project_id, "w") as work:
                await other.revoke_sessions(session.session_id)
                await until(gone(session.token))
                await dispatch.add_files(project.project_id, [File("data", "late")], open=False)
                await dispatch.add_files(worked.project_id, [File("data", "late")], open=False)
                async with asyncio.timeout(20):
                    async with await anext(work):
                        pass
                    handle = await waiting
                    assert isinstance(handle, Handle)
                    await dispatch.done(handle)
                    states = [progress.project.state async for progress in watching]
            assert states[-1] == "done"
            assert (await dispatch.get_project(worked.project_id)).state == "done"
        assert (await auth.auth_info()).session_id != session.session_id


async def test_one_that_nobody_can_begin_again_is_dropped(shared: Deployment) -> None:
    session = await at_home(shared)
    async with AuthClient(shared.url) as client, AuthClient(shared.url) as other:
        await other.login("ann", "secret")
        await other.revoke_sessions(session.session_id)
        await until(gone(session.token))
        with pytest.raises(UnauthenticatedError):
            await client.auth_info()
        assert SessionFile(TokenLibrary()).read().sessions == {}
        # somebody logs in again, in whatever process
        again = await at_home(shared)
        assert (await client.auth_info()).session_id == again.session_id


async def test_a_logout_ends_the_session_for_everybody(shared: Deployment) -> None:
    session = await at_home(shared)
    async with AuthClient(shared.url) as one, AuthClient(shared.url, session.token) as copy:
        await one.auth_info()
        await one.logout()
        assert one.credentials.token is None
        async with asyncio.timeout(5):
            assert await refusal_of(copy) in ("TOKEN_REVOKED", "TOKEN_EXPIRED")
    assert TokenLibrary().get(shared.url) is None
    assert SessionFile(TokenLibrary()).read().sessions == {}


# --- several processes -----------------------------------------------------------------------------------------------


def start_worker(url: str, kind: str, seconds: float, pause: float = 0.03) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), kind, str(seconds), str(pause)],
        env=os.environ | {"DRAYMAN_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(180)
async def test_processes_that_share_a_home_are_never_refused(shared: Deployment) -> None:
    session = await at_home(shared)
    workers = [start_worker(shared.url, kind, 12) for kind in ("asyncio", "mirror") * 4]
    outputs = await asyncio.to_thread(lambda: [worker.communicate(timeout=120)[0] for worker in workers])
    results = [json.loads(output) for output in outputs]
    assert [result["refusals"] for result in results] == [[]] * 8
    tokens = {token for result in results for token in result["tokens"]}
    assert {session_id_of(token) for token in tokens} == {session.session_id}
    # one renewal serves all of them
    assert 4 <= len(tokens) <= 16
    assert all(len(result["tokens"]) > 2 for result in results)


@pytest.mark.timeout(180)
async def test_processes_may_be_killed_at_any_moment(shared: Deployment) -> None:
    session = await at_home(shared)
    survivor = start_worker(shared.url, "mirror", 12)
    victims = [start_worker(shared.url, kind, 60, 0.0) for kind in ("asyncio", "mirror")]
    while survivor.poll() is None:
        await asyncio.sleep(0.7)
        victims[0].send_signal(signal.SIGKILL)
        await asyncio.to_thread(victims[0].communicate)
        victims = [victims[1], start_worker(shared.url, "mirror", 60, 0.0)]
    for victim in victims:
        victim.kill()
        victim.communicate()
    result = json.loads((await asyncio.to_thread(survivor.communicate))[0])
    assert result["refusals"] == []
    assert {session_id_of(token) for token in result["tokens"]} == {session.session_id}


# --- answers that are lost -------------------------------------------------------------------------------------------


class Line:
    """A TCP line to the services that can lose what they say."""

    def __init__(self, url: str) -> None:
        host, _, port = url.partition("://")[2].rpartition(":")
        self._there = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        #: Requests go there, and their answers get lost: the connection ends instead.
        self.deaf = False
        self.lost = 0
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._there)
            except OSError:
                return
            self._open += [near, far]
            for source, sink, back in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, sink, back), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        heard = 0
        try:
            while data := source.recv(65536):
                heard += len(data)
                # the first few bytes are HTTP/2's own: settings, pings, window updates
                if back and self.deaf and len(data) > 200:
                    self.lost += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._open:
            each.close()


@contextmanager
def line_to(deployment: Deployment) -> Iterator[Line]:
    line = Line(deployment.url)
    yield line
    line.close()


async def test_a_renewal_whose_answer_is_lost_is_repeated_by_whoever_comes_next(shared: Deployment) -> None:
    with line_to(shared) as line:
        async with AuthClient(line.url) as client:
            session = await client.login("ann", "secret")
            client.credentials.keep()
            await until(gone(session.token))
            line.deaf = True
            with pytest.raises(UnavailableError):
                await client.auth_info()
            assert line.lost > 0, "the service has given out the next refresh token"
            kept = SessionFile(TokenLibrary()).read().sessions[session.session_id]
            assert kept.request_id
            assert kept.session.refresh_token == session.refresh_token
            line.deaf = False
        # another process
        assert DataDispatcherClient(line.url, worker_id="w").auth_info()[0] == "ann"
        after = SessionFile(TokenLibrary()).read().sessions[session.session_id]
        assert not after.request_id
        assert after.session.refresh_token != session.refresh_token
        assert session_id_of(TokenLibrary().get(line.url) or "") == session.session_id


async def test_in_memory_as_well(shared: Deployment) -> None:
    with line_to(shared) as line:
        async with AuthClient(line.url) as client:
            session = await client.login("ann", "secret")
            client.credentials._keeper._again = None
            await until(gone(session.token))
            line.deaf = True
            with pytest.raises(UnavailableError):
                await client.auth_info()
            line.deaf = False
            assert (await client.auth_info()).session_id == session.session_id


async def test_while_auth_is_away_a_token_serves_until_it_expires_and_the_session_goes_on_after(
    own: Deployment,
) -> None:
    session = await at_home(own)
    waiting = DataDispatcherClient(own.url, worker_id="w")
    async with AuthClient(own.url) as client:
        await client.auth_info()
        await asyncio.to_thread(own.kill)
        token = client.credentials.token or ""
        began = time.monotonic()
        assert [value for _, value in await client.credentials.fresh()] == [f"Bearer {token}"]
        assert time.monotonic() - began < 10
        await until(gone(token))
        with pytest.raises(UnavailableError):
            await client.auth_info()
        answer = asyncio.create_task(asyncio.to_thread(waiting.auth_info))
        await asyncio.to_thread(own.start)
        assert (await answer)[0] == "ann", "the mirror waits for its service"
        assert (await client.auth_info()).session_id == session.session_id


async def test_a_home_that_cannot_be_written_costs_nobody_their_session(
    shared: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await at_home(shared)
    async with AuthClient(shared.url) as reader, AuthClient(shared.url) as alone:
        with monkeypatch.context() as unwritable:
            unwritable.setattr(session_file, "_own_file", _no_locks)
            # it may read a token, and not use up the others' refresh token
            await reader.auth_info()
            await until(gone(session.token))
            with pytest.raises(UnauthenticatedError):
                await reader.auth_info()
            own = await alone.login("ann", "secret")
            assert not alone.credentials.keep(), "it can only be kept in memory"
            await until(gone(own.token))
            assert (await alone.auth_info()).session_id == own.session_id
        kept = SessionFile(TokenLibrary()).read().sessions[session.session_id]
        assert kept.session.refresh_token == session.refresh_token


def _no_locks(path: Path) -> int:
    raise OSError(37, "No locks available", str(path))
