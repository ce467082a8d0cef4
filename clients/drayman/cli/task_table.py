"""How tasks look on paper."""

from __future__ import annotations

from typing import Any

from drayman.cli.values import local_time
from drayman.client.task_values import Task

TITLES = ("task", "state", "done", "failed", "inputs", "jobs", "owner", "submitted", "name")


def row(task: Task) -> tuple[Any, ...]:
    """Write a task into a row under TITLES."""
    counts = task.counts
    return (
        task.task_id,
        task.state,
        counts.inputs_finished,
        counts.inputs_failed,
        counts.inputs,
        f"{counts.jobs_live} of {counts.jobs}" if counts.jobs_live else counts.jobs,
        task.owner,
        local_time(task.create_time),
        task.name,
    )


def progress_text(task: Task) -> str:
    """Write how far a task is, in a line."""
    counts = task.counts
    parts = [
        task.state,
        f"{counts.inputs_finished} done",
        f"{counts.inputs_failed} failed",
        f"{counts.inputs_picked} in jobs",
        f"of {counts.inputs}",
        f"{counts.jobs_live} of {counts.jobs} jobs live",
    ]
    if task.error and (task.over or task.state == "pending"):
        parts.append(task.error)
    return "  ".join(parts)
