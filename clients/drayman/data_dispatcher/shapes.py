"""What the methods return: the services' messages as the documented dicts.

Data Dispatcher, section 3 of its behaviour. Times are seconds since 1970 (float), spans are seconds (float).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.dispatch.v1 import history_service_pb2, project_pb2, storage_service_pb2

#: Names of project states, by enum value; the other way round for filters.
PROJECT_STATES = {
    project_pb2.PROJECT_STATE_ACTIVE: "active",
    project_pb2.PROJECT_STATE_DONE: "done",
    project_pb2.PROJECT_STATE_FAILED: "failed",
    project_pb2.PROJECT_STATE_CANCELLED: "cancelled",
    project_pb2.PROJECT_STATE_ABANDONED: "abandoned",
}
HANDLE_STATES = {
    project_pb2.HANDLE_STATE_INITIAL: "initial",
    project_pb2.HANDLE_STATE_RESERVED: "reserved",
    project_pb2.HANDLE_STATE_DONE: "done",
    project_pb2.HANDLE_STATE_FAILED: "failed",
}


def project_dict(
    project: project_pb2.Project, handles: Iterable[project_pb2.Handle] | None = None, *, with_replicas: bool = False
) -> dict[str, Any]:
    """Return a project dict; with `file_handles`, by namespace and name, if handles are given."""
    unfinished = project.counts.initial + project.counts.reserved
    shaped: dict[str, Any] = {
        "project_id": project.project_id,
        "owner": project.owner,
        "state": PROJECT_STATES[project.state],
        "retry_count": None,
        "attributes": attributes(project.attributes_json),
        "created_timestamp": seconds_since_1970(project.create_time),
        "ended_timestamp": seconds_since_1970(project.end_time) if project.HasField("end_time") else None,
        "active": project.state == project_pb2.PROJECT_STATE_ACTIVE and unfinished > 0,
        "query": project.query if project.HasField("query") else None,
        "worker_timeout": _seconds(project.worker_timeout) if project.HasField("worker_timeout") else None,
        "idle_timeout": _seconds(project.idle_timeout) if project.HasField("idle_timeout") else None,
        "users": list(project.users),
        "roles": list(project.roles),
    }
    if handles is not None:
        shaped["file_handles"] = handle_dicts(handles, with_replicas=with_replicas)
    return shaped


def handle_dicts(handles: Iterable[project_pb2.Handle], *, with_replicas: bool = False) -> list[dict[str, Any]]:
    """Return handle dicts by namespace, then name (in the order of their UTF-8)."""
    # the order of code points is that of UTF-8's bytes
    ordered = sorted(handles, key=lambda handle: (handle.did.namespace, handle.did.name))
    return [handle_dict(handle, with_replicas=with_replicas) for handle in ordered]


def handle_dict(handle: project_pb2.Handle, *, with_replicas: bool = False) -> dict[str, Any]:
    """Return a handle dict."""
    shaped: dict[str, Any] = {
        "project_id": handle.project_id,
        "namespace": handle.did.namespace,
        "name": handle.did.name,
        "state": HANDLE_STATES[handle.state],
        "worker_id": handle.worker_id or None,
        "attempts": handle.attempts,
        "attributes": attributes(handle.attributes_json),
        "reserved_since": seconds_since_1970(handle.reserve_time) if handle.HasField("reserve_time") else None,
    }
    if with_replicas:
        shaped["replicas"] = {replica.rse: replica_dict(replica) for replica in handle.replicas}
    return shaped


def reserved_dict(handle: project_pb2.Handle, project_attributes_json: str) -> dict[str, Any]:
    """Return next_file's dict: its replicas are the available ones, nearest first, each with its `proximity`."""
    shaped = handle_dict(handle, with_replicas=True)
    for replica in handle.replicas:
        shaped["replicas"][replica.rse]["proximity"] = replica.proximity if replica.HasField("proximity") else None
    shaped["project_attributes"] = attributes(project_attributes_json)
    return shaped


def replica_dict(replica: project_pb2.Replica) -> dict[str, Any]:
    """Return a replica dict."""
    urls = list(replica.urls)
    return {
        "name": replica.did.name,
        "namespace": replica.did.namespace,
        "path": replica.path if replica.HasField("path") else None,
        "rse": replica.rse,
        "url": urls[0] if urls else None,
        "urls": urls,
        "preference": replica.preference,
        "available": replica.available,
        "rse_available": replica.rse_available,
    }


def rse_dict(rse: storage_service_pb2.Rse) -> dict[str, Any]:
    """Return an RSE dict."""
    shaped: dict[str, Any] = {
        "name": rse.name,
        "description": rse.description,
        "is_enabled": rse.is_enabled,
        "is_available": rse.is_available,
        "is_tape": rse.is_tape,
        "pin_url": rse.pin_url if rse.HasField("pin_url") else None,
        "poll_url": rse.poll_url if rse.HasField("poll_url") else None,
        "remove_prefix": rse.remove_prefix if rse.HasField("remove_prefix") else None,
        "add_prefix": rse.add_prefix if rse.HasField("add_prefix") else None,
        "pin_prefix": rse.pin_prefix if rse.HasField("pin_prefix") else None,
        "preference": rse.preference,
        "type": rse.type if rse.HasField("type") else None,
    }
    return shaped


def project_log(events: Iterable[history_service_pb2.ProjectEvent]) -> list[dict[str, Any]]:
    """Return the log records of a project, of which all events from its creation on are given."""
    records = []
    before = None
    for event in events:
        data: dict[str, Any] = {"event": event.event, "state": PROJECT_STATES[event.state]}
        if event.username:
            data["user"] = event.username
        kind = "state" if event.state != before else "event"
        before = event.state
        data |= attributes(event.data_json)
        records.append({"time": seconds_since_1970(event.time), "type": kind, "data": data})
    return records


def handle_record(event: history_service_pb2.HandleEvent) -> dict[str, Any]:
    """Return a log record of a handle."""
    data: dict[str, Any] = {"event": event.event, "state": HANDLE_STATES[event.state]}
    if event.event not in ("create", "worker_timeout"):
        data["old_state"] = HANDLE_STATES.get(event.old_state)
    if event.event != "create":
        data["worker"] = event.reason.worker_id or None
    data |= {key: text for key, text in (("code", event.reason.code), ("message", event.reason.message)) if text}
    did = f"{event.did.namespace}:{event.did.name}"
    return {"time": seconds_since_1970(event.time), "type": "state", "data": data, "did": did}


def attributes(text: str) -> dict[str, Any]:
    """Return decoded attributes; no text = none."""
    decoded: dict[str, Any] = json.loads(text) if text else {}
    return decoded


def seconds_since_1970(moment: Timestamp) -> float:
    """Return a moment as a float, to the microsecond."""
    return moment.seconds + moment.nanos / 1e9


def _seconds(span: Duration) -> float:
    return span.seconds + span.nanos / 1e9
