"""The engine: looks after tasks whose time has come, one step after the other.

A step reads how the task stands, does what comes next, and records it in transactions that look at the task again first. Nothing is
remembered between steps that is not in the tables: any replica's engine goes on with any task, and one that dies is replaced 20 seconds
later, when what it had claimed is due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from drayman.server.platform.database import is_away
from drayman.server.platform.errors import Refusal
from drayman.server.platform.lifecycle import Repeating
from drayman.server.task import retrying, winding_down
from drayman.server.task.closing import close
from drayman.server.task.desk import AGAIN, Desk, Wait, lock_if, place
from drayman.server.task.parameters import ParameterError
from drayman.server.task.parents import fall_with_parent
from drayman.server.task.reading_inputs import read_inputs
from drayman.server.task.refining import broken, refine
from drayman.server.task.running import Running
from drayman.server.task.task_states import FINAL, TaskState
from drayman.server.task.task_store import Row

log = structlog.get_logger(__name__)

#: Tasks that are looked after at once.
_AT_ONCE = 4
_LONGEST_WAIT = 30.0
_RESETTING = ("retry", "reactivate")
_AT_REST = FINAL | {TaskState.PAUSED}
_ENDING = frozenset({TaskState.ABORTING, TaskState.FINISHING})

Step = Callable[[Row], Awaitable[Wait]]


class Engine(Repeating):
    """Takes tasks through their lives."""

    def __init__(self, desk: Desk) -> None:
        super().__init__("task engine", self._turn)
        self._desk = desk
        self._running: dict[int, asyncio.Task[None]] = {}
        running = Running(desk)
        self._steps: Mapping[TaskState, Step] = {
            TaskState.REGISTERED: lambda task: refine(desk, task),
            TaskState.DEFINED: lambda task: read_inputs(desk, task),
            TaskState.READY: running.begin,
            TaskState.SCOUTING: running.scout,
            TaskState.RUNNING: running.run,
            TaskState.PREPARED: lambda task: close(desk, task),
            TaskState.ABORTING: lambda task: winding_down.abort(desk, task),
            TaskState.FINISHING: lambda task: winding_down.finish(desk, task),
            TaskState.TORETRY: lambda task: retrying.go_on(desk, task),
            TaskState.TOINCEXEC: lambda task: retrying.read_anew(desk, task),
        }

    def kick(self, _task_id: int) -> None:
        """Look now: a task is due."""
        self.hasten()

    async def stop(self) -> None:
        """Stop looking, and leave every task where it is."""
        await super().stop()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _turn(self) -> float:
        free = _AT_ONCE - len(self._running)
        if free <= 0:
            return _LONGEST_WAIT  # whoever ends hastens
        for task_id, claimed in await self._desk.store.claim(list(self._running), free):
            self._running[task_id] = asyncio.create_task(self._look_after(task_id, claimed), name=f"task {task_id}")
        if len(self._running) >= _AT_ONCE:
            return _LONGEST_WAIT
        due = await self._desk.store.next_due()
        return (
            min(max(due, 0.01), _LONGEST_WAIT, self._desk.settings.fallback_seconds)
            if due is not None
            else min(_LONGEST_WAIT, self._desk.settings.fallback_seconds)
        )

    async def _look_after(self, task_id: int, claimed: datetime) -> None:
        try:
            await self.look_after(task_id, claimed)
        except Refusal as refusal:
            log.warning("a neighbour is away", task_id=task_id, reason=refusal.reason, error=refusal.message)
        except Exception as error:
            if is_away(error):
                log.warning("database away", task_id=task_id, error=str(error) or type(error).__name__)
            else:
                log.exception("step failed", task_id=task_id)
        finally:
            del self._running[task_id]
            self.hasten()

    async def look_after(self, task_id: int, claimed: datetime | None) -> None:
        """Do everything for a task that can be done now."""
        while claimed is not None:
            wait = await self._step(task_id)
            if wait is None or wait > 0:
                await self._desk.store.release(task_id, claimed, wait)
                return
            claimed = await self._desk.store.claim_on(task_id)

    async def _step(self, task_id: int) -> Wait:
        task = await self._desk.store.task(task_id)
        if task is None or task["state"] in _AT_REST:
            return None
        if await fall_with_parent(self._desk, task) or await self._give_up(task):
            return AGAIN
        if task["command"] in _RESETTING and task["state"] not in _ENDING:
            return await retrying.set_back(self._desk, task)
        try:
            wait = await self._steps[place(task)](task)
        except ParameterError as error:
            return await broken(self._desk, task, str(error))
        if wait and task["waiting_since"] is not None:
            wait = min(wait, max(self._patience(task), 0.1))
        return wait

    def _patience(self, task: Row) -> float:
        """Return how many seconds a pending task may go on waiting."""
        end: datetime = task["waiting_since"] + timedelta(days=self._desk.settings.task_pending_days)
        return (end - datetime.now(UTC)).total_seconds()

    async def _give_up(self, task: Row) -> bool:
        """End the waiting of a task that waited too long; returns whether it did."""
        if task["waiting_since"] is None or self._patience(task) > 0:
            return False
        days = self._desk.settings.task_pending_days
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                why = f"pending for {days:g} days: {now['error']}"
                before = TaskState(now["old_state"])
                await self._desk.store.move(connection, now, TaskState.EXHAUSTED, old_state=before, error=why)
        self._desk.tell(task["task_id"])
        return True
