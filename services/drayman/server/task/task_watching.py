"""Shows how tasks stand while they change: one look at a task for everybody who watches it just then.

A stream looks when its interval is over, and at once when a change is told; what several streams want to know at the same time is
read once. Nobody watches: nothing runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from drayman.server.platform.errors import Refusal
from drayman.server.platform.lifecycle import Part
from drayman.server.task import task_messages as messages
from drayman.server.task.plans import Plans, TaskGone
from drayman.server.task.task_states import FINAL
from drayman.server.task.task_store import TaskStore
from drayman.task.v1 import task_pb2 as pb

#: Shortest interval in seconds; a shorter one is taken as this.
SHORTEST = 0.1
#: A look is good for so many seconds for others who watch the same task.
_FRESH = 0.05

_FINAL = frozenset(messages.STATE[state] for state in FINAL)


class TaskWatching(Part):
    """Everybody who watches a task through this process."""

    def __init__(self, store: TaskStore, plans: Plans) -> None:
        self._store = store
        self._plans = plans
        self._ears: dict[int, set[asyncio.Event]] = {}
        self._looks: dict[int, tuple[float, asyncio.Task[pb.Task | None]]] = {}
        self._draining = False

    def hear(self, word: str) -> None:
        """Heed a word of another replica: `t<task_id>`."""
        if word[:1] == "t" and word[1:].isdigit():
            self.changed(int(word[1:]))

    def changed(self, task_id: int) -> None:
        """Say that a task changed."""
        self._looks.pop(task_id, None)
        for ear in self._ears.get(task_id, ()):
            ear.set()

    def missed(self) -> None:
        """Say that something may have changed."""
        for task_id in list(self._ears):
            self.changed(task_id)

    async def watch(self, task_id: int, interval: float, *, forever: bool) -> AsyncGenerator[pb.Task, None]:
        """Yield how a task stands: at once, then what is new, at most once per interval (in seconds) unless its state changed.

        Ends with the task, unless `forever`. Raises Refusal if there is none, and when the service shuts down.
        """
        interval = max(interval, SHORTEST)
        ear = asyncio.Event()
        self._ears.setdefault(task_id, set()).add(ear)
        seen: pb.Task | None = None
        due = 0.0
        try:
            while True:
                if self._draining:
                    raise Refusal("UNAVAILABLE", "the service is shutting down", retry_after=0.1)
                ear.clear()
                task = await self._look(task_id)
                if task is None:
                    if seen is not None:
                        return
                    raise not_found(task_id)
                now = time.monotonic()
                if seen is None or task.state != seen.state or (task != seen and now >= due):
                    seen, due = task, now + interval
                    yield task
                if task.state in _FINAL and not forever:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(due - now, SHORTEST) if task != seen else interval):
                        await ear.wait()
                await asyncio.sleep(_FRESH)  # what is told is told often
        finally:
            self._ears[task_id].discard(ear)
            if not self._ears[task_id]:
                del self._ears[task_id]
                self._looks.pop(task_id, None)

    async def drain(self) -> None:
        """End all streams: their clients go on elsewhere."""
        self._draining = True
        for ears in self._ears.values():
            for ear in ears:
                ear.set()

    async def stop(self) -> None:
        """Look at nothing any more."""
        await self.drain()

    async def _look(self, task_id: int) -> pb.Task | None:
        found = self._looks.get(task_id)
        if found is None or found[0] < time.monotonic() - _FRESH:
            found = self._looks[task_id] = (time.monotonic(), asyncio.create_task(self._read(task_id)))
        return await asyncio.shield(found[1])

    async def _read(self, task_id: int) -> pb.Task | None:
        row = await self._store.task(task_id)
        if row is None:
            return None
        with suppress(TaskGone):
            return messages.task(row, await self._plans.appearance(task_id, row["revision"]))
        return None


def not_found(task_id: int) -> Refusal:
    """Refuse an unknown task."""
    return Refusal("TASK_NOT_FOUND", f"task {task_id} not found", metadata={"task_id": str(task_id)})
