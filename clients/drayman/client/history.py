"""What happened to projects and their files, and the calls that tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.client.calls import Client
from drayman.client.files import (
    File,
    HandleState,
    ProjectState,
    Reason,
    handle_state_of,
    moment_of,
    project_state_of,
    reason_of,
)
from drayman.dispatch.v1 import history_service_pb2 as pb
from drayman.dispatch.v1 import history_service_pb2_grpc, project_pb2


@dataclass(frozen=True, slots=True)
class ProjectEvent:
    """Something that happened to a project, in UTC: `create`, `copied`, `add`, `activate`, `restart`, `cancel`, `abandon` or `release`.

    `state` is the one afterwards; `username` is None where time or a worker did it; `data` has more: `files` (create, add), `skipped`
    (add), `source` (copied), `handles_reset` (restart), `code` and `message` (cancel).
    """

    time: datetime
    event: str
    state: ProjectState
    username: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandleEvent:
    """Something that happened to a file, in UTC: `create`, `reserve`, `done`, `failed`, `released`, `worker_timeout` or `reset`.

    `old_state` is None for `create`; `attempt` is 0 before the first. `reason` has who, from where and why, as far as that is known.
    """

    time: datetime
    handle_id: int
    namespace: str
    name: str
    event: str
    old_state: HandleState | None
    state: HandleState
    attempt: int
    reason: Reason | None = None

    @property
    def did(self) -> str:
        """`namespace:name`."""
        return f"{self.namespace}:{self.name}"


class HistoryCalls(Client):
    """Calls of HistoryService. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._history = history_service_pb2_grpc.HistoryServiceStub(channel)

    async def project_events(self, project_id: int) -> AsyncIterator[ProjectEvent]:
        """Read what happened to a project, oldest first."""
        request = pb.ListProjectEventsRequest(project_id=project_id)
        async with self._stream(self._history.ListProjectEvents, request) as replies:
            async for reply in replies:
                for event in reply.events:
                    yield project_event_of(event)

    async def handle_events(
        self,
        project_id: int,
        *,
        file: File | None = None,
        handle_id: int = 0,
        event: str = "",
        reason_code: str = "",
        since: datetime | None = None,
    ) -> AsyncIterator[HandleEvent]:
        """Read what happened to the files of a project, oldest first, while it arrives.

        Of one `file` or `handle_id` only, of one kind of event, with one reason code, not before `since` (without time zone: local).
        """
        request = pb.ListHandleEventsRequest(
            project_id=project_id, handle_id=handle_id, event=event, reason_code=reason_code
        )
        if file is not None:
            request.did.CopyFrom(project_pb2.Did(namespace=file.namespace, name=file.name))
        if since is not None:
            request.since.CopyFrom(_timestamp(since))
        async with self._stream(self._history.ListHandleEvents, request) as replies:
            async for reply in replies:
                for found in reply.events:
                    yield handle_event_of(found)


def project_event_of(message: pb.ProjectEvent) -> ProjectEvent:
    """Read an event of a project."""
    return ProjectEvent(
        time=moment_of(message.time),
        event=message.event,
        state=project_state_of(message.state),
        username=message.username or None,
        data=json.loads(message.data_json or "{}"),
    )


def handle_event_of(message: pb.HandleEvent) -> HandleEvent:
    """Read an event of a handle."""
    return HandleEvent(
        time=moment_of(message.time),
        handle_id=message.handle_id,
        namespace=message.did.namespace,
        name=message.did.name,
        event=message.event,
        old_state=handle_state_of(message.old_state) if message.old_state else None,
        state=handle_state_of(message.state),
        attempt=message.attempt,
        reason=reason_of(message.reason) if message.HasField("reason") else None,
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment.astimezone())
    return message
