"""What streams cost that wait for a file, and how they end."""

from __future__ import annotations

import time
from dataclasses import dataclass

import procfs
from fleet import Fleet
from jobs import Drain, Park
from meter import shares
from report import Findings, Target, at_most, say
from scale import Scale
from stack import Service, Stack

#: Share of a core that counts as none.
_NONE = 1.0


@dataclass(frozen=True)
class _Round:
    kib: float  # of the server's memory, each stream
    percent: float  # of a core, the server at rest
    database_percent: float  # the same of PostgreSQL
    early: int  # streams that ended before they should
    wake: float  # seconds from asking for the cancellation until all have heard


def measure(stack: Stack, scale: Scale) -> Findings:
    """Park, watch, wake. A fresh server in each round: what a process got from the system once it seldom gives back."""
    rounds = []
    for number in range(scale.rounds):
        service = stack.serve()
        try:
            rounds.append(_round(stack, service, scale))
        finally:
            stack.stop(service)
        last = rounds[-1]
        say(
            f"  round {number + 1}: {last.percent:.2f} % of a core, {last.kib:.1f} KiB each, {last.early} early, {last.wake:.2f} s to wake"
        )

    found = Findings()
    what = f"{scale.parked:,} parked NextFile streams"
    none = Target("none (< 1 % of a core)", lambda percent: percent < _NONE)
    found.add(
        f"{what}: server's CPU over {scale.rest:g} s at rest", [r.percent for r in rounds], ".2f", " % of a core", none
    )
    found.add(f"{what}: PostgreSQL's CPU at rest", [r.database_percent for r in rounds], ".2f", " % of a core")
    found.add(f"{what}: server's memory for each", [r.kib for r in rounds], ".1f", " KiB", at_most(50, " KiB"))
    found.add(
        f"{what}: ended early, all rounds",
        [sum(r.early for r in rounds)],
        "d",
        "",
        Target("none", lambda early: early == 0),
    )
    found.add(f"{what}: all woken by cancelling the project", [r.wake for r in rounds], ".2f", " s")
    return found


def _round(stack: Stack, service: Service, scale: Scale) -> _Round:
    # one file, and a worker who keeps it: active, and nothing to hand out
    project_id = service.create_project(1)
    service.hold_file(project_id)
    with Fleet(scale.parked_clients) as fleet:
        _warm_up(fleet, service, scale)
        memory = procfs.resident_bytes(service.pid)
        target = service.target(project_id)
        parts = shares(scale.parked, scale.parked_clients)
        fleet.prepare([Park(target, n, part) for n, part in enumerate(parts)])
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
        kib=memory / scale.parked / 1024,
        percent=server / seconds * 100,
        database_percent=database / seconds * 100,
        early=sum(outcome.count for outcome in outcomes),
        wake=max((end for outcome in outcomes for end in outcome.times), default=begin) - begin,
    )


def _warm_up(fleet: Fleet, service: Service, scale: Scale) -> None:
    """What a server gets from the system for its first calls is no stream's."""
    files = scale.workers * scale.parked_clients
    target = service.target(service.create_project(files))
    fleet.run([Drain(target, n, scale.workers, scale.workers, "NextFile") for n in range(scale.parked_clients)])
