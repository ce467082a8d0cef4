"""Shows how projects stand while they change: one look at a project per interval, however many watch it.

Each project that somebody watches has a watcher here. It reads the project's row, which knows the counts whatever the size of the
project, and all streams draw from what it read; each sends what is new to its client, in its client's interval. Word of a change, from
this process or another replica, brings the next look forward, so an end is told when it happens. Nobody watches: nothing runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.lifecycle import ENDED, ProjectState
from drayman.server.dispatch.rate import Rate, seconds_left
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Row, Store
from drayman.server.platform.errors import Refusal
from drayman.server.platform.lifecycle import Part

#: Shortest interval in seconds; a shorter one is taken as this.
SHORTEST = 0.1
#: Seconds between two looks at most, however long the interval: a minute's rate needs a few.
_LONGEST = 10.0
#: Looks that word of a change brings forward are at least this many seconds apart: a busy project announces without pause.
_CALM = 1.0
#: A rate that moves by less than this share of itself is no news.
_NEWS = 0.1


@dataclass(frozen=True, slots=True)
class View:
    """A project as it was seen."""

    state: ProjectState
    message: pb.WatchProjectResponse

    def is_news_after(self, other: View) -> bool:
        """Whether somebody who saw the other one wants to see this one."""
        if self is other:
            return False
        before, now = other.message.rate, self.message.rate
        return self.message.project != other.message.project or abs(now - before) > _NEWS * max(now, before)


class Watching(Part):
    """Everybody who watches a project through this process."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        self._store = store
        self._watchers: dict[int, _Watcher] = {}
        self._draining = False
        reserver.on_change = self._heed

    async def watch(self, project_id: int, interval: float) -> AsyncGenerator[pb.WatchProjectResponse, None]:
        """Yield how a project stands: at once, then what is new, at most once per interval (in seconds) unless its state changed.

        Ends with the project, or when it is deleted. Raises Refusal if there is none, and when the service shuts down.
        """
        if self._draining:
            raise _shutting_down()
        interval = max(interval, SHORTEST)
        watcher = self._watcher(project_id)
        first_look = watcher.join(interval)
        seen: View | None = None
        due = 0.0
        try:
            while (view := await watcher.news(first_look, seen, due)) is not None:
                seen, due = view, time.monotonic() + interval
                yield view.message
                if view.state in ENDED:
                    return
            if seen is None:
                raise Refusal(
                    "PROJECT_NOT_FOUND", f"project {project_id} not found", metadata={"project_id": str(project_id)}
                )
        finally:
            if watcher.leave(interval) and self._watchers.get(project_id) is watcher:
                del self._watchers[project_id]

    async def drain(self) -> None:
        """End all streams: their clients go on elsewhere."""
        self._draining = True
        for watcher in list(self._watchers.values()):
            watcher.fail(_shutting_down())

    async def stop(self) -> None:
        """Look at nothing any more."""
        await self.drain()

    def _watcher(self, project_id: int) -> _Watcher:
        found = self._watchers.get(project_id)
        if found is None or found.over:
            found = self._watchers[project_id] = _Watcher(self._store, project_id)
        return found

    def _heed(self, project_id: int) -> None:
        watcher = self._watchers.get(project_id)
        if watcher is not None:
            watcher.heed()


class _Watcher:
    """Looks at one project for all streams that watch it."""

    def __init__(self, store: Store, project_id: int) -> None:
        self._store = store
        self._project_id = project_id
        self._rate = Rate()
        self._intervals: list[float] = []
        self._begun = 0
        self._ended = 0
        self._wanted = 0
        self._view: View | None = None
        self._error: Exception | None = None
        self._due = 0.0
        self._early = 0.0
        self._hastened = asyncio.Event()
        self._looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"watch {project_id}")

    # --- what streams see --------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it looks no more: the project is gone, or could not be read."""
        return self._task.done() or self._error is not None

    def join(self, interval: float) -> int:
        """Somebody begins to watch; returns the number of the look that shows nothing older than this moment."""
        self._intervals.append(interval)
        self._hasten(time.monotonic())
        self._wanted = self._begun + 1
        return self._wanted

    def leave(self, interval: float) -> bool:
        """Somebody watches no more; returns whether nobody does."""
        self._intervals.remove(interval)
        if not self._intervals:
            self._task.cancel()
        return not self._intervals

    async def news(self, first_look: int, seen: View | None, due: float) -> View | None:
        """Wait until there is something to show to who saw `seen`, and it is due or the state changed; None = the project is gone."""
        while True:
            if self._error is not None:
                raise self._error.with_traceback(None)
            wait: float | None = None
            if self._ended >= first_look:
                view = self._view
                if view is None or seen is None or view.state is not seen.state:
                    return view
                if view.is_news_after(seen):
                    wait = due - time.monotonic()
                    if wait <= 0:
                        return view
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await asyncio.shield(self._looked)

    # --- what moves it -----------------------------------------------------------------------------------------------

    def heed(self) -> None:
        """Something may have changed."""
        due = max(time.monotonic(), self._early + min(self._pause, _CALM))
        if due < self._due:
            self._early = due
            self._hasten(due)

    def fail(self, error: Exception) -> None:
        """End all streams with an error."""
        self._task.cancel()
        self._error = error
        self._tell()

    @property
    def _pause(self) -> float:
        return min(*self._intervals, _LONGEST) if self._intervals else _LONGEST

    def _hasten(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._hastened.set()

    def _tell(self) -> None:
        looked, self._looked = self._looked, asyncio.get_running_loop().create_future()
        looked.set_result(None)

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                self._begun += 1
                now = time.monotonic()
                self._due = now + self._pause
                rows = await self._store.projects(project_id=self._project_id, after=self._project_id - 1)
                self._view = self._shaped(rows[0], now) if rows else None
                self._ended = self._begun
                self._tell()
                if self._view is None and self._ended >= self._wanted:
                    return  # who came during the look wants another one
                await self._rest()
        except Exception as error:
            self.fail(error)  # who watches learns of it, and tries again

    def _shaped(self, row: Row, now: float) -> View:
        over = row["done"] + row["failed"]
        self._rate.note(now, over)
        state = ProjectState(row["state"])
        message = pb.WatchProjectResponse(project=messages.project(row), rate=self._rate.per_second)
        if state is ProjectState.ACTIVE and not row["open"]:
            left = seconds_left(row["files"] - over, message.rate)
            if left is not None:
                message.estimated_end_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=left))
        return View(state, message)

    async def _rest(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            self._hastened.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hastened.wait()


def _shutting_down() -> Refusal:
    return Refusal("UNAVAILABLE", "the service is shutting down", retry_after=0.1)
