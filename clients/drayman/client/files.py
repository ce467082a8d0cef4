"""What dispatch speaks of, as plain values: projects, handles, replicas, RSEs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.dispatch.v1 import handle_service_pb2 as handle_pb
from drayman.dispatch.v1 import project_pb2 as pb
from drayman.dispatch.v1 import storage_service_pb2 as storage_pb

ProjectState = Literal["active", "done", "failed", "cancelled", "abandoned"]
HandleState = Literal["initial", "reserved", "done", "failed"]
Outcome = Literal["done", "failed_retry", "failed_final", "released"]

if TYPE_CHECKING:
    from drayman.client.standstill import Hindrances

_PROJECT_STATES: Mapping[pb.ProjectState, ProjectState] = {
    pb.PROJECT_STATE_ACTIVE: "active",
    pb.PROJECT_STATE_DONE: "done",
    pb.PROJECT_STATE_FAILED: "failed",
    pb.PROJECT_STATE_CANCELLED: "cancelled",
    pb.PROJECT_STATE_ABANDONED: "abandoned",
}
_HANDLE_STATES: Mapping[pb.HandleState, HandleState] = {
    pb.HANDLE_STATE_INITIAL: "initial",
    pb.HANDLE_STATE_RESERVED: "reserved",
    pb.HANDLE_STATE_DONE: "done",
    pb.HANDLE_STATE_FAILED: "failed",
}
_OUTCOMES: Mapping[handle_pb.Outcome, Outcome] = {
    handle_pb.OUTCOME_DONE: "done",
    handle_pb.OUTCOME_FAILED_RETRY: "failed_retry",
    handle_pb.OUTCOME_FAILED_FINAL: "failed_final",
    handle_pb.OUTCOME_RELEASED: "released",
}

_Number = TypeVar("_Number")


@dataclass(frozen=True, slots=True)
class File:
    """A file for a new project. `attributes` is anything that JSON can hold as an object."""

    namespace: str
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, did: str, attributes: Mapping[str, Any] | None = None) -> File:
        """Make one of `namespace:name`, split at the first colon. Raises ValueError if there is none."""
        namespace, colon, name = did.partition(":")
        if not colon:
            raise ValueError(f"{did!r}: expected namespace:name")
        return cls(namespace, name, attributes or {})


@dataclass(frozen=True, slots=True)
class Counts:
    """Handles of a project by state."""

    total: int
    initial: int
    reserved: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something came to its state. Texts are empty, and `time` (UTC) is None, where that is not known.

    `code` is the reporter's own, or one of the service's: `WORKER_TIMEOUT`, `MAX_ATTEMPTS`, `CALLER_GONE`, `SESSION_CLOSED`,
    `SESSION_RESUMED`. Files have `worker_id` and its CPU `site`, cancelled projects the `username`.
    """

    code: str = ""
    message: str = ""
    worker_id: str = ""
    site: str = ""
    username: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A project. Times are in UTC, time-outs in seconds (None = never).

    A file reserved `max_attempts` times that fails again has failed for good; at most `max_running` are reserved at a time (None = no
    limit). While it is `open` more files may come. `reason` says why it was cancelled.
    """

    project_id: int
    owner: str
    state: ProjectState
    attributes: dict[str, Any]
    query: str | None
    worker_timeout: float | None
    idle_timeout: float | None
    users: tuple[str, ...]
    roles: tuple[str, ...]
    created: datetime
    ended: datetime | None
    counts: Counts
    virtual: bool
    max_attempts: int | None = None
    max_running: int | None = None
    open: bool = False
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A copy of a file at an RSE. `proximity`: smaller is nearer; None if the map says nothing."""

    namespace: str
    name: str
    rse: str
    urls: tuple[str, ...] = ()
    path: str | None = None
    preference: int = 0
    available: bool = True
    rse_available: bool = True
    proximity: int | None = None


@dataclass(frozen=True, slots=True)
class Handle:
    """One file in one project. `attempts` is the fence of the lease while `reserved`. Replicas are nearest first when handed out.

    `reason` says why its last reservation did not end as done.
    """

    project_id: int
    handle_id: int
    namespace: str
    name: str
    state: HandleState
    worker_id: str | None
    attempts: int
    attributes: dict[str, Any]
    reserved_since: datetime | None
    lease_until: datetime | None
    replicas: tuple[Replica, ...] = ()
    project_attributes: dict[str, Any] = field(default_factory=dict)
    reason: Reason | None = None

    @property
    def did(self) -> str:
        """`namespace:name`."""
        return f"{self.namespace}:{self.name}"


@dataclass(frozen=True, slots=True)
class TimedOut:
    """There was no file in time; ask again. `hindrances` says what stood in the way."""

    counts: Counts
    hindrances: Hindrances | None = None


