"""How fast a list of files becomes a project, over the wire."""

from __future__ import annotations

from functools import partial

import procfs
from fleet import Fleet
from jobs import Create
from meter import Run, timed
from report import Findings, at_least, cost, say
from scale import Scale
from stack import Stack


def measure(stack: Stack, scale: Scale) -> Findings:
    """Create a project in each round; the earlier ones stay."""
    service = stack.serve()
    runs: list[Run] = []
    with Fleet(1) as fleet:
        fleet.run([Create(service.address, service.token, scale.warm_up)])
        for number in range(scale.rounds):
            job = Create(service.address, service.token, scale.create)
            runs.append(timed(fleet, [job], partial(procfs.cpu_seconds, service.pid), stack.database_cpu))
            say(f"  round {number + 1}: {runs[-1].rate:,.0f} files/s")
    found = Findings()
    what = f"create a project of {scale.create:,} files"
    found.add(what, [run.rate for run in runs], unit=" files/s", target=at_least(50_000))
    found.costs.append(cost(what, runs))
    return found
