"""What the task service says of tasks, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from drayman.client.files import moment_of
from drayman.task.v1 import task_pb2 as pb

#: States that a task stays in unless somebody asks for more.
FINAL_STATES = frozenset({"done", "finished", "failed", "aborted", "broken", "exhausted"})

_STATES = {
    number: name.removeprefix("TASK_STATE_").lower().replace("unspecified", "") for name, number in pb.TaskState.items()
}


def task_state_name(value: int) -> str:
    """Return the state's name as PanDA writes it, `running`; empty for none."""
    return _STATES.get(value, "")


def task_state_value(name: str) -> pb.TaskState:
    """Return the wire's value of a state. Raises ValueError, which names those there are."""
    for number, known in _STATES.items():
        if name == known:
            return cast("pb.TaskState", number)
    raise ValueError(f"no task state {name!r}: there are {', '.join(filter(None, _STATES.values()))}")


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How far a task is: records of its primary input by state, and jobs by how they ended."""

    inputs: int
    inputs_ready: int
    inputs_picked: int
    inputs_finished: int
    inputs_failed: int
    inputs_missing: int
    jobs: int
    jobs_live: int
    jobs_finished: int
    jobs_failed: int
    jobs_cancelled: int

    @property
    def progress(self) -> float:
        """Per cent of the inputs that were processed."""
        return 100.0 * self.inputs_finished / self.inputs if self.inputs else 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """A task. Times in UTC; `start_time` and `end_time` are None before; `attributes` are parameters people look for."""

    task_id: int
    name: str
    owner: str
    state: str
    old_state: str
    error: str
    parent_task_id: int
    request_id: int
    vo: str
    label: str
    type: str
    processing_type: str
    working_group: str
    priority: int
    current_priority: int
    attempt: int
    create_time: datetime
    update_time: datetime
    state_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    counts: TaskCounts
    command_line: str
    attributes: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether it is final."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class TaskDataset:
    """A collection that a task reads or makes; `registry` is `project/asset` of outputs."""

    name: str
    container: str
    stream: str
    kind: str
    primary: bool
    files: int
    files_to_use: int
    files_used: int
    files_finished: int
    files_failed: int
    files_missing: int
    events: int
    registry: str


@dataclass(frozen=True, slots=True)
class TaskInput:
    """A record of an input: a file or a window of its events. `max_failures` 0 = no limit of its own, `job_id` 0 = none yet."""

    number: int
    stream: str
    dataset: str
    name: str
    state: str
    attempts: int
    max_attempts: int
    failures: int
    max_failures: int
    job_id: int
    events: int
    first_event: int
    size: int


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """What a task reads and makes, its live jobs by state, and the latest job of each input."""

    task: Task
    datasets: list[TaskDataset]
    live_jobs: dict[str, int]
    job_ids: list[int]
    merge_job_ids: list[int]


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submission: the reference's code, the same in words, and the task (0 = none)."""

    code: int
    message: str
    task_id: int


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """What became of a command: the reference's code, the same in words; `state` is empty where the caller may not know it."""

    code: int
    message: str
    incremental: bool
    state: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a look for lost outputs found: their names, and how many inputs are run again."""

    accepted: bool
    message: str
    lost: list[str]
    inputs: int


def task_of(message: pb.Task) -> Task:
    """Read a task."""
    counts = message.counts
    return Task(
        message.task_id,
        message.name,
        message.owner,
        task_state_name(message.state),
        task_state_name(message.old_state),
        message.error,
        message.parent_task_id,
        message.request_id,
        message.vo,
        message.label,
        message.type,
        message.processing_type,
        message.working_group,
        message.priority,
        message.current_priority,
        message.attempt,
        moment_of(message.create_time),
        moment_of(message.update_time),
        moment_of(message.state_time),
        moment_of(message.start_time) if message.HasField("start_time") else None,
        moment_of(message.end_time) if message.HasField("end_time") else None,
        TaskCounts(
            counts.inputs,
            counts.inputs_ready,
            counts.inputs_picked,
            counts.inputs_finished,
            counts.inputs_failed,
            counts.inputs_missing,
            counts.jobs,
            counts.jobs_live,
            counts.jobs_finished,
            counts.jobs_failed,
            counts.jobs_cancelled,
        ),
        message.command_line,
        json.loads(message.attributes_json or "{}"),
    )


def dataset_of(message: pb.TaskDataset) -> TaskDataset:
    """Read a dataset."""
    return TaskDataset(
        message.name,
        message.container,
        message.stream,
        message.kind,
        message.primary,
        message.files,
        message.files_to_use,
        message.files_used,
        message.files_finished,
        message.files_failed,
        message.files_missing,
        message.events,
        message.registry,
    )


def input_of(message: pb.TaskInput) -> TaskInput:
    """Read a record of an input."""
    return TaskInput(
        message.number,
        message.stream,
        message.dataset,
        message.name,
        message.state,
        message.attempts,
        message.max_attempts,
        message.failures,
        message.max_failures,
        message.job_id,
        message.events,
        message.first_event,
        message.size,
    )