@dataclass(frozen=True, slots=True)
class ProjectEnded:
    """The project hands out nothing any more."""

    state: ProjectState


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a file. `code` and `message` say why it failed."""

    handle: Handle
    outcome: Outcome
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rse:
    """A storage element. At most `max_running` files that are read from it are reserved at a time; None = no limit."""

    name: str
    description: str = ""
    is_enabled: bool = True
    is_available: bool = True
    is_tape: bool = False
    pin_url: str | None = None
    poll_url: str | None = None
    remove_prefix: str | None = None
    add_prefix: str | None = None
    pin_prefix: str | None = None
    preference: int = 0
    type: str | None = None
    max_running: int | None = None


# --- from and to messages --------------------------------------------------------------------------------------------


def to_json(value: Mapping[str, Any]) -> str:
    """Encode attributes: integers of any size and every character as they are. Raises TypeError, ValueError for what JSON cannot hold."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def duration(seconds: float) -> Duration:
    """Turn seconds into a message."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def project_of(message: pb.Project) -> Project:
    """Read a project."""
    return Project(
        project_id=message.project_id,
        owner=message.owner,
        state=_PROJECT_STATES[message.state],
        attributes=json.loads(message.attributes_json),
        query=message.query if message.HasField("query") else None,
        worker_timeout=_seconds(message.worker_timeout) if message.HasField("worker_timeout") else None,
        idle_timeout=_seconds(message.idle_timeout) if message.HasField("idle_timeout") else None,
        users=tuple(message.users),
        roles=tuple(message.roles),
        created=moment_of(message.create_time),
        ended=moment_of(message.end_time) if message.HasField("end_time") else None,
        counts=counts_of(message.counts),
        virtual=message.virtual,
        max_attempts=message.max_attempts or None,
        max_running=message.max_running or None,
        open=message.open,
        reason=reason_of(message.reason) if message.HasField("reason") else None,
    )


def counts_of(message: pb.HandleCounts) -> Counts:
    """Read counts."""
    return Counts(message.total, message.initial, message.reserved, message.done, message.failed)


def handle_of(message: pb.Handle, project_attributes_json: str = "") -> Handle:
    """Read a handle."""
    return Handle(
        project_id=message.project_id,
        handle_id=message.handle_id,
        namespace=message.did.namespace,
        name=message.did.name,
        state=_HANDLE_STATES[message.state],
        worker_id=message.worker_id or None,
        attempts=message.attempts,
        attributes=json.loads(message.attributes_json or "{}"),
        reserved_since=moment_of(message.reserve_time) if message.HasField("reserve_time") else None,
        lease_until=moment_of(message.lease_expire_time) if message.HasField("lease_expire_time") else None,
        replicas=tuple(map(replica_of, message.replicas)),
        project_attributes=json.loads(project_attributes_json) if project_attributes_json else {},
        reason=reason_of(message.reason) if message.HasField("reason") else None,
    )


def reason_of(message: pb.Reason) -> Reason:
    """Read a reason."""
    return Reason(
        code=message.code,
        message=message.message,
        worker_id=message.worker_id,
        site=message.site,
        username=message.username,
        time=moment_of(message.time) if message.HasField("time") else None,
    )


def reserved_of(message: handle_pb.ReservedFile) -> Handle:
    """Read a file that was handed out."""
    return handle_of(message.handle, message.project_attributes_json)


def ended_of(message: handle_pb.ProjectEnded) -> ProjectEnded:
    """Read the end of a project."""
    return ProjectEnded(_PROJECT_STATES[message.state])


def replica_of(message: pb.Replica) -> Replica:
    """Read a replica."""
    return Replica(
        namespace=message.did.namespace,
        name=message.did.name,
        rse=message.rse,
        urls=tuple(message.urls),
        path=message.path if message.HasField("path") else None,
        preference=message.preference,
        available=message.available,
        rse_available=message.rse_available,
        proximity=message.proximity if message.HasField("proximity") else None,
    )


def replica_message(replica: Replica) -> pb.Replica:
    """Write a replica."""
    return pb.Replica(
        did=pb.Did(namespace=replica.namespace, name=replica.name),
        rse=replica.rse,
        path=replica.path,
        urls=replica.urls,
        preference=replica.preference,
        available=replica.available,
    )


def rse_of(message: storage_pb.Rse) -> Rse:
    """Read an RSE."""
    optional = ("pin_url", "poll_url", "remove_prefix", "add_prefix", "pin_prefix", "type")
    return Rse(
        name=message.name,
        description=message.description,
        is_enabled=message.is_enabled,
        is_available=message.is_available,
        is_tape=message.is_tape,
        preference=message.preference,
        max_running=message.max_running or None,
        **{name: getattr(message, name) for name in optional if message.HasField(name)},
    )


def project_state_of(number: pb.ProjectState) -> ProjectState:
    """Return the name of a state."""
    return _PROJECT_STATES[number]


def handle_state_of(number: pb.HandleState) -> HandleState:
    """Return the name of a state."""
    return _HANDLE_STATES[number]


def project_state(name: str | None) -> pb.ProjectState:
    """Return the number of a state; None = any. Raises ValueError naming the states."""
    return pb.PROJECT_STATE_UNSPECIFIED if name is None else _find("project state", _PROJECT_STATES, name)


def handle_state(name: str | None) -> pb.HandleState:
    """Return the number of a state; None = any. Raises ValueError naming the states."""
    return pb.HANDLE_STATE_UNSPECIFIED if name is None else _find("handle state", _HANDLE_STATES, name)


def outcome(name: str) -> handle_pb.Outcome:
    """Return the number of an outcome. Raises ValueError naming the outcomes."""
    return _find("outcome", _OUTCOMES, name)


def _find(what: str, names: Mapping[_Number, str], name: str) -> _Number:
    for number, text in names.items():
        if text == name:
            return number
    raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(names.values())}")


def moment_of(message: Timestamp) -> datetime:
    """Read a time."""
    return message.ToDatetime(tzinfo=UTC)


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9
