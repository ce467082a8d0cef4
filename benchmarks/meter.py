"""Runs jobs and says how long they took and whose CPU they used."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleet import Fleet, Job, Sample


@dataclass(frozen=True)
class Run:
    """One run: files and seconds, wall-clock and CPU."""

    files: int
    seconds: float
    client_cpu: float
    server_cpu: float
    database_cpu: float

    @property
    def rate(self) -> float:
        """Files per second."""
        return self.files / self.seconds


Clock = Callable[[], float]


def no_cpu() -> float:
    """The CPU time of a part that a contender does not have."""
    return 0.0


def timed(fleet: Fleet, jobs: Sequence[Job], server_cpu: Clock = no_cpu, database_cpu: Clock = no_cpu) -> Run:
    """Do the jobs at once; the run lasts from the first one's begin to the last one's end."""
    fleet.prepare(jobs)
    server, database = server_cpu(), database_cpu()
    fleet.let_go()
    samples = fleet.collect()
    return Run(
        files=sum(sample.outcome.count for sample in samples),
        seconds=elapsed(samples),
        client_cpu=sum(sample.cpu for sample in samples),
        server_cpu=server_cpu() - server,
        database_cpu=database_cpu() - database,
    )


def elapsed(samples: Sequence[Sample]) -> float:
    """Seconds from the first begin to the last end."""
    return max(sample.end for sample in samples) - min(sample.start for sample in samples)


def shares(files: int, parts: int) -> list[int]:
    """Divide files among clients."""
    return [len(range(part, files, parts)) for part in range(parts)]


def paired(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios round by round, so that what slows a whole round down slows both sides of its ratio."""
    return [one / other for one, other in zip(some, others, strict=True)]


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, by the nearest value at or above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * percent // 100) - 1)]


median = statistics.median
