"""A bar for what takes longer than a second. It goes to standard error, and only to a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from drayman.cli.printable import printable

_PATIENCE = 1.0


class Bar:
    """How far something is: `done` of `total`; a total of None is not known."""

    def __init__(self, title: str, unit: str) -> None:
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if unit == "bytes":
            columns += [BarColumn(), DownloadColumn(), TransferSpeedColumn()]
        elif unit:
            columns += [BarColumn(), MofNCompleteColumn(), TextColumn(unit)]
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(printable(title), total=None)

    def tell(self, done: int, total: int | None = None, title: str | None = None) -> None:
        """Say how far it is; `title` is what it is at."""
        self._progress.update(self._task, completed=done, total=total)
        if title is not None:
            self._progress.update(self._task, description=Text(printable(title)).plain)

    def show(self) -> None:
        """Begin to show it."""
        self._progress.start()

    def hide(self) -> None:
        """End showing it, if that was begun."""
        if self._progress.live.is_started:
            self._progress.stop()


@contextlib.asynccontextmanager
async def late_bar(title: str, unit: str = "") -> AsyncIterator[Bar]:
    """Show a bar after a second, until the end. `unit`: `bytes`, what is counted, or "" for what cannot be."""
    bar = Bar(title, unit)
    begin = asyncio.get_running_loop().call_later(_PATIENCE, bar.show) if sys.stderr.isatty() else None
    try:
        yield bar
    finally:
        if begin is not None:
            begin.cancel()
        bar.hide()
