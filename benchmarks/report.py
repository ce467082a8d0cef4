"""Findings as tables, on the screen and in RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import cores
from meter import Run, median

RESULTS = Path(__file__).with_name("RESULTS.md")
_BEGIN = "<!-- results: written by run.py from here ... -->"
_END = "<!-- ... to here -->"


@dataclass(frozen=True)
class Target:
    """What must be reached."""

    text: str
    reached: Callable[[float], bool]


def at_least(limit: float, unit: str = "") -> Target:
    """The more the better."""
    return Target(f"≥ {limit:,g}{unit}", lambda value: value >= limit)


def at_most(limit: float, unit: str = "") -> Target:
    """The less the better."""
    return Target(f"≤ {limit:,g}{unit}", lambda value: value <= limit)


@dataclass(frozen=True)
class Cost:
    """Whose CPU a contender's files cost, in microseconds a file."""

    what: str
    clients: float
    server: float
    database: float
    clients_share: float  # of the whole machine's CPU, while it ran


def cost(what: str, runs: Sequence[Run]) -> Cost:
    """Sum up the runs of one contender."""
    files = sum(run.files for run in runs)
    clients = sum(run.client_cpu for run in runs)
    return Cost(
        what,
        clients=clients / files * 1e6,
        server=sum(run.server_cpu for run in runs) / files * 1e6,
        database=sum(run.database_cpu for run in runs) / files * 1e6,
        clients_share=clients / sum(run.seconds for run in runs) / cores(),
    )


@dataclass
class Findings:
    """What one group of measurements found."""

    lines: list[tuple[str, ...]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def add(
        self, what: str, values: Sequence[float], form: str = ",.0f", unit: str = "", target: Target | None = None
    ) -> None:
        """Add a line: the median of the rounds' values, the lowest and the highest, and what must be reached."""
        middle = median(values)
        spread = f"{min(values):{form}} – {max(values):{form}}" if len(values) > 1 else ""
        verdict = ("yes" if target.reached(middle) else "**no**") if target else ""
        self.lines.append((what, f"{middle:{form}}{unit}", spread, target.text if target else "", verdict))


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def document(facts: Sequence[tuple[str, str]], findings: Sequence[Findings]) -> str:
    """Return everything as Markdown."""
    lines = [line for found in findings for line in found.lines]
    costs = [
        (one.what, f"{one.clients:,.0f}", f"{one.server:,.0f}", f"{one.database:,.0f}", f"{one.clients_share:.0%}")
        for found in findings
        for one in found.costs
    ]
    parts = [_table(("what", "median", "lowest – highest", "target", "reached"), lines)]
    if costs:
        head = ("CPU, in µs a file", "clients", "server", "PostgreSQL", "clients' share of the machine")
        parts.append(_table(head, costs))
    parts.append(_table(("measured on", ""), facts))
    return "\n\n".join(parts) + "\n"


def write(text: str) -> None:
    """Replace what stands between the markers of RESULTS.md."""
    old = RESULTS.read_text(encoding="utf-8")
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise RuntimeError(f"{RESULTS.name} has lost its markers")
    RESULTS.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
