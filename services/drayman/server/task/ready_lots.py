"""Lots: jobs that ask for the same of a worker. What the hand-out keeps of them in memory."""

from __future__ import annotations

from dataclasses import dataclass

from drayman.server.task.plan import Requirements


@dataclass(slots=True, eq=False)
class Lot:
    """A lot with jobs that are ready, as of the last look."""

    lot_id: int
    task_id: int | None  # None: jobs submitted by themselves
    owner: str
    label: str
    priority: int
    ready: int
    requirements: Requirements
