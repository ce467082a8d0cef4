"""Reads what workers send: what they offer, and what they say of jobs. Refuses what can never be right."""

from __future__ import annotations

from typing import Any

from drayman.server.platform.errors import invalid
from drayman.server.platform.trust import Caller
from drayman.server.task.job_fields import (
    LARGEST_METADATA,
    FieldsError,
    read_fields,
    read_json,
    storable,
)
from drayman.server.task.job_messages import JOB_STATE_NAME, request_uuid
from drayman.server.task.job_reports import Made, Update
from drayman.server.task.job_rules import REPORTABLE
from drayman.server.task.job_states import JobState
from drayman.server.task.matching import Offer
from drayman.server.task.wishes import JobWish
from drayman.task.v1 import pilot_service_pb2 as pb

MOST_JOBS = 1000
MOST_UPDATES = 1000
#: Bytes; worker ids are keys of an index.
_LONGEST_WORKER_ID = 1000
_LONGEST_NAME = 1000
_MOST_SOFTWARE = 1000
_LONGEST_TAIL = 64 * 1024
_PILOT_ROLE = "pilot"
_FIGURES = ("cores", "memory_mb", "disk_mb", "walltime_seconds", "task_id")

_STATES: dict[int, JobState | None] = {0: None} | {
    number: JobState(name) for number, name in JOB_STATE_NAME.items() if JobState(name) in REPORTABLE
}


def worker_id_of(text: str, within: str = "") -> str:
    """Check a worker's id. What reaches a statement that serves others too is checked here. Raises Refusal."""
    if not text or "\x00" in text or len(text.encode()) > _LONGEST_WORKER_ID:
        raise invalid(
            f"{within}worker_id", f"worker_id {text[:80]!r}: expected 1 to {_LONGEST_WORKER_ID} bytes without NUL"
        )
    return text


def wish_of(request: pb.NextJobRequest, caller: Caller) -> tuple[JobWish, float | None]:
    """Read a wish, and how many seconds it may wait; None = as long as the call lasts. Raises Refusal."""
    worker_id = worker_id_of(request.worker_id)
    for name in _FIGURES:
        if getattr(request, name) < 0:
            raise invalid(name, f"{name} {getattr(request, name)} is negative")
    if not 0 <= request.max_jobs <= MOST_JOBS:
        raise invalid("max_jobs", f"max_jobs {request.max_jobs}: expected 1 to {MOST_JOBS}, or 0 for 1")
    for name in ("site", "node", "platform", "label"):
        _check_name(name, getattr(request, name))
    if len(request.software) > _MOST_SOFTWARE:
        raise invalid("software", f"{len(request.software)} names: at most {_MOST_SOFTWARE}")
    for name in request.software:
        _check_name("software", name)
    timeout = None
    if request.HasField("timeout"):
        timeout = request.timeout.seconds + request.timeout.nanos / 1e9
        if timeout < 0:
            raise invalid("timeout", f"timeout of {timeout:g} s is negative")
    offer = Offer(
        site=request.site,
        cores=request.cores or 1,
        memory_mb=request.memory_mb,
        disk_mb=request.disk_mb,
        walltime_seconds=request.walltime_seconds,
        platform=request.platform,
        label=request.label,
        task_id=request.task_id,
        user=caller.username,
        anybody=caller.admin or _PILOT_ROLE in caller.roles,
    )
    request_id = request_uuid(request.request_id)
    wish = JobWish(worker_id, offer, request.node, request.max_jobs or 1, request_id, now_or_never=timeout == 0)
    return wish, timeout


def updates_of(request: pb.UpdateJobsRequest | pb.AttendRequest) -> list[Update]:
    """Read updates. Raises Refusal."""
    if len(request.updates) > MOST_UPDATES:
        raise invalid("updates", f"{len(request.updates)} updates: at most {MOST_UPDATES:,}")
    return [_update(update, number) for number, update in enumerate(request.updates)]


def _update(update: pb.JobUpdate, number: int) -> Update:
    if update.state not in _STATES:
        raise invalid(
            f"updates[{number}].state",
            f"state {JOB_STATE_NAME.get(update.state, update.state)}: a worker reports starting, running, holding, transferring,"
            " finished or failed, or activated to give the job back",
        )
    fields: dict[str, Any] = {}
    if update.fields_json:
        try:
            fields = read_fields(update.fields_json)
        except FieldsError as error:
            raise invalid(f"updates[{number}].fields_json", str(error)) from None
    if update.metadata_json:
        try:
            read_json(update.metadata_json, LARGEST_METADATA)
        except FieldsError as error:
            raise invalid(f"updates[{number}].metadata_json", str(error)) from None
    node = fields.get("node")
    return Update(
        update.job_id,
        update.attempt,
        _STATES[update.state],
        fields,
        node[:_LONGEST_NAME] if isinstance(node, str) and node else None,
        storable(update.metadata_json) or None,
        storable(update.output_tail[-_LONGEST_TAIL:]) if update.output_tail else "",
        [Made(file.name, file.size, file.checksum, file.events) for file in update.outputs]
        if not update.outputs or _check_outputs(update, number)
        else [],
    )


def _check_outputs(update: pb.JobUpdate, number: int) -> bool:
    for place, file in enumerate(update.outputs):
        if file.size < 0 or file.events < 0 or "\x00" in file.checksum:
            raise invalid(
                f"updates[{number}].outputs[{place}]", f"file {file.name[:80]!r}: sizes and events are not negative"
            )
    return True


def _check_name(field: str, text: str) -> None:
    if "\x00" in text or len(text.encode()) > _LONGEST_NAME:
        raise invalid(field, f"{field} {text[:80]!r}: expected at most {_LONGEST_NAME} bytes without NUL")
