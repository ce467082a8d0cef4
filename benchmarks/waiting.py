"""What those cost who wait, how they end, and what a server is to be warmed up with before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import procfs
from fleet import Fleet, Job
from jobs import Target as Place
from meter import shares
from report import Findings, Target, at_most, say
from scale import Scale
from stack import Service, Stack

#: Share of a core that counts as none.
_NONE = 1.0


@dataclass(frozen=True)
class Crowd:
    """Who waits.

    `wait` makes the job of a client process that keeps so many waiting, in the manner of `jobs.Park`; `warm_up` makes one that works on a
    project until nothing is left.
    """

    what: str
    size: int
    wait: Callable[[Place, int, int], Job]
    warm_up: Callable[[Place, int], Job]


@dataclass(frozen=True)
class _Round:
    kib: float  # of the server's memory, each
    percent: float  # of a core, the server at rest
    database_percent: float  # the same of PostgreSQL
    early: int  # how many ended before they should
    wake: float  # seconds from asking for the cancellation until all have heard


def watch(stack: Stack, scale: Scale, crowd: Crowd) -> Findings:
    """Let wait, watch, wake. A fresh server in each round: what a process got from the system once it seldom gives back."""
    rounds = []
    for number in range(scale.rounds):
        service = stack.serve()
        try:
            rounds.append(_round(stack, service, scale, crowd))
        finally:
            stack.stop(service)
        last = rounds[-1]
        say(
            f"  round {number + 1}: {last.percent:.2f} % of a core, {last.kib:.1f} KiB each, {last.early} early, {last.wake:.2f} s to wake"
        )

    found = Findings()
    what = f"{crowd.size:,} {crowd.what}"
    none = Target("none (< 1 % of a core)", lambda percent: percent < _NONE)
    found.add(
        f"{what}: server's CPU over {scale.rest:g} s at rest", [r.percent for r in rounds], ".2f", " % of a core", none
    )
    found.add(f"{what}: PostgreSQL's CPU at rest", [r.database_percent for r in rounds], ".2f", " % of a core")
    found.add(f"{what}: server's memory for each", [r.kib for r in rounds], ".1f", " KiB", at_most(50, " KiB"))
    early = sum(r.early for r in rounds)
    found.add(f"{what}: ended early, all rounds", [early], "d", "", nothing())
    found.add(f"{what}: all woken by cancelling the project", [r.wake for r in rounds], ".2f", " s")
    return found


def nothing() -> Target:
    """What must not happen at all."""
    return Target("none", lambda count: count == 0)


def _round(stack: Stack, service: Service, scale: Scale, crowd: Crowd) -> _Round:
    # one file, and a worker who keeps it: active, and nothing to hand out
    project_id = service.create_project(1)
    service.hold_file(project_id)
    with Fleet(scale.parked_clients) as fleet:
        _warm_up(fleet, service, scale, crowd)
        memory = procfs.resident_bytes(service.pid)
        target = service.target(project_id)
        parts = shares(crowd.size, scale.parked_clients)
        fleet.prepare([crowd.wait(target, n, part) for n, part in enumerate(parts)])
        time.sleep(scale.settle)
        server, database, begin = procfs.cpu_seconds(service.pid), stack.database_cpu(), time.monotonic()
        time.sleep(scale.rest)
        seconds = time.monotonic() - begin
        server, database = procfs.cpu_seconds(service.pid) - server, stack.database_cpu() - database
        memory = procfs.resident_bytes(service.pid) - memory
        fleet.let_go()
        begin = time.monotonic()
        service.cancel_project(project_id)
        outcomes = [sample.outcome for sample in fleet.collect()]
    return _Round(
        kib=memory / crowd.size / 1024,
        percent=server / seconds * 100,
        database_percent=database / seconds * 100,
        early=sum(outcome.count for outcome in outcomes),
        wake=max((end for outcome in outcomes for end in outcome.times), default=begin) - begin,
    )


def _warm_up(fleet: Fleet, service: Service, scale: Scale, crowd: Crowd) -> None:
    """What a server gets from the system for its first calls belongs to nobody who waits."""
    target = service.target(service.create_project(scale.workers * scale.parked_clients))
    fleet.run([crowd.warm_up(target, n) for n in range(scale.parked_clients)])
