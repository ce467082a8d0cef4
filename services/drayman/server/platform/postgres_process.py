"""PostgreSQL's postmaster as a process: started so that it ends with us, watched, and brought down in three strengths."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

#: A log longer than this many bytes loses its beginning, at starts and once a minute; `LOG_KEPT` bytes stay.
LOG_LIMIT = 16 * 1024 * 1024
LOG_KEPT = 1024 * 1024
_LOG_CHECK_SECONDS = 60.0
_POLL_SECONDS = 0.02


class Postmaster:
    """A running postmaster, a child of this process.

    The kernel tells a child of the end of the *thread* that started it. So a thread of its own starts it and stays for as long
    as it runs: the caller may be a short-lived worker thread, and yet the postmaster shuts down when this process ends, however it ends.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start `command`, with stdout and stderr appended to `log`. Raises OSError if it cannot be started."""
        self._command = command
        self._log = log
        self._environment = environment
        self._launched = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._keeper = threading.Thread(target=self._keep, name="postmaster", daemon=True)
        self._keeper.start()
        self._launched.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._keeper.join()
            raise self._failure

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def wait(self, seconds: float | None) -> bool:
        """Wait until it has ended, at most so long (None = as long as it takes); whether it has."""
        self._keeper.join(seconds)
        return not self._keeper.is_alive()

    def shut_down(self, seconds: float) -> None:
        """End it: fast (sessions are broken off, everything is written out), or what is left after `seconds` without mercy."""
        for how in (signal.SIGINT, signal.SIGQUIT):
            if self._keeper.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, how)
                self.wait(seconds)
        if self._keeper.is_alive():
            self.kill()

    def kill(self) -> None:
        """SIGKILL it and all its processes at once, as a power cut would, and wait until they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # or it would start new ones while we count
        children = children_of(self.pid)
        for pid in (self.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(None)
        await_exit(children, 10.0)

    def _keep(self) -> None:
        try:
            log = open_log(self._log)
        except OSError as error:
            self._failure = error
            self._launched.set()
            return
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own launcher and PostgreSQL
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=dict(self._environment),
                umask=0o077,
                start_new_session=True,  # a Ctrl-C at the terminal is for us: we say when the database goes
            )
            self._launched.set()
            self._stay(self._process, log)
        except OSError as error:
            self._failure = error
        finally:
            self._launched.set()
            os.close(log)

    def _stay(self, process: subprocess.Popen[bytes], log: int) -> None:
        descriptor = _pidfd(process.pid)
        if descriptor is not None:
            while not _await_readable(descriptor, _LOG_CHECK_SECONDS):
                with contextlib.suppress(OSError):
                    shorten(log)
            os.close(descriptor)
        process.wait()


def open_log(path: Path) -> int:
    """Open a log for appending, shortened if need be; returns the descriptor. The folder may be another account's: no link is followed."""
    log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    shorten(log)
    return log


def shorten(log: int) -> None:
    """Cut the beginning off a log that has grown too long; writers that append to it go on undisturbed."""
    size = os.fstat(log).st_size
    if size > LOG_LIMIT:
        end = os.pread(log, LOG_KEPT, size - LOG_KEPT)
        os.ftruncate(log, 0)
        os.write(log, end)


def children_of(parent: int) -> list[int]:
    """Return the process ids of a process's children (none where there is no /proc)."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent ...: the name may contain anything, brackets included
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                children.append(int(stat.parent.name))
    return children


def await_exit(pids: Iterable[int], seconds: float) -> bool:
    """Wait until processes that need not be ours have ended, at most so long altogether; whether all have."""
    end = time.monotonic() + seconds
    return all(_await_one(pid, end) for pid in pids)


def _await_one(pid: int, end: float) -> bool:
    descriptor = _pidfd(pid)
    if descriptor is not None:
        try:
            return _await_readable(descriptor, max(0.0, end - time.monotonic()))
        finally:
            os.close(descriptor)
    while _exists(pid):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, or None if there is no such thing or no such process."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _await_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
