"""What it costs to know who calls: NextFile + Report against the same server with its door left open."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import procfs
from fleet import Fleet
from jobs import Drain
from meter import Run, paired, shares, timed
from report import Findings, at_most, cost, say
from scale import Scale
from stack import Service, Stack

_CLIENTS = 2
_OPEN_DOOR = (sys.executable, str(Path(__file__).with_name("open_door.py")))

_CHECKED = "NextFile + Report"
_UNCHECKED = "NextFile + Report, nobody checked"


def measure(stack: Stack, scale: Scale) -> Findings:
    """Run both servers in every round, in turn first and second: the first of a round is at an advantage, or the other way round."""
    services = {_CHECKED: stack.serve(), _UNCHECKED: stack.serve(_OPEN_DOOR)}
    runs: dict[str, list[Run]] = {name: [] for name in services}
    with Fleet(_CLIENTS) as fleet:
        for service in services.values():
            _drain(stack, service, fleet, scale, scale.warm_up)
        for number in range(scale.door_rounds):
            for name in sorted(services, reverse=bool(number % 2)):
                runs[name].append(_drain(stack, services[name], fleet, scale, scale.files // 4))
                say(f"  round {number + 1}: {name}: {runs[name][-1].rate:,.0f} files/s")
    found = Findings()
    spent = {name: [run.server_cpu / run.files * 1e6 for run in of_one] for name, of_one in runs.items()}
    rates = {name: [run.rate for run in of_one] for name, of_one in runs.items()}
    for name in runs:
        found.add(f"server's CPU, {name}", spent[name], ".1f", " µs")
    added = [100 * (ratio - 1) for ratio in paired(spent[_CHECKED], spent[_UNCHECKED])]
    slower = [100 * (ratio - 1) for ratio in paired(rates[_UNCHECKED], rates[_CHECKED])]
    found.add("authentication's share of the server's CPU", added, ".1f", " %", at_most(3, " %"))
    found.add("authentication's share of the time a file takes", slower, ".1f", " %", at_most(3, " %"))
    found.costs += [cost(name, of_one) for name, of_one in runs.items()]
    return found


def _drain(stack: Stack, service: Service, fleet: Fleet, scale: Scale, files: int) -> Run:
    target = service.target(service.create_project(files))
    jobs = [Drain(target, n, share, scale.workers, "NextFile") for n, share in enumerate(shares(files, _CLIENTS))]
    return timed(fleet, jobs, partial(procfs.cpu_seconds, service.pid), stack.database_cpu)
