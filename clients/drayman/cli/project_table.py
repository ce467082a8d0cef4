"""Lists of projects as people and programs read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.values import local_time, plain
from drayman.client import Project


async def print_projects(projects: AsyncIterator[Project], *, as_json: bool) -> None:
    """Print a list of projects."""
    if as_json:
        await print_json_array(projects, plain)
        return
    titles = ("id", "state", "done", "failed", "reserved", "total", "created", "owner")
    await print_rows(titles, projects, _summary)


def _summary(found: Project) -> tuple[Any, ...]:
    counts = found.counts
    numbers = (counts.done, counts.failed, counts.reserved, counts.total)
    return found.project_id, found.state, *numbers, local_time(found.created), found.owner
