"""Shapes rows into protobuf messages. No rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.dispatch.v1 import handle_service_pb2 as handle_pb
from drayman.dispatch.v1 import project_pb2 as pb
from drayman.dispatch.v1 import storage_service_pb2 as storage_pb
from drayman.server.dispatch.attributes import with_timeouts
from drayman.server.dispatch.hindrance import Hindrances
from drayman.server.dispatch.proximity import nearness
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.storage_map import StorageMap
from drayman.server.platform.errors import invalid

PROJECT_STATE: Mapping[str, pb.ProjectState] = {
    "active": pb.PROJECT_STATE_ACTIVE,
    "done": pb.PROJECT_STATE_DONE,
    "failed": pb.PROJECT_STATE_FAILED,
    "cancelled": pb.PROJECT_STATE_CANCELLED,
    "abandoned": pb.PROJECT_STATE_ABANDONED,
}
HANDLE_STATE: Mapping[str, pb.HandleState] = {
    "initial": pb.HANDLE_STATE_INITIAL,
    "reserved": pb.HANDLE_STATE_RESERVED,
    "done": pb.HANDLE_STATE_DONE,
    "failed": pb.HANDLE_STATE_FAILED,
}
PROJECT_STATE_NAME = {value: name for name, value in PROJECT_STATE.items()}
HANDLE_STATE_NAME = {value: name for name, value in HANDLE_STATE.items()}

Row = Mapping[str, Any] | asyncpg.Record


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Turn a database time into a message."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


class Moments:
    """Turns database times into messages, each but once: rows of one statement share theirs."""

    def __init__(self) -> None:
        self._known: dict[datetime, Timestamp] = {}

    def of(self, moment: datetime | None) -> Timestamp | None:
        """Return the message of a moment; who gets it copies it."""
        if moment is None:
            return None
        found = self._known.get(moment)
        if found is None:
            found = self._known[moment] = Timestamp()
            found.FromDatetime(moment)
        return found


def duration(seconds: float | None) -> Duration | None:
    """Turn seconds into a message."""
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds(message: Duration) -> float:
    """Turn a message into seconds."""
    return message.seconds + message.nanos / 1e9


def request_uuid(text: str, field: str = "request_id") -> UUID | None:
    """Read the id that names a call; None if it has none. Raises Refusal."""
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid(field, f"{field} {text[:80]!r} is not a UUID") from error


def project(row: Row) -> pb.Project:
    """Shape a row of the statement `projects`."""
    return pb.Project(
        project_id=row["project_id"],
        owner=row["owner"],
        state=PROJECT_STATE[row["state"]],
        attributes_json=row["attributes"],
        query=row["query"],
        worker_timeout=duration(row["worker_timeout"]),
        idle_timeout=duration(row["idle_timeout"]),
        users=sorted(row["users"]),
        roles=sorted(row["roles"]),
        create_time=timestamp(row["created_at"]),
        end_time=timestamp(row["ended_at"]),
        counts=_counts(row["files"], row["initial"], row["done"], row["failed"]),
        virtual=row["virtual"],
        max_attempts=row["max_attempts"] or 0,
        max_running=row["max_running"] or 0,
        open=row["open"],
        reason=_why_cancelled(row),
    )


def _why_cancelled(row: Row) -> pb.Reason | None:
    if row["reason_at"] is None:
        return None
    return pb.Reason(
        code=row["reason_code"] or "",
        message=row["reason_message"] or "",
        username=row["reason_username"] or "",
        time=timestamp(row["reason_at"]),
    )


def _why_not_done(row: Row) -> pb.Reason | None:
    if row["reason_at"] is None:
        return None
    return pb.Reason(
        code=row["code"] or "",
        message=row["message"] or "",
        worker_id=row["worker_id"] or "",
        site=row["site"] or "",
        time=timestamp(row["reason_at"]),
    )


def counts(standing: Standing) -> pb.HandleCounts:
    """Counts of a project in memory."""
    return _counts(standing.files, standing.initial, standing.done, standing.failed)


def hindrances(found: Hindrances) -> pb.Hindrances:
    """Shape what stands in the way."""
    return pb.Hindrances(
        ready=found.ready,
        at_limit=found.at_limit,
        at_rse_limit=found.at_rse_limit,
        reserved=found.reserved,
        oldest_reserve_time=timestamp(found.oldest_reserved_at),
        oldest_worker_id=found.oldest_worker_id,
        no_replica=found.no_replica,
        replica_unavailable=found.replica_unavailable,
        rse_down=found.rse_down,
        rse_disabled=found.rse_disabled,
        rses=found.rses,
        retrying=found.retrying,
    )


def project_ended(standing: Standing) -> handle_pb.ProjectEnded:
    """Say that a project hands out nothing any more."""
    why = standing.why_cancelled
    ended = handle_pb.ProjectEnded(state=PROJECT_STATE[standing.state])
    if why is not None:
        ended.reason.CopyFrom(
            pb.Reason(code=why.code, message=why.message, username=why.username, time=timestamp(why.at))
        )
    return ended


def _counts(files: int, initial: int, done: int, failed: int) -> pb.HandleCounts:
    reserved = max(files - initial - done - failed, 0)
    return pb.HandleCounts(total=files, initial=initial, reserved=reserved, done=done, failed=failed)


def handle(project_id: int, row: Row, replicas: Iterable[pb.Replica] = ()) -> pb.Handle:
    """Shape a row of one of the `handles` statements."""
    return pb.Handle(
        project_id=project_id,
        handle_id=row["handle_id"],
        did=pb.Did(namespace=row["namespace"], name=row["name"]),
        state=HANDLE_STATE[row["state"]],
        worker_id=row["worker_id"] if row["state"] == "reserved" else "",
        attempts=row["attempts"],
        attributes_json=with_timeouts(row["attributes"], row["timeouts"]),
        reserve_time=timestamp(row["reserved_at"]),
        lease_expire_time=timestamp(row["lease_until"]),
        replicas=replicas,
        reason=_why_not_done(row),
    )


def replica(row: Row) -> pb.Replica:
    """Shape a row of the statement `replicas_of`."""
    return pb.Replica(
        did=pb.Did(namespace=row["namespace"], name=row["name"]),
        rse=row["rse"],
        path=row["path"],
        urls=row["urls"],
        preference=row["preference"],
        available=row["available"],
        rse_available=row["rse_available"],
    )


def readable_replicas(
    did: pb.Did, rows: Iterable[Row], storage: StorageMap, cpu_site: str, first: int | None
) -> list[pb.Replica]:
    """Shape rows of `readable_replicas` for a worker: nearest first, the distance in place of the stored preference.

    The RSE `first`, where the reservation counts, comes before all others.
    """
    found = [(storage.distance(cpu_site, row["rse"]), row) for row in rows]
    found.sort(key=lambda entry: (entry[1]["rse_id"] != first, nearness(entry[0]), entry[1]["rse"]))
    return [
        pb.Replica(
            did=did,
            rse=row["rse"],
            path=row["path"],
            urls=row["urls"],
            preference=away or 0,
            available=True,
            rse_available=True,
            proximity=away,
        )
        for away, row in found
    ]


def rse(row: Row) -> storage_pb.Rse:
    """Shape a row of `rses`."""
    return storage_pb.Rse(**{name: value for name, value in row.items() if name != "rse_id" and value is not None})
