"""How what there is is shared among wishes. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Stock = TypeVar("Stock", bound=Hashable)


def allot(wants: Iterable[int], preferred: Sequence[Stock], left: dict[Stock, int]) -> list[list[tuple[Stock, int]]]:
    """Give the wishes of one kind, in their order, what the stocks have left, best stock first; `left` is reduced.

    Returns for each wish the stocks and numbers it gets; the list ends with the first wish that gets nothing.
    """
    allotted: list[list[tuple[Stock, int]]] = []
    position = 0
    for want in wants:
        share: list[tuple[Stock, int]] = []
        lacking = want
        while lacking and position < len(preferred):
            stock = preferred[position]
            number = min(lacking, left[stock])
            if number:
                share.append((stock, number))
                left[stock] -= number
                lacking -= number
            if not left[stock]:
                position += 1
        if not share:
            break
        allotted.append(share)
    return allotted


def limited(wants: Iterable[int], room: int) -> Iterator[int]:
    """Cut a series of wants where the room ends."""
    for want in wants:
        if room <= 0:
            return
        yield min(want, room)
        room -= want
