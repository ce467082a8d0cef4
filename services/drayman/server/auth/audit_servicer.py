"""AuditService: what happened, for administrators."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

from drayman.auth.v1 import audit_service_pb2 as pb
from drayman.server.auth.audit_store import AuditStore, Filter, Row
from drayman.server.auth.standing import require_admin
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.endless_streams import EndlessStreams
from drayman.server.platform.errors import invalid

_DEFAULT_LIMIT = 1000


class AuditServicer(EndlessStreams):
    """Streams events. A part of its process, too: those who follow are told when it drains."""

    def __init__(self, store: Store, audit: AuditStore) -> None:
        super().__init__()
        self._store = store
        self._audit = audit

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, call: Call) -> None:
        """Stream events."""
        await require_admin(self._store, call.caller)
        if request.limit < 0:
            raise invalid("limit", f"limit of {request.limit} is negative", value=request.limit)
        wanted = Filter(
            username=request.username,
            actions=tuple(request.actions),
            refused_only=request.refused_only,
            since=_moment(request, "since"),
            until=_moment(request, "until"),
        )
        if request.follow:
            await call.send(pb.ListAuditEventsResponse())  # who follows knows that they are heard, however quiet it is
            pages = self._followed(wanted, request.limit)
        else:
            pages = self._audit.events(wanted, request.limit or _DEFAULT_LIMIT)
        async with aclosing(pages):
            async for rows in pages:
                await call.send(pb.ListAuditEventsResponse(events=map(_event, rows)))

    async def _followed(self, wanted: Filter, limit: int) -> AsyncGenerator[list[Row], None]:
        """Follow, until there were so many events; 0 = for ever."""
        left = limit
        async with aclosing(self._audit.follow(wanted, self._pause)) as pages:
            async for rows in pages:
                yield rows[:left] if limit else rows
                left -= len(rows)
                if limit and left <= 0:
                    return


def _moment(request: pb.ListAuditEventsRequest, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    try:
        moment: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
        return moment
    except (ValueError, OverflowError) as error:
        raise invalid(field, f"{field} is no time: {error}") from error


def _event(row: Row) -> pb.AuditEvent:
    event = pb.AuditEvent(
        event_id=row["event_id"],
        action=row["action"],
        actor=row["actor"],
        subject=row["subject"],
        refused=row["refused"],
        reason=row["reason"],
        method=row["method"],
        peer=row["peer"],
        client=row["client"],
        detail_json=row["detail"],
    )
    event.time.FromDatetime(row["at"])
    return event
