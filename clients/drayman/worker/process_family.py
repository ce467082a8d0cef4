"""The processes of a payload: what it started, however far it went away from it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
#: A variable that every process of a payload inherits, and that makes no difference to it.
_MARK = "DRAYMAN_PAYLOAD"
_ZOMBIE = "Z"


@dataclass(slots=True)
class Usage:
    """What a program used so far. `memory` is the most resident memory of all its processes at a time, in bytes; `cpu` in seconds."""

    cpu: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu: float
    started: int
    resident: int


class ProcessFamily:
    """The processes that come of one: its session, and those that left it but still have its mark in their environment.

    A daemon leaves the session and the parent of who started it; its environment it keeps. Where there is no /proc, only the process
    group of the first one is known.
    """

    def __init__(self) -> None:
        self._mark = f"{_MARK}={uuid4().hex}"
        self._root = 0
        self._strangers: dict[tuple[int, int], bool] = {}
        self.usage = Usage()

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment for the first process: with the mark in it."""
        name, _, value = self._mark.partition("=")
        return {**environment, name: value}

    def begin(self, root: int) -> None:
        """The first process was started, as the leader of a session of its own."""
        self._root = root

    def measure(self) -> int:
        """Add up what they use, into `usage`; returns their resident memory in bytes. Each page that some of them share counts for each."""
        resident, cpu = 0, 0.0
        for process in self._members():
            resident += process.resident
            cpu += process.cpu
        self.usage.memory = max(self.usage.memory, resident)
        self.usage.cpu = max(self.usage.cpu, cpu)
        return resident

    def memory(self) -> int:
        """Return the memory they have between them in bytes, where a page that some share counts once. Slower."""
        return sum(_proportional(process.pid, process.resident) for process in self._members())

    def signal(self, number: signal.Signals) -> bool:
        """Send them all a signal; returns whether there was any to get it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._root, number)
        any_left = False
        for process in self._members():
            if process.state == _ZOMBIE:
                if process.parent == os.getpid() and process.pid != self._root:
                    with suppress(ChildProcessError):
                        os.waitpid(
                            process.pid, os.WNOHANG
                        )  # an orphan that came to us: we may be the first process of a container
                continue
            any_left = True
            if process.group != self._root:  # it has it already
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
        return any_left

    def _members(self) -> Iterator[_Process]:
        strangers: dict[tuple[int, int], bool] = {}
        for process in _processes():
            if process.session == self._root:
                yield process
                continue
            key = (process.pid, process.started)
            marked = self._strangers.get(key)
            if marked is None:
                marked = self._mark.encode() in _environment(process.pid)
            strangers[key] = marked
            if marked:
                yield process
        self._strangers = strangers


def _processes() -> Iterator[_Process]:
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            words = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            cpu = sum(map(int, words[11:15])) / _TICKS  # its own, and that of children it waited for
            yield _Process(
                int(entry.name),
                words[0],
                int(words[1]),
                int(words[2]),
                int(words[3]),
                cpu,
                int(words[19]),
                int(words[21]) * _PAGE,
            )


def _environment(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""  # another user's, or gone


def _proportional(pid: int, resident: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident
