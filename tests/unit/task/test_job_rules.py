import itertools

import pytest

from drayman.server.task import job_rules
from drayman.server.task.job_rules import KillEffect
from drayman.server.task.job_states import FINAL_JOB, JobState

S = JobState

# for each state that a worker's job can be in: what it becomes by a report, "-" = the report is refused
REPORTS = """
               activated starting running holding transferring finished failed
sent           activated starting running holding transferring finished failed
starting       activated starting running holding transferring finished failed
running        -         -        running holding transferring finished failed
holding        -         -        -       holding transferring finished failed
transferring   -         -        -       -       transferring finished failed
"""


def table() -> dict[tuple[JobState, JobState], JobState | None]:
    head, *rows = (line.split() for line in REPORTS.strip().splitlines())
    return {
        (S(state), S(reported)): None if becomes == "-" else S(becomes)
        for state, *cells in rows
        for reported, becomes in zip(head, cells, strict=True)
    }


@pytest.mark.parametrize("state", list(S))
def test_what_reports_do(state: JobState) -> None:
    for reported in S:
        assert job_rules.after_report(state, reported) is table().get((state, reported)), reported


def test_what_a_worker_may_say() -> None:
    assert {reported for _, reported in table()} == job_rules.REPORTABLE


def test_no_order_of_reports_leads_backwards() -> None:
    order = [S.SENT, S.STARTING, S.RUNNING, S.HOLDING, S.TRANSFERRING, S.FINISHED, S.FAILED]
    for reports in itertools.permutations(job_rules.REPORTABLE - {S.ACTIVATED}, 4):
        state = S.SENT
        for reported in reports:
            after = job_rules.after_report(state, reported) or state
            assert order.index(after) >= order.index(state)
            assert state not in FINAL_JOB or after is state
            state = after


CODES = (0, 2, 3, 4, 7, 8, 9, 10, 50, 51, 52, 55, 60, 91, 99)
CLOSING = {2, 4, 10, 51, 55, 60}
AT_ONCE = {2, 9, 10, 51, 52, 60, 91, 99}


@pytest.mark.parametrize("state", list(S))
def test_what_killing_does(state: JobState) -> None:
    for ordered, code in itertools.product((False, True), CODES):
        if state in (S.FINISHED, S.FAILED, S.CANCELLED, S.CLOSED):
            effect = KillEffect(None, order=False, accepted=False)
        elif state is S.RUNNING and code not in AT_ONCE:
            effect = KillEffect(None, order=not ordered, accepted=not ordered)
        else:
            effect = KillEffect(S.CLOSED if code in CLOSING else S.CANCELLED, order=False, accepted=True)
        assert job_rules.kill_effect(state, ordered=ordered, code=code) == effect, (ordered, code)


def test_killing_a_running_job_twice_is_true_and_false() -> None:
    first = job_rules.kill_effect(S.RUNNING, ordered=False, code=0)
    second = job_rules.kill_effect(S.RUNNING, ordered=first.order, code=0)
    assert (first.accepted, second.accepted) == (True, False)


@pytest.mark.parametrize(
    ("owns", "production", "label", "code", "may"),
    [
        (True, False, "user", 0, True),
        (True, True, "user", 0, True),
        (False, False, "user", 9, False),
        (False, False, "managed", 0, False),
        (False, True, "managed", 0, True),
        (False, True, "user", 0, False),
        (False, True, "user", 50, False),
        (False, True, "panda", 0, False),
        *[(False, True, "user", code, True) for code in (9, 91, 99)],
    ],
)
def test_who_may_kill(owns: bool, production: bool, label: str, code: int, may: bool) -> None:
    assert job_rules.may_kill(owns=owns, production=production, label=label, code=code) is may
