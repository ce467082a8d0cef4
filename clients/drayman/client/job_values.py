"""What the task service says of jobs, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from drayman.client.files import moment_of
from drayman.task.v1 import job_pb2 as pb
from drayman.task.v1 import job_service_pb2, pilot_service_pb2

#: States in which nothing happens to a job any more.
FINAL_JOB_STATES = frozenset({"finished", "failed", "cancelled", "closed"})

_STATES = {
    number: name.removeprefix("JOB_STATE_").lower().replace("unspecified", "") for name, number in pb.JobState.items()
}
_STATUS_PREFIX = "ANSWER_STATUS_"


def job_state_name(value: int) -> str:
    """Return the state's name as PanDA writes it, `running`; empty for none."""
    return _STATES.get(value, "")


def job_state_value(name: str) -> pb.JobState:
    """Return the wire's value of a state; empty = unspecified. Raises ValueError, which names those there are."""
    for number, known in _STATES.items():
        if name == known:
            return cast("pb.JobState", number)
    raise ValueError(f"no job state {name!r}: there are {', '.join(filter(None, _STATES.values()))}")


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file of a job. `size` 0 = unknown; `registry` is `project/asset/version/path`; `fields` has more by PanDA's names."""

    name: str
    type: str = "input"
    dataset: str = ""
    stream: str = ""
    status: str = ""
    size: int = 0
    checksum: str = ""
    scope: str = ""
    number: int = 0
    registry: str = ""
    urls: tuple[str, ...] = ()
    guid: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job. Times in UTC, None before. `fields` has errors and measurements by PanDA's names; `files` only where asked for."""

    job_id: int
    task_id: int
    state: str
    kind: str
    attempt: int
    parent_job_id: int
    owner: str
    priority: int
    name: str
    label: str
    program: str
    parameters: str
    site: str
    worker_id: str
    node: str
    create_time: datetime | None
    update_time: datetime | None
    state_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    order: str
    debug: bool
    substate: str
    fields: dict[str, Any]
    files: list[JobFile]
    definition_id: int
    output_tail: str

    @property
    def over(self) -> bool:
        """Whether it is final."""
        return self.state in FINAL_JOB_STATES


@dataclass(frozen=True, slots=True)
class JobSubmission:
    """A job to run by itself: its fields by PanDA's names, and its files."""

    fields: Mapping[str, Any]
    files: Sequence[JobFile] = ()


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """What became of one: `job_id` 0 = it could not be stored, and `error` says why."""

    job_id: int
    definition_id: int
    jobset_id: int
    error: str


@dataclass(frozen=True, slots=True)
class JobOutput:
    """A file that a job has to make, and where it goes in the registry. `warrant` lets the worker put it there."""

    name: str
    type: str
    stream: str
    dataset: str
    project: str
    asset: str
    version: str
    warrant: str = field(repr=False)
    optional: bool


@dataclass(frozen=True, slots=True)
class JobDescription:
    """All that a worker needs to run a job. Limits 0 = none; `lease` in seconds."""

    job_id: int
    attempt: int
    task_id: int
    kind: str
    owner: str
    name: str
    label: str
    program: str
    parameters: str
    inputs: list[JobFile]
    outputs: list[JobOutput]
    sandboxes: list[str]
    environment: dict[str, str] = field(repr=False)
    secret_files: dict[str, bytes] = field(repr=False)
    cores: int
    memory_mb: int
    walltime_seconds: int
    debug: bool
    lease: float
    container: str
    software: str
    no_looping_check: bool
    log_limit: int


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that a job made and that is in the registry. `checksum` is `md5:…`."""

    name: str
    size: int
    checksum: str
    events: int = 0


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """How a job is doing; `state` empty = a heartbeat. `metadata` is what the job left in `userJobMetadata.json`, as text."""

    job_id: int
    attempt: int
    state: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: str = ""
    output_tail: str = ""
    outputs: Sequence[MadeFile] = ()


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What became of an update: `status` is taken, bad_attempt, already_done, wrong_worker, unknown or state_kept."""

    job_id: int
    status: str
    kill: bool
    debug: bool
    state: str

    @property
    def stop(self) -> bool:
        """Whether the worker should stop the job: it was told so, or the job is not its own any more."""
        return self.kill or self.status in ("bad_attempt", "already_done", "wrong_worker", "unknown")


