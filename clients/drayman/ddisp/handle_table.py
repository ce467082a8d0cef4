"""Handles as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from drayman.ddisp.output import print_table, yes_no

Handle = Mapping[str, Any]

_TITLES = ("Status", "Available", "Replicas", "Attempts", "Timeouts", "Worker")
_STATES = {"initial": 0, "reserved": 1, "done": 2, "failed": 3}


def print_handles(handles: Iterable[Handle], *, with_replicas: bool = False) -> None:
    """Print handles that have their replicas: available ones first, then by state, attempts and DID."""
    title = "File / RSE, available, URL" if with_replicas else "File"
    ordered = sorted(handles, key=_order)
    rows = [row for handle in ordered for row in (_row(handle), *(_replica_rows(handle) if with_replicas else ()))]
    print_table((*_TITLES, title), rows, left=(len(_TITLES),))


def by_preference(handle: Handle) -> list[Mapping[str, Any]]:
    """Return a handle's replicas by descending preference."""
    replicas: Mapping[str, Mapping[str, Any]] = handle.get("replicas") or {}
    return sorted(replicas.values(), key=lambda replica: (-(replica["preference"] or 0), replica["rse"]))


def _order(handle: Handle) -> tuple[Any, ...]:
    name = handle["namespace"], handle["name"]
    return _available(handle) == 0, _STATES[handle["state"]], handle["attempts"], *name


def _available(handle: Handle) -> int:
    return sum(replica["available"] and replica["rse_available"] for replica in (handle.get("replicas") or {}).values())


def _row(handle: Handle) -> tuple[object, ...]:
    available = _available(handle)
    return (
        handle["state"],
        yes_no(available),
        f"{available:>4}/{len(handle.get('replicas') or {}):<4}",
        handle["attempts"],
        (handle["attributes"] or {}).get("timeouts", 0),
        handle["worker_id"] or "-",
        f"{handle['namespace']}:{handle['name']}",
    )


def _replica_rows(handle: Handle) -> Iterator[tuple[object, ...]]:
    for replica in by_preference(handle):
        reach = yes_no(replica["available"] and replica["rse_available"])
        yield *("" for _ in _TITLES), f"  {replica['rse']:<10} {reach:<3} {replica['url'] or ''}"
