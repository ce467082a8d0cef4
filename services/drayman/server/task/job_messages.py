"""Shapes jobs into protobuf messages. No rules, no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from drayman.server.platform.errors import invalid
from drayman.server.task.job_rendering import JobInput, Rendered, Source
from drayman.server.task.job_states import FINAL_JOB, JobState
from drayman.server.task.job_store import Limits, Row
from drayman.server.task.own_jobs import is_set
from drayman.task.v1 import job_pb2 as pb

JOB_STATE: Mapping[str, pb.JobState] = {
    state.value: pb.JobState.Value(f"JOB_STATE_{state.name}")  # type: ignore[misc] # its stub takes literals only
    for state in JobState
}
JOB_STATE_NAME: Mapping[int, str] = {value: name for name, value in JOB_STATE.items()}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Turn a database time into a message."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def request_uuid(text: str, field: str = "request_id") -> UUID | None:
    """Read the id that names a call; None if it has none. Raises Refusal."""
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid(field, f"{field} {text[:80]!r} is not a UUID") from error


def input_message(file: JobInput) -> pb.JobFile:
    """Shape an input."""
    return pb.JobFile(
        name=file.name,
        type=file.type,
        dataset=file.dataset,
        stream=file.stream,
        status=file.status,
        size=file.size,
        checksum=file.checksum,
        scope=file.scope,
        number=file.number,
        registry=file.registry,
        urls=file.urls,
        guid=file.guid,
    )


def files_of(row: Row, rendered: Rendered) -> Iterable[pb.JobFile]:
    """Shape a job's files: what it reads, and what it makes as far as that went."""
    for file in rendered.inputs:
        yield input_message(file)
    made = {fields[0]: Source(*fields) for fields in json.loads(row["made"] or "[]")}
    over = row["state"] in FINAL_JOB
    for output in rendered.outputs:
        place = output.place
        source = made.get(output.name)
        message = pb.JobFile(
            name=output.name,
            type=output.type,
            dataset=output.dataset,
            stream=output.stream,
            status=source.state if source else "failed" if over else "unknown",
        )
        if source:
            message.size = source.size
            message.checksum = source.checksum
            message.registry = f"{place.project}/{place.asset}/{place.version}/{output.name}"
        yield message


def job(row: Row, rendered: Rendered | None, limits: Limits, *, files: bool) -> pb.Job:
    """Shape a row of the statement `jobs`; `rendered` is None if the job cannot be rendered (any more)."""
    state = "throttled" if row["state"] == "activated" and row["held"] else row["state"]
    own: dict[str, Any] = json.loads(row["own"]) if row["own"] else {}
    fields: dict[str, Any] = {name: value for name, value in own.items() if name != "Files"}
    if row["fields"]:
        fields |= json.loads(row["fields"])
    name = own.get("jobName")
    message = pb.Job(
        job_id=row["job_id"],
        task_id=row["task_id"] or 0,
        state=JOB_STATE[state],
        kind=row["kind"],
        attempt=row["attempt"],
        parent_job_id=row["parent_id"] or 0,
        owner=row["owner"],
        priority=row["priority"],
        program=rendered.program if rendered else "",
        parameters=rendered.parameters if rendered else "",
        site=row["site"] or "",
        worker_id=row["worker_id"] or "",
        node=row["node"] or "",
        create_time=timestamp(row["created_at"]),
        update_time=timestamp(updated_at(row, limits)),
        state_time=timestamp(row["state_at"]),
        start_time=timestamp(row["started_at"]),
        end_time=timestamp(row["ended_at"]),
        order="tobekilled" if row["killed_by"] and row["state"] == "running" else "",
        debug=row["debug"],
        substate=str(fields.get("jobSubStatus", ""))[:80],
        fields_json=json.dumps(fields) if fields else "{}",
        definition_id=row["definition_id"] or 0,
        output_tail=row["tail"] or "",
        name=f"{row['task_name']}.{row['job_id']}" if row["task_id"] else str(name) if is_set(name) else "",
        label=row["label"],
    )
    if files and rendered:
        message.files.extend(files_of(row, rendered))
    return message


def updated_at(row: Row, limits: Limits) -> datetime:
    """Return when anything of a job changed last: what a lease says of the last heartbeat included."""
    moments: list[datetime] = [row["state_at"], row["ended_at"] or row["state_at"]]
    if row["lease_until"] is not None and row["state"] in ("starting", "running"):
        moments.append(row["lease_until"] - timedelta(seconds=limits.heartbeat))
    return max(moments)
