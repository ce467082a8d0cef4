"""Which wish draws from which group of ready handles. Pure.

Handles of a project that are ready form groups by attempts and location. A wish takes from the group that is best for its CPU site:
fewest attempts, then nearest, then the one with the earliest handle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: Sort key of a location for a site; None = out of reach.
Rank = Callable[[int], tuple[bool, int] | None]


class Group(NamedTuple):
    """Ready handles with the same number of attempts at the same location."""

    attempts: int
    location_id: int


@dataclass(slots=True)
class Stock:
    """What a group has: how many handles, and a lower bound of the first one's id."""

    ready: int
    low: int


def preference(groups: Mapping[Group, Stock], rank: Rank) -> list[Group]:
    """Groups with something to give that are in reach of a site, best first."""
    found = []
    for group, stock in groups.items():
        key = rank(group.location_id) if stock.ready > 0 else None
        if key is not None:
            found.append((group.attempts, key, stock.low, group))
    return [entry[3] for entry in sorted(found)]
