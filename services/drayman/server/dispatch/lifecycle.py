"""States of projects and handles, and what moves them. Pure: the model that the tests hold against the running service.

::

    handle    initial ──reserve──▶ reserved ──done──▶ done
                 ▲  ▲                 │ │
                 │  └──retry,timeout──┘ └──failed, timeout without retry, attempts used up──▶ failed
                 └──────────────── restart (from any) ───────────────────────┘

    project   active ──last handle over──▶ done | failed
                 │ ▲                          │
                 │ └── activate, restart, add ┤
                 ├──cancel────▶ cancelled ────┤
                 └──idle──────▶ abandoned ────┘   (also by the next request for a file, and by a report)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class ProjectState(StrEnum):
    """Where a project is in its life."""

    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class HandleState(StrEnum):
    """Where a handle is in its life."""

    INITIAL = "initial"
    RESERVED = "reserved"
    DONE = "done"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a reservation, as a report or the passing of time says."""

    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    RELEASED = "released"
    TIMEOUT_RETRY = "timeout_retry"
    TIMEOUT_FINAL = "timeout_final"


#: Where a reserved handle goes.
AFTER: Mapping[Outcome, HandleState] = {
    Outcome.DONE: HandleState.DONE,
    Outcome.FAILED: HandleState.FAILED,
    Outcome.RETRY: HandleState.INITIAL,
    Outcome.RELEASED: HandleState.INITIAL,
    Outcome.TIMEOUT_RETRY: HandleState.INITIAL,
    Outcome.TIMEOUT_FINAL: HandleState.FAILED,
}

#: States in which a project has an end time.
ENDED = frozenset({ProjectState.DONE, ProjectState.FAILED, ProjectState.CANCELLED})


def is_over(files: int, done: int, failed: int, *, open_list: bool = False) -> bool:
    """Whether every handle of a project is done or failed, and no more will come. Without files it never gets there by itself."""
    return files > 0 and not open_list and done + failed == files


def after_report(state: ProjectState, files: int, done: int, failed: int, *, open_list: bool = False) -> ProjectState:
    """State of a project after a handle was settled; the counts are those afterwards."""
    if state not in (ProjectState.ACTIVE, ProjectState.ABANDONED):
        return state
    return _ended_or_active(files, done, failed, open_list)


def after_activate(state: ProjectState, files: int, done: int, failed: int, *, open_list: bool = False) -> ProjectState:
    """State of a project that somebody activates."""
    return state if state is ProjectState.ACTIVE else _ended_or_active(files, done, failed, open_list)


def after_restart(state: ProjectState, files: int, done: int, failed: int, restarted: int) -> ProjectState:
    """State of a project after handles were put back; the counts are those afterwards. Restarting nothing changes nothing."""
    return ProjectState.ACTIVE if restarted and done + failed < files else state


def after_adding(
    state: ProjectState, files: int, done: int, failed: int, added: int, *, open_list: bool
) -> ProjectState:
    """State of a project (not a cancelled one) after files were added to it, or its list was opened or closed."""
    if added or open_list:
        return ProjectState.ACTIVE
    return after_report(state, files, done, failed) if is_over(files, done, failed) else state


def after_failure(outcome: Outcome, attempts: int, max_attempts: int | None) -> HandleState:
    """Where a reserved handle goes: what would be tried again is given up once its attempts are used up."""
    again = outcome in (Outcome.RETRY, Outcome.TIMEOUT_RETRY)
    return HandleState.FAILED if again and max_attempts and attempts >= max_attempts else AFTER[outcome]


def hands_out(state: ProjectState, files: int, done: int, failed: int, *, open_list: bool = False) -> bool:
    """Whether a worker that asks may still get a file, now or later."""
    return state in (ProjectState.ACTIVE, ProjectState.ABANDONED) and (open_list or done + failed < files)


def _ended_or_active(files: int, done: int, failed: int, open_list: bool) -> ProjectState:
    if not is_over(files, done, failed, open_list=open_list):
        return ProjectState.ACTIVE
    return ProjectState.FAILED if failed else ProjectState.DONE


@dataclass(frozen=True, slots=True)
class Holding:
    """How a handle stands when a report for it is judged."""

    state: HandleState
    attempts: int
    worker_id: str | None
    request_id: UUID | None


def why_refused(holding: Holding | None, worker_id: str, attempt: int, request_id: UUID | None) -> str | None:
    """Reason why a report was not accepted; None if it is the repetition of one that was (same request id)."""
    if holding is None:
        return "HANDLE_NOT_FOUND"
    if holding.state is not HandleState.RESERVED:
        if request_id is not None and holding.request_id == request_id and holding.worker_id == worker_id:
            return None
        return "NOT_RESERVED"
    if holding.worker_id != worker_id:
        return "WRONG_WORKER"
    return "STALE_ATTEMPT" if attempt and holding.attempts != attempt else "NOT_RESERVED"
