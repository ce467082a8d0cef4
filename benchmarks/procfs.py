"""What the kernel says of processes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of one process, all its threads, in and out of the kernel."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * _TICK


def tree_cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, those that have ended included: a PostgreSQL by its postmaster."""
    total = sum(int(field) for field in _stat(pid)[11:15]) * _TICK
    for child in _children(pid):
        with suppress(OSError):  # ended meanwhile
            total += cpu_seconds(child)
    return total


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return _memory(pid, "VmRSS")


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that a process had in RAM so far."""
    return _memory(pid, "VmHWM")


def _memory(pid: int | str, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no memory any more")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; the second, a name, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
