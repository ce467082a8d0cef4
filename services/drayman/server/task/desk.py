"""What every step of a task's life needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drayman.server.platform.settings import Settings
from drayman.server.task.collections import Collections
from drayman.server.task.outputs import Outputs
from drayman.server.task.plans import Plans
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Connection, Row, TaskStore

#: A step returns the seconds until the task has to be looked at again: now, or None = not before something happens.
Wait = float | None
AGAIN: Wait = 0.0
#: Records or jobs that one transaction changes: a command waits for it at most.
CHUNK = 10_000
#: What is told when it happens is looked for all the same, so often.
FALLBACK = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What steps work with. `announce` tells the other replicas, `lots_changed` the hand-out, `orders` the pilots of these jobs."""

    store: TaskStore
    plans: Plans
    collections: Collections
    outputs: Outputs
    settings: Settings
    announce: Callable[[str], None]
    lots_changed: Callable[[], None]
    orders: Callable[[Sequence[int]], None]

    def tell(self, task_id: int) -> None:
        """Tell everybody that a task changed, and its lots may have."""
        self.announce(f"t{task_id}")
        self.announce("l")
        self.lots_changed()

    def tell_orders(self, job_ids: Sequence[int]) -> None:
        """Tell the workers of jobs that there are orders for them."""
        if job_ids:
            self.orders(job_ids)
        for job_id in job_ids:
            self.announce(f"o{job_id}")


async def lock_if(desk: Desk, connection: Connection, task: Row) -> Row | None:
    """Lock a task, if it is still where it was when the step began: None = somebody changed it."""
    now = await desk.store.lock(connection, task["task_id"])
    if now is None or any(now[name] != task[name] for name in ("state", "old_state", "revision", "attempt", "command")):
        return None
    return now


def place(task: Row) -> TaskState:
    """Return the state that a task is worked on in: of one that waits, where it goes on."""
    return TaskState(task["old_state"] if task["state"] == TaskState.PENDING else task["state"])
