"""Lists of any length, printed while they arrive: aligned for people, one JSON array for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from rich.cells import cell_len

from drayman.cli.output import printable

_Item = TypeVar("_Item")

#: Rows that are looked at for the widths of the columns.
_LOOKED_AT = 200


@asynccontextmanager
async def closed(items: AsyncIterator[object]) -> AsyncIterator[None]:
    """Close a generator in the end, whoever reads our output has gone or not: left alone, the loop would, and in any order."""
    try:
        yield
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def print_json_array(items: AsyncIterator[_Item], record: Callable[[_Item], Any]) -> None:
    """Print a JSON array with one item a line."""
    separator = "[\n"
    async with closed(items):
        async for item in items:
            sys.stdout.write(separator + json.dumps(record(item), ensure_ascii=False))
            separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")
    sys.stdout.flush()


async def print_rows(
    titles: Sequence[str],
    items: AsyncIterator[_Item],
    row: Callable[[_Item], Sequence[Any]],
    below: Callable[[_Item], Iterable[str]] = lambda _item: (),
) -> None:
    """Print rows under their titles, and lines `below` each; the last column may be of any width."""
    waiting: list[tuple[list[str], list[str]]] = []
    widths: list[int] | None = None
    async with closed(items):
        async for item in items:
            entry = ([_cell(value) for value in row(item)], [printable(line) for line in below(item)])
            if widths is None:
                waiting.append(entry)
                if len(waiting) >= _LOOKED_AT:
                    widths = _begin(titles, waiting)
            else:
                _write(entry, widths)
    if widths is None:
        _begin(titles, waiting)
    sys.stdout.flush()


def _begin(titles: Sequence[str], entries: Sequence[tuple[list[str], list[str]]]) -> list[int]:
    columns = zip(titles, *(cells for cells, _ in entries), strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    for entry in [(list(titles), []), *entries]:
        _write(entry, widths)
    return widths


def _write(entry: tuple[list[str], list[str]], widths: Sequence[int]) -> None:
    cells, below = entry
    padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells[:-1], widths, strict=False)]
    lines = ["  ".join([*padded, cells[-1]]), *(f"    {line}" for line in below)]
    sys.stdout.write("\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
