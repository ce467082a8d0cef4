"""What the command prints: tables for people, JSON for programs, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drayman.cli.printable import printable

__all__ = ["Failure", "json_option", "print_fields", "print_json", "print_table", "printable"]


class Failure(click.ClickException):
    """An error for the user: one line on standard error, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print it."""
        click.echo(f"drayman: {' '.join(self.message.split())}", file=file or sys.stderr)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--json`, `-j` for short."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print one JSON document, as it is: no ASCII escapes."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table. Into a pipe it is as wide as it needs to be, and no cell is cut."""
    console = Console(soft_wrap=True) if not sys.stdout.isatty() else Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if not sys.stdout.isatty():
        unbounded = console.options.update(max_width=1_000_000)
        console.width = max(console.measure(table, options=unbounded).maximum, 1)
    console.print(table)


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line."""
    pairs = [(name, _cell(value)) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0)
    console = Console(soft_wrap=True)
    for name, text in pairs:
        console.print(Text(f"{name:<{width}}  ") + text)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(printable(str(value)))  # not str: a file name may look like markup
