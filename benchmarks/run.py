"""Measures what Drayman promises, side by side with its ceiling and its floor, and writes RESULTS.md.

python benchmarks/run.py [--quick] [--rounds N] [--only ROW]... [--no-write]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable

import artifacts
import authentication
import create
import crowd
import huge
import machine
import parked
import pilots
import report
import sessions
import size
import tasks
import throughput
import wakeup
from report import Findings
from scale import FULL, QUICK, Scale
from stack import Stack, open_stack

#: What can be measured. Each has a database of its own, and interleaves the rounds of what it compares.
ROWS: dict[str, Callable[[Stack, Scale], Findings]] = {
    "throughput": throughput.measure,
    "sessions": sessions.measure,
    "size": size.measure,
    "wakeup": wakeup.measure,
    "create": create.measure,
    "authentication": authentication.measure,
    "artifacts": artifacts.measure,
    "pilots": pilots.measure,
    "tasks": tasks.measure,
    "parked": parked.measure,
    "crowd": crowd.measure,
    "huge": huge.measure,
}


def main() -> None:
    """Measure, print, write."""
    options = _options()
    # whoever ends us gets the same cleaning up as Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in [name for name in os.environ if name.startswith("DRAYMAN_")]:
        del os.environ[name]
    scale: Scale = options.scale
    rows = [name for name in ROWS if not options.only or name in options.only]

    load = machine.load_average()
    begin = time.monotonic()
    findings = []
    for name in rows:
        report.say(f"{name} ({time.monotonic() - begin:.0f} s)")
        with open_stack() as stack:
            database = stack.database_facts()
            findings.append(ROWS[name](stack, scale))
    facts = machine.facts(load, database)
    facts.append(("rounds, minutes", f"{scale.rounds}, {(time.monotonic() - begin) / 60:.1f}"))
    text = report.document(facts, findings)
    sys.stdout.write(text)
    if options.write and not options.quick and rows == list(ROWS):
        report.write(text)
        report.say(f"written to benchmarks/{report.RESULTS.name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Drayman; a full run writes benchmarks/RESULTS.md.")
    parser.add_argument(
        "--quick", action="store_true", help="small numbers: shows that it runs, measures nothing; not written"
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds of everything (default {FULL.rounds})")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=f"{', '.join(ROWS)}; not written")
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    options = parser.parse_args()
    options.scale = QUICK if options.quick else FULL
    if options.rounds:
        try:
            options.scale = dataclasses.replace(options.scale, rounds=options.rounds)
        except ValueError as error:
            parser.error(str(error))
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("expected a number of at least 1")
    return int(text)


if __name__ == "__main__":
    main()
