"""Following a task until it is over: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, aclosing, nullcontext
from datetime import datetime

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from drayman.cli.printable import printable
from drayman.cli.task_table import progress_text
from drayman.cli.values import plain
from drayman.client.task_values import Task
from drayman.client.tasks import TaskClient


async def follow(client: TaskClient, task_id: int, *, interval: float = 1.0, as_json: bool = False) -> Task:
    """Show how a task goes on until it is final; returns it as it is then. Raises DraymanError."""
    screen = _Screen() if sys.stdout.isatty() and not as_json else _Lines(as_json=as_json)
    last: Task | None = None
    with screen.shown():
        async with aclosing(client.watch(task_id, interval=interval)) as views:
            async for task in views:
                screen.show(task)
                last = task
    assert last is not None, "a watch begins with the task as it is"
    return last


class _Lines:
    """A line for each change."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, task: Task) -> None:
        if self._as_json:
            click.echo(json.dumps(plain(task), ensure_ascii=False))
        else:
            click.echo(f"{datetime.now().astimezone():%H:%M:%S}  {printable(progress_text(task))}")


class _Screen:
    """A bar that moves."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}")
        )
        self._task = self._bar.add_task("task", total=None, text="")

    def shown(self) -> AbstractContextManager[object]:
        return self._bar

    def show(self, task: Task) -> None:
        self._bar.update(
            self._task,
            description=f"task {task.task_id}",
            total=task.counts.inputs or None,
            completed=task.counts.inputs_finished + task.counts.inputs_failed,
            text=printable(progress_text(task)),
            refresh=True,
        )
