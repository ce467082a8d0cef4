"""The embedded PostgreSQL: started, stopped, killed, left behind, and in awkward places."""

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from drayman.server.platform.embedded import EmbeddedPostgres, EmbeddedPostgresError
from drayman.server.platform.postgres_process import await_exit, children_of

PATIENCE = 30.0
ROOT = os.geteuid() == 0


async def ask(server: EmbeddedPostgres, statement: str) -> Any:
    connection = await asyncpg.connect(server.dsn, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """One whose first start makes the cluster."""
    made = EmbeddedPostgres(tmp_path / "server", fsync=False, shared_buffers="16MB")
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster to copy, which takes less time than to make one."""
    made = EmbeddedPostgres(tmp_path_factory.mktemp("cluster") / "server", fsync=False, shared_buffers="16MB")
    made.start()
    made.stop()
    yield made.directory / "cluster"
    made.destroy()


@pytest.fixture
def server(fresh: EmbeddedPostgres, cluster: Path) -> EmbeddedPostgres:
    """One that was started and stopped before."""
    shutil.copytree(cluster, fresh.directory / "cluster")
    return fresh


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


OWNER = textwrap.dedent("""
    import pathlib, sys
    from drayman.server.platform.embedded import EmbeddedPostgres
    server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), fsync=False, shared_buffers="16MB")
    server.start()
    print(server.pid, flush=True)
    sys.stdin.read()
    server.stop()
""")


def start_owner(directory: Path) -> tuple[subprocess.Popen[str], int]:
    """Start another process that owns the directory; returns it and its postmaster's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end_owner(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=PATIENCE)


async def test_it_starts_stops_and_starts_again(fresh: EmbeddedPostgres) -> None:
    server = fresh
    assert server.pid is None
    server.start()
    pid = server.pid
    assert pid is not None
    dsn = server.dsn
    await ask(server, "CREATE TABLE t AS SELECT 42 AS a")
    assert await ask(server, "SHOW listen_addresses") == ""
    assert stat.S_IMODE((server.directory / "run").stat().st_mode) == 0o700
    with pytest.raises(EmbeddedPostgresError, match="already started"):
        server.start()
    server.stop()
    assert server.pid is None
    assert await_exit([pid], PATIENCE)
    server.stop()
    server.start()
    assert server.dsn == dsn
    assert await ask(server, "SELECT a FROM t") == 42
    server.destroy()
    assert not server.directory.exists()


