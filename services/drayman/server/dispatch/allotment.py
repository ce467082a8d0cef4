"""Which wish draws from which group of ready handles. Pure.

Handles of a project that are ready form groups by attempts and location. A wish takes from the group that is best for its CPU site:
fewest attempts, then nearest, then the one with the earliest handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def allot(wants: Iterable[int], preferred: Sequence[Group], left: dict[Group, int]) -> list[list[tuple[Group, int]]]:
    """Give the wishes of one site, in their order, what the groups have left; `left` is reduced.

    Returns for each wish the groups and numbers it gets; the list ends with the first wish that gets nothing.
    """
    allotted: list[list[tuple[Group, int]]] = []
    position = 0
    for want in wants:
        share: list[tuple[Group, int]] = []
        lacking = want
        while lacking and position < len(preferred):
            group = preferred[position]
            number = min(lacking, left[group])
            if number:
                share.append((group, number))
                left[group] -= number
                lacking -= number
            if not left[group]:
                position += 1
        if not share:
            break
        allotted.append(share)
    return allotted
