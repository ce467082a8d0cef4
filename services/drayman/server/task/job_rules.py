"""What becomes of a job when its worker says something, or somebody kills it (reference §6.1, 6.2, 6.6). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from drayman.server.task.job_states import FINAL_JOB, HELD, JobState

#: What a worker may say of a job. ACTIVATED gives it back.
REPORTABLE = frozenset(
    {
        JobState.ACTIVATED,
        JobState.STARTING,
        JobState.RUNNING,
        JobState.HOLDING,
        JobState.TRANSFERRING,
        JobState.FINISHED,
        JobState.FAILED,
    }
)
#: A worker has it, and has not begun.
NOT_BEGUN = frozenset({JobState.SENT, JobState.STARTING})

_ORDER = {
    state: place
    for place, state in enumerate(
        (
            JobState.SENT,
            JobState.STARTING,
            JobState.RUNNING,
            JobState.HOLDING,
            JobState.TRANSFERRING,
            JobState.FINISHED,
        )
    )
} | {JobState.FAILED: 5}

#: Why a job is killed.
EXPIRED, ABORTED, EXPIRED_WAITING, RETRIED, REBROKERED, BY_FORCE, REBROKERED_FAST = 2, 3, 4, 7, 8, 9, 10
BY_ENGINE, REASSIGNED, FORCED_BY_ENGINE, TASK_ALMOST_DONE, ENDED_BY_WORKER = 50, 51, 52, 55, 60
BY_ADMINISTRATOR = frozenset({91, 99})
#: Withdrawn by the system: closed, not cancelled.
WITHDRAWING = frozenset({EXPIRED, EXPIRED_WAITING, REBROKERED_FAST, REASSIGNED, TASK_ALMOST_DONE, ENDED_BY_WORKER})
#: Running jobs end at once as well, whatever their worker does.
FORCED = (
    frozenset({EXPIRED, BY_FORCE, REBROKERED_FAST, REASSIGNED, FORCED_BY_ENGINE, ENDED_BY_WORKER}) | BY_ADMINISTRATOR
)

#: Labels of jobs that are their users' own matter.
_USER_LABELS = frozenset({"user", "panda"})


def after_report(state: JobState, reported: JobState) -> JobState | None:
    """Return what a job becomes whose worker says that it is `reported`. None = the report is refused, the state is kept.

    A job never goes backwards: only one that has not begun can be given back. What no worker has, or is over, no report changes.
    Outputs are recorded with the report, so that a job need not be `holding` in between.
    """
    if state not in HELD or reported not in REPORTABLE:
        return None
    if reported is JobState.ACTIVATED:
        return reported if state in NOT_BEGUN else None
    return reported if _ORDER[reported] >= _ORDER[state] else None


@dataclass(frozen=True, slots=True)
class KillEffect:
    """What a kill does: the state that a job comes to at once (None = it stays), an order to its worker, and the answer."""

    state: JobState | None
    order: bool
    accepted: bool


_NOTHING = KillEffect(None, False, False)
_ORDERED = KillEffect(None, True, True)
_CANCELLED = KillEffect(JobState.CANCELLED, False, True)
_CLOSED = KillEffect(JobState.CLOSED, False, True)


def kill_effect(state: JobState, *, ordered: bool, code: int) -> KillEffect:
    """Return what killing a job does; `ordered` = its worker was told before to stop it, `code` says why (0 = somebody wants it).

    What runs gets an order, and ends when its worker obeys; a second order is none. Everything else that lives ends at once.
    """
    if state in FINAL_JOB:
        return _NOTHING
    if state is JobState.RUNNING and code not in FORCED:
        return _NOTHING if ordered else _ORDERED
    return _CLOSED if code in WITHDRAWING else _CANCELLED


def may_kill(*, owns: bool, production: bool, label: str, code: int) -> bool:
    """Whether somebody may kill a job: its owner, and with the production role others' too - those of users only by force (9, 91, 99)."""
    return owns or (production and (label not in _USER_LABELS or code in BY_ADMINISTRATOR or code == BY_FORCE))