async def test_what_was_committed_survives_a_kill(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    await ask(server, "CREATE TABLE t (a int)")
    for number in range(3):
        await ask(server, f"INSERT INTO t VALUES ({number})")
        processes = [pid, *children_of(pid)]
        server.kill()
        assert server.pid is None
        assert await_exit(processes, 0)
        server.start()
        pid = server.pid
        assert pid is not None
        assert await ask(server, "SELECT count(*) FROM t") == number + 1


async def test_a_kill_of_the_postmaster_from_outside_is_noticed(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    children = children_of(pid)
    os.kill(pid, 9)
    assert await_exit([pid, *children], PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while server.pid is not None:  # who keeps it learns of it a moment after the process has gone
            await asyncio.sleep(0.01)
    server.stop()
    server.start()
    assert await ask(server, "SELECT 1") == 1


async def test_a_pid_that_is_somebody_elses_by_now_does_not_hinder(
    server: EmbeddedPostgres, bystander: subprocess.Popen[bytes]
) -> None:
    """After a power cut the pid in the file may be that of any process: in containers it often is."""
    server.start()
    await ask(server, "CREATE TABLE t (a int)")
    server.kill()
    for path in (server.directory / "cluster" / "postmaster.pid", server.directory / "run" / ".s.PGSQL.5432.lock"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([f"{bystander.pid}\n", *lines[1:]]))
    server.start()
    assert await ask(server, "SELECT count(*) FROM t") == 0
    assert bystander.poll() is None


async def test_it_outlives_the_thread_that_started_it(server: EmbeddedPostgres) -> None:
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join(PATIENCE)
    assert await ask(server, "SELECT 1") == 1


def test_a_directory_has_one_owner(server: EmbeddedPostgres) -> None:
    process, _ = start_owner(server.directory)
    try:
        with pytest.raises(EmbeddedPostgresError, match=rf"in use by another Drayman \(process {process.pid}\)"):
            server.start()
    finally:
        end_owner(process)
    server.start()
    with pytest.raises(EmbeddedPostgresError, match=f"process {os.getpid()}"):
        EmbeddedPostgres(server.directory).start()
    assert server.pid is not None


async def test_a_killed_owners_postgres_is_taken_over(server: EmbeddedPostgres) -> None:
    process, postmaster = start_owner(server.directory)
    await ask(server, "CREATE TABLE t AS SELECT 7 AS a")
    process.kill()
    end_owner(process)
    server.start()
    assert server.pid not in (None, postmaster)
    assert await_exit([postmaster], 0)
    assert await ask(server, "SELECT a FROM t") == 7


def test_a_killed_owners_postgres_ends_by_itself(server: EmbeddedPostgres) -> None:
    process, postmaster = start_owner(server.directory)
    children = children_of(postmaster)
    process.kill()
    end_owner(process)
    assert await_exit([postmaster, *children], PATIENCE)


@pytest.mark.parametrize("name", ["x" * 120 + "/" + "y" * 120, 'it\'s a "path", with $odd %41 ünïcode & \\n'])
async def test_awkward_paths(tmp_path: Path, name: str) -> None:
    server = EmbeddedPostgres(tmp_path / name, fsync=False, shared_buffers="16MB")
    try:
        server.start()
        sockets = Path(str(await ask(server, "SHOW unix_socket_directories")))
        assert sockets.is_dir()
        assert await ask(server, "SHOW data_directory") == str(tmp_path / name / "cluster")
        server.kill()
        server.start()
        assert await ask(server, "SELECT 1") == 1
    finally:
        server.destroy()
    assert not (tmp_path / name).exists()
    assert not sockets.exists()


async def test_a_path_with_spaces_keeps_its_socket(tmp_path: Path) -> None:
    # pytest's own folders may be long already
    with tempfile.TemporaryDirectory(prefix="it's a ") as folder:
        server = EmbeddedPostgres(Path(folder, "data dir"), fsync=False, shared_buffers="16MB")
        try:
            server.start()
            assert await ask(server, "SHOW unix_socket_directories") == f"{folder}/data dir/run"
        finally:
            server.destroy()


async def test_a_cluster_that_was_not_finished_is_begun_anew(fresh: EmbeddedPostgres) -> None:
    server = fresh
    (server.directory / "cluster.new-abc").mkdir(parents=True)
    (server.directory / "cluster.new-abc" / "PG_VERSION").write_text("18\n")
    server.start()
    assert list(server.directory.glob("cluster.new-*")) == []
    assert await ask(server, "SELECT 1") == 1


def test_where_nothing_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="cannot keep a PostgreSQL in"):
        EmbeddedPostgres(tmp_path / "file" / "below").start()


def test_a_cluster_of_another_version_is_not_touched(fresh: EmbeddedPostgres) -> None:
    server = fresh
    cluster = server.directory / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL 9"):
        server.start()
    assert (cluster / "PG_VERSION").read_text() == "9\n"


@pytest.mark.skipif(not ROOT, reason="for root")
async def test_for_root_no_file_of_root_changes_hands_for_good(server: EmbeddedPostgres) -> None:
    server.start()
    owner = server.directory.stat().st_uid
    owners = {path.lstat().st_uid for path in server.directory.rglob("*") if path.name != "lock"}
    assert owners == {owner}
    assert await ask(server, "SELECT current_user::text") == "drayman"


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
async def test_root_runs_it_as_the_owner_of_the_directory() -> None:
    nobody = pwd.getpwnam("nobody")
    # below a folder that the owner can reach, unlike those of pytest
    home = Path(tempfile.mkdtemp(prefix="drayman-test-"))
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    server = EmbeddedPostgres(home, fsync=False, shared_buffers="16MB")
    try:
        server.start()
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody.pw_uid
        assert (home / "cluster" / "PG_VERSION").stat().st_uid == nobody.pw_uid
        assert await ask(server, "SELECT 1") == 1
        server.kill()
        server.start()
        assert await ask(server, "SELECT 1") == 1
    finally:
        server.destroy()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_an_owner_without_a_name_is_told_what_to_do() -> None:
    unnamed = next(uid for uid in range(60_000, 65_000) if uid not in {entry.pw_uid for entry in pwd.getpwall()})
    home = Path(tempfile.mkdtemp(prefix="drayman-test-"))
    os.chown(home, unnamed, unnamed)
    try:
        with pytest.raises(EmbeddedPostgresError, match=f"uid {unnamed}, the owner of the folder"):
            EmbeddedPostgres(home).start()
    finally:
        shutil.rmtree(home)
