"""A real PostgreSQL in a directory of ours, with a small life cycle of our own.

    <directory>/cluster/        what PostgreSQL calls its data directory; exists only when complete
    <directory>/run/            its Unix socket, for the owner only (elsewhere if this path is too long for a socket)
    <directory>/postgres.log    what it has to say
    <directory>/lock            held by the process that the cluster belongs to

It listens on the socket alone. Everything here blocks for a moment; an asyncio program calls it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from drayman.server.platform.postgres_account import Account, choose_account
from drayman.server.platform.postgres_binaries import EmbeddedPostgresError, Installation, find_installation
from drayman.server.platform.postgres_process import Postmaster, await_exit

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

_USER = "drayman"
_DATABASE = "drayman"
_PORT = 5432  # part of the socket's name, nothing else
_LONGEST_SOCKET_DIRECTORY = 90  # bytes; a socket's whole path has at most 107
_SHUTDOWN_SECONDS = 30.0
_LOG_LINES = 15
#: What no reading of a log's tail makes clearer.
_PLAIN_FAILURES = ("No space left on device", "Read-only file system", "Permission denied", "Disk quota exceeded")


class EmbeddedPostgres:
    """PostgreSQL in `directory`, which belongs to one process at a time.

    `fsync=False` trades durability against power cuts for speed: for tests. `shared_buffers` is PostgreSQL's page cache. A start
    that takes longer than `start_timeout` seconds is given up; recovery after a crash is part of it.
    Every method raises EmbeddedPostgresError when it cannot do what it says.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = True,
        shared_buffers: str = "128MB",
        max_connections: int = 100,
        start_timeout: float = 300.0,
    ) -> None:
        self.directory = directory.absolute()
        self.log = self.directory / "postgres.log"
        self._cluster = self.directory / "cluster"
        self._fsync = fsync
        self._shared_buffers = shared_buffers
        self._max_connections = max_connections
        self._start_timeout = start_timeout
        self._socket_directory = _socket_directory(self.directory)
        self._lock: int | None = None
        self._postmaster: Postmaster | None = None

    @property
    def dsn(self) -> str:
        """URL of the database; the same for every start in this directory."""
        # The port stands there because clients would take it from PGPORT otherwise.
        return f"postgresql://{_USER}@/{_DATABASE}?host={quote(str(self._socket_directory))}&port={_PORT}"

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster; None if it does not run."""
        if self._postmaster is None or self._postmaster.wait(0):
            return None
        return self._postmaster.pid

    def start(self) -> None:
        """Start it and return when it accepts connections. The first start makes the cluster; one after a crash recovers it.

        A postmaster that a killed owner left behind is shut down first. A live owner is an error.
        """
        if self.pid is not None:
            raise EmbeddedPostgresError(f"{self.directory}: already started")
        try:
            self._start()
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(f"cannot keep a PostgreSQL in {self.directory}: {_describe(error)}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut it down and give the directory free. Does nothing if it does not run."""
        if self._postmaster is not None:
            self._postmaster.shut_down(_SHUTDOWN_SECONDS)
        self._release()

    def kill(self) -> None:
        """Kill all its processes as a power cut would; the next start recovers. For crash tests."""
        if self._postmaster is not None:
            self._postmaster.kill()
        self._release()

    def destroy(self) -> None:
        """Stop it and delete the directory with all data in it.

        After a crash it starts once more for that, because only PostgreSQL itself knows what it left in shared memory.
        """
        if self._postmaster is None and (self._cluster / "postmaster.pid").exists():
            with contextlib.suppress(EmbeddedPostgresError):
                self.start()
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._acquire()
        self._end_leftover()
        installation = find_installation(self._cluster_major())
        account = choose_account(self.directory, installation.postgres)
        account.give_all(self.directory)
        if self._cluster_major() is None:
            self._create(installation, account)
        self._make_socket_directory(account)
        self._write_configuration(account)
        self._void_pid_file(account)
        earlier = self._pid_file()
        command = account.command(
            self.directory, installation.postgres, "-D", self._cluster, death_signal=signal.SIGINT
        )
        begin = self.log.stat().st_size if self.log.exists() else 0
        self._postmaster = Postmaster(command, self.log, _environment())
        self._await_ready(self._postmaster, earlier, begin)

    # -- whose the directory is

    def _acquire(self) -> None:
        path = self.directory / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            raise EmbeddedPostgresError(
                f"{self.directory} is in use by another Drayman (process {owner or 'unknown'}): "
                "stop that one or choose another data directory"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _release(self) -> None:
        self._postmaster = None
        if self._lock is None:
            return
        if not self._socket_directory.is_relative_to(self.directory):
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _end_leftover(self) -> None:
        """Shut down the postmaster that a killed owner left; it may be about to end by itself."""
        lines = self._pid_file()
        pid = int(lines[0]) if lines and lines[0].isdigit() else 0
        if pid == 0 or not self._is_postmaster(pid):
            return
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
            if await_exit([pid], _SHUTDOWN_SECONDS):
                return
        raise EmbeddedPostgresError(
            f"{self.directory}: a PostgreSQL left by an earlier run does not end (process {pid})"
        )

    def _is_postmaster(self, pid: int) -> bool:
        # A pid may be somebody else's by now; a postmaster has its cluster for working directory.
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self._cluster)
        except OSError:
            return False

    # -- the first start

    def _cluster_major(self) -> int | None:
        try:
            return int((self._cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _create(self, installation: Installation, account: Account) -> None:
        """Make the cluster beside its final place, so that a crash half-way leaves nothing that counts."""
        for unfinished in self.directory.glob("cluster.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.directory))
        try:
            account.give(fresh)
            self._initialise(fresh, installation, account)
            fresh.rename(self._cluster)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        if self._fsync:
            _sync_folder(self.directory)

    def _initialise(self, fresh: Path, installation: Installation, account: Account) -> None:
        options = [
            f"--pgdata={fresh}",
            f"--username={_USER}",
            "--encoding=UTF8",
            "--data-checksums",
            "--no-instructions",
        ]
        # Who can open the socket is who owns the cluster; should somebody let it listen to a network, that lets nobody in.
        options += ["--auth-local=trust", "--auth-host=reject"]
        if not self._fsync:
            options.append("--no-sync")
        try:
            self._run(account, [installation.initdb, *options, "--locale=C.UTF-8"])
        except EmbeddedPostgresError as error:
            if "locale" not in str(error):
                raise
            self._run(account, [installation.initdb, *options, "--locale=C"])
        single: list[str | Path] = [
            "--single",
            "-D",
            fresh,
            "-c",
            "exit_on_error=on",
            "-c",
            f"fsync={_on(self._fsync)}",
            "template1",
        ]
        self._run(account, [installation.postgres, *single], f"CREATE DATABASE {_DATABASE}\n")

    def _run(self, account: Account, program: list[str | Path], text: str = "") -> None:
        ended = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
            account.command(self.directory, *program),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
            cwd="/",
            umask=0o077,
            start_new_session=True,
            check=False,
        )
        if ended.returncode != 0:
            self._fail("cannot make a cluster", ended.stdout + ended.stderr)

    # -- every start

    def _make_socket_directory(self, account: Account) -> None:
        path = self._socket_directory
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            account.give(path)
        found = path.lstat()
        expected = account.uid if account.mode == "switch" else os.geteuid()
        # In a shared temporary folder anybody may have taken the name; and who opens the socket is let in.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != expected or stat.S_IMODE(found.st_mode) & 0o077:
            raise EmbeddedPostgresError(f"{path} is not a folder of our own that others cannot enter: remove it")
        # like the pid file: what a crash left, with a pid in it that may be anybody's by now
        (path / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _write_configuration(self, account: Account) -> None:
        settings = self._settings()
        text = "# Written at each start. To change a setting for good use ALTER SYSTEM.\n"
        text += "".join(f"{name} = {_quote(value)}\n" for name, value in settings.items())
        path = self._cluster / "postgresql.conf"
        if path.read_text() != text:
            self._replace(path, text, account)

    def _void_pid_file(self, account: Account) -> None:
        """Let no pid that a crash left keep PostgreSQL from starting: by now it may be any process's, as it often is in containers.

        That no postmaster runs here we know. With its parent for the owner PostgreSQL takes the file for stale; the rest of it stays,
        because it tells whether there are processes that still use the shared memory.
        """
        path = self._cluster / "postmaster.pid"
        if path.exists():
            self._replace(path, f"{os.getpid()}\n{path.read_text().partition(chr(10))[2]}", account)

    def _replace(self, path: Path, text: str, account: Account) -> None:
        """Write a file of the cluster at once, without following a link that its owner may have put there."""
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=self._cluster)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
            if self._fsync:
                file.flush()
                os.fsync(file.fileno())
        account.give(Path(name))
        Path(name).replace(path)

    def _settings(self) -> dict[str, str]:
        """Return what a small server wants otherwise than PostgreSQL's defaults, which are for a tiny one."""
        return {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(self._socket_directory),
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            "shared_buffers": self._shared_buffers,
            "fsync": _on(self._fsync),
            "full_page_writes": _on(self._fsync),
            "synchronous_commit": "on",
            # Fewer checkpoints mean fewer whole pages in the log, and those that are written are compressed.
            "max_wal_size": "2GB",
            "checkpoint_timeout": "15min",
            "wal_compression": "on",
            # Short statements never earn back what compiling them costs.
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] %q%u@%d ",
        }

    def _await_ready(self, postmaster: Postmaster, earlier: list[str] | None, begin: int) -> None:
        """Wait until the postmaster says so in its pid file, or has ended."""
        end = time.monotonic() + self._start_timeout
        pause = 0.002
        while not postmaster.wait(pause):
            lines = self._pid_file()
            # A file that a crash left may have this very pid in it, as in a container that starts the same way each time.
            if lines != earlier and lines and lines[0] == str(postmaster.pid) and lines[-1].strip() == "ready":
                return
            if time.monotonic() > end:
                self._fail(f"did not start within {self._start_timeout:g} s", self._log_since(begin))
            pause = min(pause * 1.5, 0.05)
        self._fail("did not start", self._log_since(begin))

    def _pid_file(self) -> list[str] | None:
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return None

    def _log_since(self, begin: int) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(min(begin, self.log.stat().st_size))
            return log.read(1 << 16).decode(errors="replace")
        return ""

    def _fail(self, what: str, said: str) -> None:
        lines = [line for line in said.splitlines() if line.strip()]
        for line in lines:
            if any(failure in line for failure in _PLAIN_FAILURES):
                raise EmbeddedPostgresError(f"PostgreSQL in {self.directory} {what}: {line.strip()}")
        tail = "\n  ".join(lines[-_LOG_LINES:]) or "(it said nothing)"
        raise EmbeddedPostgresError(f"PostgreSQL in {self.directory} {what}. Its last words:\n  {tail}")


def _socket_directory(directory: Path) -> Path:
    """Return where the socket goes: below `directory` if the path can be used in a socket's name and in a URL."""
    inside = directory / "run"
    if _fits(inside):
        return inside
    # A name that every start finds again: nothing piles up when owners are killed, and clients can reconnect.
    digest = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]
    outside = Path(tempfile.gettempdir(), f"drayman-{os.geteuid()}-{digest}")
    return outside if _fits(outside) else Path("/tmp", outside.name)  # noqa: S108 - made 0700, and checked


def _fits(path: Path) -> bool:
    # Commas separate hosts for clients, and double quotes delimit directories for the server.
    return len(os.fsencode(path)) < _LONGEST_SOCKET_DIRECTORY and not set(str(path)) & set(',"\n')


def _environment() -> Mapping[str, str]:
    """Return our environment without what would configure PostgreSQL behind our back; messages come in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _on(value: bool) -> str:
    return "on" if value else "off"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _describe(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return error.strerror or str(error)
