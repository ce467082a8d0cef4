"""How long a released file takes to reach a worker who waits, on the same replica and on another one."""

from __future__ import annotations

from fleet import Fleet
from jobs import WakeUps
from meter import median, percentile
from report import Findings, at_most, say
from scale import Scale
from stack import Stack

_MILLISECONDS = 1000
_WARM_UP = 3


def measure(stack: Stack, scale: Scale) -> Findings:
    """Pass one file to and fro, within one replica and between two."""
    one, other = stack.serve(), stack.serve()
    pairs = {"on the same replica": (one, one), "on another replica": (one, other)}
    rounds: dict[str, list[list[float]]] = {where: [] for where in pairs}
    with Fleet(1) as fleet:
        for number in range(scale.rounds):
            for where, (here, there) in pairs.items():
                project_id = here.create_project(1)
                targets = (here.target(project_id), there.target(project_id))
                (sample,) = fleet.run([WakeUps(targets, _WARM_UP + -(-scale.wakes // scale.rounds))])
                times = [seconds * _MILLISECONDS for seconds in sample.outcome.times[_WARM_UP:]]
                rounds[where].append(times)
                say(f"  round {number + 1}: {where}: median {median(times):.1f} ms, longest {max(times):.1f} ms")

    found = Findings()
    for where, of_one in rounds.items():
        every = [time for times in of_one for time in times]
        what = f"wake-up: release → parked NextFile {where}"
        found.add(f"{what}, {len(every)} times", [median(times) for times in of_one], ".1f", " ms", at_most(50, " ms"))
        found.add(f"{what}, 95th percentile of all", [percentile(every, 95)], ".1f", " ms")
        found.add(f"{what}, longest of all", [max(every)], ".1f", " ms")
    return found
