"""Opens the half of the task service that is about tasks: submission, commands, the engine, watching, recovery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drayman.server.platform.calls import Service
from drayman.server.platform.lifecycle import Part
from drayman.server.platform.settings import Settings
from drayman.server.task import access
from drayman.server.task.collections import Collections
from drayman.server.task.commands import Commands
from drayman.server.task.desk import Desk
from drayman.server.task.engine import Engine
from drayman.server.task.outputs import Outputs
from drayman.server.task.plans import Plans
from drayman.server.task.recovery import LostFiles
from drayman.server.task.submission import Submission
from drayman.server.task.task_servicer import TaskServicer
from drayman.server.task.task_store import TaskStore
from drayman.server.task.task_watching import TaskWatching
from drayman.task.v1 import task_service_pb2


@dataclass(frozen=True)
class TasksRoom:
    """What is about tasks, opened. `hear` and `missed` are for the bus."""

    services: Sequence[Service]
    parts: Sequence[Part]
    plans: Plans
    engine: Engine
    watching: TaskWatching
    announce: Callable[[str], None]

    def hear(self, word: str) -> None:
        """Another replica announced something."""
        self.watching.hear(word)

    def missed(self) -> None:
        """Announcements may have been lost."""
        self.watching.missed()
        self.engine.hasten()

    def kick(self, task_id: int) -> None:
        """A job's end is something for the engine to look at, and for who watches the task, here and elsewhere."""
        self.announce(f"t{task_id}")
        self.engine.kick(task_id)


def open_tasks(
    store: TaskStore,
    plans: Plans,
    settings: Settings,
    *,
    announce: Callable[[str], None],
    collections: Collections,
    outputs: Outputs,
    lots_changed: Callable[[], None],
    orders: Callable[[Sequence[int]], None],
) -> TasksRoom:
    """Build everything. `announce` tells the other replicas, `lots_changed` the hand-out, `orders` the workers of jobs."""
    watching = TaskWatching(store, plans)

    def tell(word: str) -> None:
        watching.hear(word)
        announce(word)

    desk = Desk(
        store=store,
        plans=plans,
        collections=collections,
        outputs=outputs,
        settings=settings,
        announce=tell,
        lots_changed=lots_changed,
        orders=orders,
    )
    engine = Engine(desk)

    def changed(task_id: int) -> None:
        desk.tell(task_id)
        engine.kick(task_id)

    servicer = TaskServicer(
        store,
        plans,
        Submission(store, settings),
        Commands(store, settings),
        watching,
        LostFiles(store, outputs, changed),
        changed,
    )
    services = [
        Service(task_service_pb2.DESCRIPTOR.services_by_name["TaskService"], servicer, access.TASK_SERVICE),
    ]
    return TasksRoom(services, [watching, engine], plans, engine, watching, tell)
