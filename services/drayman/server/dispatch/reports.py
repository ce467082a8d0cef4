"""What a report says and why one is refused, in the words of the contract."""

from __future__ import annotations

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.server.dispatch.lifecycle import Outcome
from drayman.server.platform.errors import Refusal, invalid

#: Reports in one message at most.
MOST_REPORTS = 1000

_OUTCOMES = {
    pb.OUTCOME_DONE: Outcome.DONE,
    pb.OUTCOME_FAILED_RETRY: Outcome.RETRY,
    pb.OUTCOME_FAILED_FINAL: Outcome.FAILED,
    pb.OUTCOME_RELEASED: Outcome.RELEASED,
}

_REFUSALS = {
    "HANDLE_NOT_FOUND": "project {project} has no such handle: {handle}",
    "WRONG_WORKER": "Not authorized: wrong worker_id: {handle} is not reserved by {worker}",
    "NOT_RESERVED": "Not authorized: wrong worker_id: {handle} is not reserved (reported, timed out or restarted)",
    "STALE_ATTEMPT": "{handle} is in a later attempt than the one reported",
}


def outcome_of(report: pb.FileReport, field: str) -> Outcome:
    """Read a report's outcome, and see that its texts can be stored; `field` is the path of the report. Raises Refusal."""
    for name, text in (("code", report.code), ("message", report.message)):
        # the database would refuse everybody's reports that reach it together with this one
        if "\x00" in text:
            raise invalid(f"{field}.{name}", f"the {name} contains NUL, which cannot be stored")
    try:
        return _OUTCOMES[report.outcome]
    except KeyError:
        expected = "expected DONE, FAILED_RETRY, FAILED_FINAL or RELEASED"
        raise invalid(f"{field}.outcome", f"outcome {report.outcome}: {expected}") from None


def refusal(reason: str, project_id: int, worker_id: str, handle: str) -> Refusal:
    """Say why a report on a handle (its id or DID) is refused."""
    message = _REFUSALS[reason].format(project=project_id, handle=handle, worker=worker_id)
    return Refusal(reason, message, metadata={"handle": handle, "worker_id": worker_id})