def job_file_of(message: pb.JobFile) -> JobFile:
    """Read a file."""
    return JobFile(
        message.name,
        message.type,
        message.dataset,
        message.stream,
        message.status,
        message.size,
        message.checksum,
        message.scope,
        message.number,
        message.registry,
        tuple(message.urls),
        message.guid,
        json.loads(message.fields_json) if message.fields_json else {},
    )


def job_file_message(file: JobFile) -> pb.JobFile:
    """Write a file."""
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
        fields_json=json.dumps(file.fields) if file.fields else "",
    )


def job_of(message: pb.Job) -> Job | None:
    """Read a job; None where there is none."""
    if not message.job_id:
        return None
    times = {
        name: moment_of(getattr(message, name)) if message.HasField(name) else None
        for name in ("create_time", "update_time", "state_time", "start_time", "end_time")
    }
    return Job(
        job_id=message.job_id,
        task_id=message.task_id,
        state=job_state_name(message.state),
        kind=message.kind,
        attempt=message.attempt,
        parent_job_id=message.parent_job_id,
        owner=message.owner,
        priority=message.priority,
        name=message.name,
        label=message.label,
        program=message.program,
        parameters=message.parameters,
        site=message.site,
        worker_id=message.worker_id,
        node=message.node,
        order=message.order,
        debug=message.debug,
        substate=message.substate,
        fields=json.loads(message.fields_json) if message.fields_json else {},
        files=[job_file_of(file) for file in message.files],
        definition_id=message.definition_id,
        output_tail=message.output_tail,
        **times,
    )


def submission_message(job: JobSubmission) -> job_service_pb2.JobSubmission:
    """Write a job to submit."""
    return job_service_pb2.JobSubmission(
        fields_json=json.dumps(job.fields), files=[job_file_message(file) for file in job.files]
    )


def description_of(message: pilot_service_pb2.JobDescription) -> JobDescription:
    """Read what a worker is given."""
    return JobDescription(
        job_id=message.job_id,
        attempt=message.attempt,
        task_id=message.task_id,
        kind=message.kind,
        owner=message.owner,
        name=message.name,
        label=message.label,
        program=message.program,
        parameters=message.parameters,
        inputs=[job_file_of(file) for file in message.inputs],
        outputs=[
            JobOutput(
                output.name,
                output.type,
                output.stream,
                output.dataset,
                output.project,
                output.asset,
                output.version,
                output.warrant,
                output.optional,
            )
            for output in message.outputs
        ],
        sandboxes=list(message.sandboxes),
        environment=dict(message.environment),
        secret_files=dict(message.secret_files),
        cores=message.cores,
        memory_mb=message.memory_mb,
        walltime_seconds=message.walltime_seconds,
        debug=message.debug,
        lease=message.lease.ToNanoseconds() / 1e9,
        container=message.container,
        software=message.software,
        no_looping_check=message.no_looping_check,
        log_limit=message.log_limit,
    )


def update_message(update: JobUpdate) -> pilot_service_pb2.JobUpdate:
    """Write an update. Raises ValueError for a state that there is not."""
    return pilot_service_pb2.JobUpdate(
        job_id=update.job_id,
        attempt=update.attempt,
        state=job_state_value(update.state),
        fields_json=json.dumps(update.fields) if update.fields else "",
        metadata_json=update.metadata,
        output_tail=update.output_tail,
        outputs=[
            pilot_service_pb2.MadeFile(name=made.name, size=made.size, checksum=made.checksum, events=made.events)
            for made in update.outputs
        ],
    )


def answer_of(message: pilot_service_pb2.JobAnswer) -> JobAnswer:
    """Read what became of an update."""
    status = pilot_service_pb2.AnswerStatus.Name(message.status).removeprefix(_STATUS_PREFIX).lower()
    return JobAnswer(message.job_id, status, message.kill, message.debug, job_state_name(message.state))
