"""What the command prints: tables, `Name: value` lines, JSON. What people read has no raw escapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from drayman.cli.printable import printable


def print_line(text: object) -> None:
    """Print something to the letter."""
    sys.stdout.write(f"{text}\n")


def print_json(value: Any) -> None:
    """Print JSON: indented by 2, keys sorted."""
    print_line(json.dumps(value, indent=2, sort_keys=True))


def print_table(
    titles: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    left: Collection[int] = (),
    least: Mapping[int, int] | None = None,
) -> None:
    """Print a table between rules. Columns stand to the right but for those in `left`; `least` has widths that a column has at least."""
    lines = [list(titles), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths = [max(width, (least or {}).get(number, 0)) for number, width in enumerate(widths)]
    rule = " ".join("-" * width for width in widths)
    for number, line in enumerate(lines):
        cells = zip(line, widths, range(len(widths)), strict=True)
        print_line(
            " ".join(f"{cell:{'<' if column in left else '>'}{width}}" for cell, width, column in cells).rstrip()
        )
        if number == 0:
            print_line(rule)
    print_line(rule)


def print_block(fields: Iterable[tuple[str, object]], *, width: int, indent: str = "") -> None:
    """Print `Name:` and value, one pair a line, the values under each other; None is an empty one."""
    for name, value in fields:
        text = "" if value is None else printable(str(value))
        print_line(f"{indent}{name + ':':<{width}} {text}".rstrip())


def print_keys(record: Mapping[str, Any]) -> None:
    """Print the members of a dict, one a line."""
    for key, value in record.items():
        print_line(f"{key:<10}: {printable(str(value))}")


def yes_no(flag: object) -> str:
    """Write a flag."""
    return "yes" if flag else "no"
