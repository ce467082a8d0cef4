"""A first few jobs, which show whether the rest is worth making (reference §5.2)."""

from __future__ import annotations

from enum import StrEnum

from drayman.server.task.plan import TaskPlan


class ScoutVerdict(StrEnum):
    """What the scouts say."""

    WAIT = "wait"
    GO_ON = "go_on"
    BROKEN = "broken"  # none succeeded
    EXHAUSTED = "exhausted"  # some did, but fewer than asked for


def how_many(plan: TaskPlan, inputs: int) -> int:
    """Return how many scouts a task with so many records of input gets: none if it is hardly larger than that."""
    return plan.scouts if inputs > plan.scouts else 0


def judge_scouts(*, scouts: int, finished: int, failed: int, live: int, success_rate: float) -> ScoutVerdict:
    """Judge scouts by how many jobs were made as such, and how many of those have finished, have failed, are not over.

    Half of them are enough to go on, if that many of those that are over (`success_rate`, 0 to 1) have succeeded. They are condemned only
    when all are over. Cancelled ones say nothing; if that is all there is, the task goes on: killing jobs is not killing the task.
    """
    over = finished + failed
    enough = finished + 1e-9 >= success_rate * over
    if live <= 0:
        if over == 0:
            return ScoutVerdict.GO_ON
        if finished == 0:
            return ScoutVerdict.BROKEN
        return ScoutVerdict.GO_ON if enough else ScoutVerdict.EXHAUSTED
    return ScoutVerdict.GO_ON if finished > 0 and finished * 2 >= scouts and enough else ScoutVerdict.WAIT
