"""What happened to users, roles, identities, keys and sessions, for administrators."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.auth.v1 import audit_service_pb2 as pb
from drayman.auth.v1 import audit_service_pb2_grpc
from drayman.client.calls import Client
from drayman.client.errors import OverloadedError, UnavailableError
from drayman.client.files import moment_of
from drayman.client.patience import Patience

#: Ids rise with time, but not to the moment.
_SLACK = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that happened; `time` is in UTC.

    `actor` did it (for a login: who was claimed), from the address `peer` with the program `client`, to `subject`: a user, a role, a key.
    `reason` says why it was refused, `method` how somebody logged in, `detail` what changed.
    """

    event_id: int
    time: datetime
    action: str
    actor: str
    subject: str
    refused: bool
    reason: str
    method: str
    peer: str
    client: str
    detail: dict[str, Any] = field(default_factory=dict)


class AuditClient(Client):
    """Reads the audit log. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._audit = audit_service_pb2_grpc.AuditServiceStub(channel)

    async def events(
        self,
        *,
        username: str = "",
        actions: Iterable[str] = (),
        refused_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 0,
        follow: bool = False,
    ) -> AsyncGenerator[AuditEvent, None]:
        """Read events while they arrive, newest first; `limit` 0 = 1,000.

        Of a user only (who did it, or whom it concerns), of these actions, refused ones, from `since` on, before `until` (without time
        zone: local).
        With `follow` oldest first, from `since` or now, and then as they happen, until there were `limit` of them, 0 = for ever. It
        survives the loss of the service for `patience` seconds. Use it in `contextlib.aclosing` if you may leave early.
        """
        request = pb.ListAuditEventsRequest(
            username=username,
            actions=actions,
            refused_only=refused_only,
            limit=0 if follow else limit,  # what is told twice after a loss must not count
            follow=follow,
        )
        if since is not None:
            request.since.CopyFrom(_timestamp(since))
        if until is not None:
            request.until.CopyFrom(_timestamp(until))
        told = 0
        async with aclosing(self._followed(request) if follow else self._listed(request)) as pages:
            async for page in pages:
                for message in page:
                    yield _event_of(message)
                    told += 1
                    if told == limit:
                        return

    async def _listed(self, request: pb.ListAuditEventsRequest) -> AsyncGenerator[Sequence[pb.AuditEvent], None]:
        async with self._stream(self._audit.ListAuditEvents, request) as replies:
            async for reply in replies:
                yield reply.events

    async def _followed(self, request: pb.ListAuditEventsRequest) -> AsyncGenerator[Sequence[pb.AuditEvent], None]:
        last = 0
        if not request.HasField("since"):
            # "now" is where the log ends, and not a clock of ours: that is known, too, when the service is lost before anything happens
            async with aclosing(self._listed(pb.ListAuditEventsRequest(limit=1))) as pages:
                async for [newest] in pages:
                    last = newest.event_id
                    request.since.CopyFrom(newest.time)
        patience = Patience(self._patience)
        begin = moment_of(request.since)
        while True:
            try:
                async with aclosing(self._listed(request)) as pages:
                    async for page in pages:
                        patience.renew()  # the first page says that it goes on, and has no events
                        fresh = [event for event in page if event.event_id > last]
                        if not fresh:
                            continue
                        last = fresh[-1].event_id
                        request.since.CopyFrom(_timestamp(max(begin, moment_of(fresh[-1].time) - _SLACK)))
                        yield fresh
                return
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)


def _event_of(message: pb.AuditEvent) -> AuditEvent:
    return AuditEvent(
        event_id=message.event_id,
        time=moment_of(message.time),
        action=message.action,
        actor=message.actor,
        subject=message.subject,
        refused=message.refused,
        reason=message.reason,
        method=message.method,
        peer=message.peer,
        client=message.client,
        detail=json.loads(message.detail_json or "{}"),
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment.astimezone())
    return message
