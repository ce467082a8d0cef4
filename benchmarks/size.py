"""Whether a file of a big project costs more than a file of a small one, at the big one's begin and late in it."""

from __future__ import annotations

from functools import partial

import procfs
from fleet import Fleet
from jobs import Drain, SkipAhead
from meter import Run, median, paired, shares, timed
from report import Findings, at_most, say
from scale import Scale
from stack import Service, Stack

_CLIENTS = 2


def measure(stack: Stack, scale: Scale) -> Findings:
    """Drain small projects and equal slices of a big one in turn."""
    service = stack.serve()
    with Fleet(_CLIENTS) as fleet:
        pairs = _Pairs(stack, service, fleet, scale)
        say(f"  creating a project of {scale.big:,} files")
        pairs.big = service.create_project(scale.big)
        pairs.warm_up()
        small_early, big_early = pairs.rounds("early")
        say(f"  finishing {scale.skip:,} files in batches")
        target = service.target(pairs.big)
        fleet.run([SkipAhead(target, n, share) for n, share in enumerate(shares(scale.skip, _CLIENTS))])
        pairs.warm_up()
        small_late, big_late = pairs.rounds("late")

    found = Findings()
    small, big = f"project of {scale.small:,} files", f"project of {scale.big:,} files"
    late = f"{big}, after {scale.skip:,} were finished"
    found.add(f"{small}: NextFile + Report", [*small_early, *small_late], ".0f", " µs/file")
    found.add(f"{big}: NextFile + Report", big_early, ".0f", " µs/file")
    found.add(f"{late}: NextFile + Report", big_late, ".0f", " µs/file")
    found.add(f"{big}, against {small}", paired(big_early, small_early), ".2f", "×", at_most(1.2))
    found.add(f"{late}, against {small}", paired(big_late, small_late), ".2f", "×", at_most(1.2))
    return found


class _Pairs:
    """Slices in turn: small, big, small, big."""

    def __init__(self, stack: Stack, service: Service, fleet: Fleet, scale: Scale) -> None:
        self._service = service
        self._fleet = fleet
        self._scale = scale
        self._server_cpu = partial(procfs.cpu_seconds, service.pid)
        self._database_cpu = stack.database_cpu
        self.big = 0

    def warm_up(self) -> None:
        """What the first slices find cold."""
        for project_id in (self._service.create_project(self._scale.small), self.big):
            self._slice(project_id)

    def rounds(self, when: str) -> tuple[list[float], list[float]]:
        """Return microseconds a file of each round, its slices' median, for small projects and for the big one."""
        small, big = [], []
        for number in range(self._scale.rounds):
            projects = [self._service.create_project(self._scale.small) for _ in range(self._scale.slices)]
            pairs = [(self._slice(project_id), self._slice(self.big)) for project_id in projects]
            small.append(median([_microseconds(one) for one, _ in pairs]))
            big.append(median([_microseconds(other) for _, other in pairs]))
            say(f"  {when}, round {number + 1}: small {small[-1]:.0f}, big {big[-1]:.0f} µs/file")
        return small, big

    def _slice(self, project_id: int) -> Run:
        target = self._service.target(project_id)
        parts = enumerate(shares(self._scale.small, _CLIENTS))
        jobs = [Drain(target, n, share, self._scale.workers, "NextFile") for n, share in parts]
        return timed(self._fleet, jobs, self._server_cpu, self._database_cpu)


def _microseconds(run: Run) -> float:
    return run.seconds / run.files * 1e6
