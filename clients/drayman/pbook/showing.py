"""`show` and `showl` (section 12.1)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from drayman.pbook.arguments import Kind, Parameter
from drayman.pbook.desk import Desk, say
from drayman.pbook.endings import Outcome, Refusal
from drayman.pbook.finding import ENDED, active_states, states_of, superstatus, tasks_of

if TYPE_CHECKING:
    from drayman.client.task_values import Task

_FORMATS = ("standard", "long", "json", "plain")
_MOST_DAYS = 90

PARAMETERS = (
    Parameter("some_id", Kind.TARGETS, words=("run", "fin")),
    Parameter("username", Kind.TEXT),
    Parameter("limit", Kind.NUMBER, 1000),
    Parameter("taskname", Kind.TEXT),
    Parameter("days", Kind.NUMBER, 14),
    Parameter("jeditaskid", Kind.IDS),
    Parameter("reqid", Kind.IDS),
    Parameter("status", Kind.TEXT),
    Parameter("superstatus", Kind.TEXT),
    Parameter("format", Kind.TEXT, "standard"),
    Parameter("sync", Kind.FLAG, False),
)


async def show(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Show tasks, newest first. With the format json they are returned."""
    form = given["format"]
    if form not in _FORMATS:
        raise Refusal(f"format {form!a}: expected one of {', '.join(_FORMATS)}")
    numbers = given["some_id"] if isinstance(given["some_id"], list) else []
    found = await _tasks(desk, given, numbers)
    good = bool(found) or not (numbers or given["jeditaskid"] or given["reqid"])
    if form == "json":
        return Outcome([_record(task) for task in found], good)
    rows = [_long(task) if form == "long" else _short(task) for task in found]
    if form == "plain":
        for row in rows:
            say(" ".join(row))
    else:
        _print(_LONG if form == "long" else _SHORT, rows)
    return Outcome(good=good)


async def show_long(desk: Desk, given: Mapping[str, Any], further: Mapping[str, Any]) -> Outcome:
    """Show tasks with more of what is known."""
    return await show(desk, {**given, "format": "long" if given["format"] == "standard" else given["format"]}, further)


async def _tasks(desk: Desk, given: Mapping[str, Any], numbers: Sequence[int]) -> list[Task]:
    """Return the tasks that are asked for."""
    states = _states(given)
    name, limit = given["taskname"] or "", given["limit"]
    if numbers:
        found = {task.task_id: task for number in numbers for task in await tasks_of(desk, number)}
        chosen = [
            task
            for task in found.values()
            if (states is None or task.state in states) and given["username"] in (None, task.owner)
        ]
        return sorted(chosen, key=lambda task: -task.task_id)[:limit]
    if states is not None and not states:
        return []
    by_number = bool(given["jeditaskid"] or given["reqid"])
    since = None if by_number else datetime.now(UTC) - timedelta(days=_days(given["days"]))
    # somebody else's are found by their number too
    owner = given["username"] or ("" if by_number else await desk.user())
    listed: list[Task] = []
    for request_id in given["reqid"] or [0]:
        tasks = desk.tasks.tasks(
            owner=owner,
            states=states or (),
            name=name,
            task_ids=given["jeditaskid"] or (),
            request_id=request_id,
            changed_since=since,
            limit=limit,
        )
        listed += [task async for task in tasks]
    return listed[:limit]


def _states(given: Mapping[str, Any]) -> list[str] | None:
    """Return the states that tasks may have; None = any."""
    wanted: set[str] | None = None
    if given["some_id"] == "run":
        wanted = set(active_states())
    elif given["some_id"] == "fin":
        wanted = set(ENDED)
    for key in ("status", "superstatus"):
        if given[key]:
            words = [word.strip() for word in given[key].split(",")]
            meant = set(states_of(words, coarse=key == "superstatus"))
            wanted = meant if wanted is None else wanted & meant
    return None if wanted is None else sorted(wanted)


def _days(days: int) -> int:
    if days > _MOST_DAYS:
        raise Refusal(f"days {days}: at most {_MOST_DAYS} unless an ID is given")
    return days


_SHORT = ("JediTaskID", "ReqID", "Status", "Progress", "TaskName")
_LONG = (
    "JediTaskID",
    "Status",
    "CreationDate",
    "ModificationTime",
    "ReqID",
    "Progress",
    "Done|Failed|Total",
    "TaskName",
    "URL",
)


def _short(task: Task) -> tuple[str, ...]:
    return str(task.task_id), str(task.request_id), task.state, _progress(task), task.name


def _long(task: Task) -> tuple[str, ...]:
    counts = task.counts
    monitor = os.environ.get("PANDAMON_URL", "").rstrip("/")
    return (
        str(task.task_id),
        task.state,
        _time(task.create_time),
        _time(task.update_time),
        str(task.request_id),
        _progress(task),
        f"{counts.inputs_finished}|{counts.inputs_failed}|{counts.inputs}",
        task.name,
        f"{monitor}/task/{task.task_id}/" if monitor else "-",
    )


def _progress(task: Task) -> str:
    return f"{int(task.counts.progress)}%"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _record(task: Task) -> dict[str, Any]:
    """Return what JSON has of a task, under the names that PanDA's monitor uses. Times in UTC."""
    counts = task.counts
    return {
        "jeditaskid": task.task_id,
        "reqid": task.request_id,
        "taskname": task.name,
        "username": task.owner,
        "status": task.state,
        "superstatus": superstatus(task.state),
        "creationdate": _time(task.create_time),
        "modificationtime": _time(task.update_time),
        "starttime": _time(task.start_time) if task.start_time else None,
        "endtime": _time(task.end_time) if task.end_time else None,
        "errordialog": task.error,
        "parent_tid": task.parent_task_id or None,
        "processingtype": task.processing_type,
        "prodsourcelabel": task.label,
        "currentpriority": task.current_priority,
        "cliparams": task.command_line,
        "dsinfo": {
            "nfiles": counts.inputs,
            "nfilesfinished": counts.inputs_finished,
            "nfilesfailed": counts.inputs_failed,
            "pctfinished": int(counts.progress),
        },
    }


def _print(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [tuple(titles), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            say("-" * min(sum(widths) + 2 * len(widths) - 2, shutil.get_terminal_size((120, 24)).columns))
