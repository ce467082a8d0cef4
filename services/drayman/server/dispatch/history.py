"""Reads what happened, in pages: batches of handles are taken apart, and DIDs are looked up for a thousand of them at a time.

Pages follow one another by key (time, row), each by a short statement of its own: whoever reads a history of millions slowly holds no
connection and no snapshot meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from drayman.dispatch.v1 import history_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2
from drayman.server.dispatch import messages
from drayman.server.dispatch.store import Moment, Row, Store

#: Events that are looked up, and sent in one message.
_PAGE = 1000
#: Handles that a page of batches may hold, the last batch not counted.
_HANDLES = 5000
_FEWEST_BATCHES = 8
_MOST_BATCHES = 1000
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted of a history; None = everything."""

    event: str | None = None
    reason_code: str | None = None
    since: datetime | None = None

    @property
    def begin(self) -> Moment:
        """Where reading begins. No row of an instant is its zeroth."""
        return self.since or _LONG_AGO, (0, 0)


class _Entry(NamedTuple):
    """What a batch says of one handle. `batch` has what it says of all."""

    batch: Row
    handle_id: int
    attempt: int | None = None
    worker_id: str | None = None
    site: str | None = None
    code: str | None = None
    message: str | None = None


class HistoryReader:
    """Reads events, oldest first, and shapes them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of_project(self, project_id: int) -> AsyncIterator[list[pb.ProjectEvent]]:
        """Yield what happened to a project."""
        after = Filter().begin
        while rows := await self._store.project_events(project_id, after, _PAGE):
            yield list(map(_project_event, rows))
            after = _place(rows)

    async def of_handle(
        self, project_id: int, handle_id: int, did: project_pb2.Did, wanted: Filter
    ) -> AsyncIterator[list[pb.HandleEvent]]:
        """Yield what happened to one handle."""
        event, code, after = wanted.event, wanted.reason_code, wanted.begin
        while rows := await self._store.events_of_handle(project_id, handle_id, after, event, code, _PAGE):
            entries = (
                _Entry(row, handle_id, row["attempt"], row["worker_id"], row["site"], row["code"], row["message"])
                for row in rows
            )
            yield [_handle_event(entry, did) for entry in entries]
            after = _place(rows)

    async def of_handles(self, project_id: int, wanted: Filter) -> AsyncIterator[list[pb.HandleEvent]]:
        """Yield what happened to the handles of a project."""
        event, code, after, limit = wanted.event, wanted.reason_code, wanted.begin, _FEWEST_BATCHES
        while rows := await self._store.handle_batches(project_id, after, limit, _HANDLES, event, code):
            held = 0
            listed: list[Row] = []
            for row in rows:
                if not row["wanted"]:
                    continue
                if row["handle_ids"] is not None:
                    listed.append(row)
                    held += len(row["handle_ids"])
                    continue
                # a batch of every handle in its range, of which there may be millions: those before it are sent first
                async for events in self._listed(project_id, listed, code):
                    yield events
                listed = []
                async for events in self._all_between(project_id, row):
                    yield events
            async for events in self._listed(project_id, listed, code):
                yield events
            after = _place(rows)
            # next time as many batches as will hold about as many handles as a page may: the others would be read in vain
            limit = min(max(len(rows) * _HANDLES // max(held, 1), _FEWEST_BATCHES), 2 * limit, _MOST_BATCHES)

    async def _listed(
        self, project_id: int, rows: Sequence[Row], code: str | None
    ) -> AsyncIterator[list[pb.HandleEvent]]:
        """Take batches apart that list their handles."""
        entries = _entries(rows, code)
        while page := list(islice(entries, _PAGE)):
            names = await self._store.names_of_handles(project_id, [entry.handle_id for entry in page])
            # a file without name is one of a project that is being deleted
            yield [_handle_event(entry, _did(names[entry.handle_id])) for entry in page if entry.handle_id in names]

    async def _all_between(self, project_id: int, batch: Row) -> AsyncIterator[list[pb.HandleEvent]]:
        """Take a batch apart that concerns every handle in its range."""
        after = batch["low"] - 1
        while names := await self._store.names_between(project_id, after, batch["high"], _PAGE):
            yield [_handle_event(_Entry(batch, name["handle_id"]), _did(name)) for name in names]
            after = names[-1]["handle_id"]


def _place(rows: Sequence[Row]) -> Moment:
    return rows[-1]["at"], rows[-1]["place"]


def _entries(batches: Sequence[Row], code: str | None) -> Iterator[_Entry]:
    columns = ("attempts", "worker_ids", "sites", "codes", "messages")
    for batch in batches:
        handle_ids = batch["handle_ids"]
        nothing = [None] * len(handle_ids)
        for values in zip(handle_ids, *(batch[column] or nothing for column in columns), strict=True):
            entry = _Entry(batch, *values)
            if code is None or entry.code == code:
                yield entry


def _did(row: Row) -> project_pb2.Did:
    return project_pb2.Did(namespace=row["namespace"], name=row["name"])


def _project_event(row: Row) -> pb.ProjectEvent:
    return pb.ProjectEvent(
        time=messages.timestamp(row["at"]),
        event=row["event"],
        state=messages.PROJECT_STATE[row["state"]],
        username=row["username"] or "",
        data_json=row["data"],
    )


def _handle_event(entry: _Entry, did: project_pb2.Did) -> pb.HandleEvent:
    batch = entry.batch
    reason = None
    if any(entry[3:]):
        reason = project_pb2.Reason(worker_id=entry.worker_id, site=entry.site, code=entry.code, message=entry.message)
    return pb.HandleEvent(
        time=messages.timestamp(batch["at"]),
        handle_id=entry.handle_id,
        did=did,
        event=batch["event"],
        old_state=messages.HANDLE_STATE.get(batch["old_state"]),
        state=messages.HANDLE_STATE[batch["state"]],
        attempt=entry.attempt or 0,
        reason=reason,
    )
