"""Shapes rows of tasks into messages. No rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.server.task.acceptance import Command
from drayman.server.task.plans import Appearance
from drayman.server.task.task_states import TaskState
from drayman.task.v1 import task_pb2 as pb
from drayman.task.v1 import task_service_pb2 as service_pb

Row = Mapping[str, Any] | asyncpg.Record

STATE: Mapping[str, pb.TaskState] = {state.value: getattr(pb, f"TASK_STATE_{state.name}") for state in TaskState}
STATE_NAME = {value: name for name, value in STATE.items()}
COMMAND: Mapping[int, Command] = {
    service_pb.TASK_COMMAND_KILL: Command.KILL,
    service_pb.TASK_COMMAND_FINISH: Command.FINISH,
    service_pb.TASK_COMMAND_FINISH_SOFT: Command.FINISH_SOFT,
    service_pb.TASK_COMMAND_PAUSE: Command.PAUSE,
    service_pb.TASK_COMMAND_RESUME: Command.RESUME,
    service_pb.TASK_COMMAND_RETRY: Command.RETRY,
    service_pb.TASK_COMMAND_RELOAD_INPUT: Command.RELOAD_INPUT,
    service_pb.TASK_COMMAND_REACTIVATE: Command.REACTIVATE,
    service_pb.TASK_COMMAND_INCREASE_ATTEMPTS: Command.INCREASE,
    service_pb.TASK_COMMAND_AVALANCHE: Command.AVALANCHE,
}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Turn a database time into a message."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def counts(row: Row) -> pb.TaskCounts:
    """Shape a tally."""
    return pb.TaskCounts(
        inputs=row["inputs"] - row["missing"],
        inputs_ready=row["ready"],
        inputs_picked=row["picked"],
        inputs_finished=row["finished"],
        inputs_failed=row["failed"],
        inputs_missing=row["missing"],
        jobs=row["jobs"],
        jobs_live=row["live"],
        jobs_finished=row["jobs_finished"],
        jobs_failed=row["jobs_failed"],
        jobs_cancelled=row["jobs_cancelled"],
    )


def task(row: Row, appearance: Appearance) -> pb.Task:
    """Shape a task."""
    return pb.Task(
        task_id=row["task_id"],
        name=row["name"],
        owner=row["owner"],
        state=STATE[row["state"]],
        old_state=pb.TASK_STATE_UNSPECIFIED if row["old_state"] is None else STATE[row["old_state"]],
        error=row["error"],
        parent_task_id=row["parent_id"] or 0,
        request_id=row["request_no"],
        vo=row["vo"],
        label=row["label"],
        type=row["type"],
        processing_type=row["processing_type"],
        working_group=row["working_group"],
        priority=row["priority"],
        current_priority=row["current_priority"],
        attempt=row["attempt"],
        create_time=timestamp(row["created_at"]),
        update_time=timestamp(max(row["changed_at"], row["moved_at"])),
        state_time=timestamp(row["state_at"]),
        start_time=timestamp(row["started_at"]),
        end_time=timestamp(row["ended_at"]),
        counts=counts(row),
        command_line=appearance.command_line,
        attributes_json=appearance.attributes,
    )


def task_input(row: Row) -> pb.TaskInput:
    """Shape a record of an input."""
    return pb.TaskInput(
        number=row["input_no"],
        stream=row["stream"],
        dataset=row["dataset"],
        name=row["name"],
        state=row["state"],
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        failures=row["failures"],
        max_failures=row["max_failures"] or 0,
        job_id=row["job_id"] or 0,
        events=row["events"],
        first_event=row["first_event"],
        size=row["size"],
    )


def datasets(
    rows: Iterable[Row],
    tally: Row,
    by_state: Mapping[int, Mapping[str, int]],
    used: Mapping[int, int],
    made: Mapping[str, int],
) -> Iterable[pb.TaskDataset]:
    """Shape collections. `by_state` and `used` count records by number of the collection, `made` outputs by stream."""
    for row in rows:
        message = pb.TaskDataset(
            name=row["name"],
            container=row["container"],
            stream=row["stream"],
            kind=row["kind"],
            primary=row["is_primary"],
        )
        if row["version"] is not None:
            message.registry = f"{row['project']}/{row['asset']}"
            message.files = message.files_finished = made.get(row["stream"], 0)
        elif row["is_primary"] and row["kind"] == "pseudo_input":
            message.files = tally["inputs"]
            message.files_to_use = tally["inputs"] - tally["missing"]
            message.files_used = message.files_to_use - tally["ready"]
            message.files_finished, message.files_failed = tally["finished"], tally["failed"]
            message.events = row["events"]
        else:
            states = by_state.get(row["dataset_no"], {})
            message.files_missing = states.get("missing", 0) + states.get("lost", 0)
            message.files = row["files"]
            message.files_to_use = max(row["files"] - message.files_missing, 0)
            message.files_used = used.get(row["dataset_no"], 0) if row["is_primary"] else row["used"]
            message.files_finished, message.files_failed = states.get("finished", 0), states.get("failed", 0)
            message.events = row["events"]
        yield message
