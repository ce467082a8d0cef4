"""`drayman project watch`: a project's progress while it is made."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, aclosing, nullcontext
from datetime import UTC, datetime

import click
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from drayman.cli.output import Failure, json_option
from drayman.cli.session import calling
from drayman.cli.values import DURATION, plain, seconds
from drayman.client import DispatchClient, Progress

#: What a line of JSON says of the project itself.
_FIELDS = ("project_id", "state", "counts", "ended", "open", "reason")


@click.command("watch")
@click.argument("project_id", type=int, metavar="ID")
@click.option(
    "--interval",
    type=seconds,
    metavar=DURATION,
    default="1s",
    show_default=True,
    help="At most one change in so long; an end is told at once.",
)
@json_option
def watch_project(project_id: int, interval: float, as_json: bool) -> None:
    """Watch project ID until it is done, failed or cancelled.

    On a terminal it draws a bar, else it prints a line for each change; with --json one JSON object a line. Exit code 0 if the project is
    done, 1 if it failed, was cancelled or removed.
    """
    screen = _Screen() if sys.stdout.isatty() and not as_json else _Lines(as_json=as_json)
    with screen.shown():
        _follow(project_id, interval, screen)
    if screen.state not in ("done", "failed", "cancelled"):
        raise Failure(f"project {project_id} was removed")
    if screen.state != "done":
        sys.exit(1)


@calling
async def _follow(project_id: int, interval: float, screen: _Lines | _Screen) -> None:
    async with DispatchClient() as dispatch, aclosing(dispatch.watch_project(project_id, interval=interval)) as views:
        async for progress in views:
            screen.state = progress.project.state
            screen.show(progress)


class _Lines:
    """A line for each change."""

    def __init__(self, *, as_json: bool) -> None:
        self.state = ""
        self._as_json = as_json

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, progress: Progress) -> None:
        if self._as_json:
            click.echo(json.dumps(_record(progress), ensure_ascii=False))
        else:
            click.echo(f"{datetime.now().astimezone():%H:%M:%S}  {_text(progress)}")


class _Screen:
    """A bar that moves."""

    def __init__(self) -> None:
        self.state = ""
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}")
        )
        self._task = self._bar.add_task("project", total=None, text="")

    def shown(self) -> AbstractContextManager[object]:
        return self._bar

    def show(self, progress: Progress) -> None:
        project = progress.project
        self._bar.update(
            self._task,
            description=f"project {project.project_id}",
            total=max(project.counts.total, 1),
            completed=project.counts.done + project.counts.failed,
            text=_text(progress),
            refresh=True,
        )


def _text(progress: Progress) -> str:
    project, counts = progress.project, progress.project.counts
    parts = [
        project.state + (", open" if project.open else ""),
        f"{counts.done} done",
        f"{counts.failed} failed",
        f"{counts.reserved} reserved",
        f"{counts.initial} waiting",
        f"of {counts.total}",
        f"{progress.rate:.3g}/s",
    ]
    if progress.estimated_end is not None:
        parts.append(f"{_span((progress.estimated_end - datetime.now(UTC)).total_seconds())} left")
    return "  ".join(parts)


def _span(length: float) -> str:
    minutes, rest = divmod(max(round(length), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f}d"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _record(progress: Progress) -> dict[str, object]:
    record = {name: plain(getattr(progress.project, name)) for name in _FIELDS}
    return record | {"rate": progress.rate, "estimated_end": plain(progress.estimated_end)}
