"""What the numbers were measured on. No names of hosts, users or folders."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from stack import DatabaseFacts

_WRITES = 200
_PAGE = 8192


def load_average() -> str:
    """Return the machine's load over 1, 5 and 15 minutes."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def facts(load_at_start: str, database: DatabaseFacts) -> list[tuple[str, str]]:
    """Name and value of everything that a reader needs to judge the numbers."""
    return [
        ("CPU", f"{_cpu_model()}, {cores()} cores"),
        ("memory", f"{_memory_gib():.0f} GiB"),
        ("load average at the start", load_at_start),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("grpcio", version("grpcio")),
        ("PostgreSQL", database.version),
        ("fsync, synchronous_commit", f"{database.fsync}, {database.synchronous_commit}"),
        ("median fdatasync of 8 KiB", f"{_fdatasync_seconds() * 1000:.2f} ms"),
    ]


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _fdatasync_seconds() -> float:
    """Median time to write a page over an existing one and have it on disk, where the databases are: what a commit costs."""
    times = []
    with tempfile.TemporaryFile() as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, bytes(_WRITES * _PAGE), 0)
        os.fsync(descriptor)
        for number in range(_WRITES):
            begin = time.monotonic()
            os.pwrite(descriptor, b"\xff" * _PAGE, number * _PAGE)
            os.fdatasync(descriptor)
            times.append(time.monotonic() - begin)
    return statistics.median(times)
