"""The queues of all projects that this process hands files of, and what they have in common: the storage, and word from other replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from drayman.server.dispatch.hindrance import Hindrances, hindrances
from drayman.server.dispatch.lifecycle import Outcome
from drayman.server.dispatch.project_queue import ProjectQueue
from drayman.server.dispatch.storage_map import StorageMap
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.dispatch.wishes import Waited, Wish
from drayman.server.platform.lifecycle import Repeating

log = structlog.get_logger(__name__)

#: Projects that nobody asked for in this many seconds are forgotten.
_MEMORY = 600.0

GiveBack = Callable[[int, list[Said]], None]


class Reserver(Repeating):
    """All queues of this process. As a part it looks after them: what a lost wake-up would have told is found by looking."""

    def __init__(self, store: Store, announce: Callable[[str], None], fallback_seconds: float) -> None:
        super().__init__("reserver", self._look_around)
        self.store = store
        self.storage = StorageMap()
        self.settle: GiveBack = lambda _project_id, _said: None
        self.on_change: Callable[[int], None] = lambda _project_id: None
        self._announce = announce
        self._fallback_seconds = fallback_seconds
        self._queues: dict[int, ProjectQueue] = {}
        self._number = 0
        self._draining = False
        self._reading = asyncio.Lock()
        self._asked = self._read = 0

    def queue(self, project_id: int) -> ProjectQueue:
        """Return the queue of a project."""
        found = self._queues.get(project_id)
        if found is None:
            found = self._queues[project_id] = ProjectQueue(self, project_id)
        return found

    def peek(self, project_id: int) -> ProjectQueue | None:
        """Return the queue of a project if this process has one."""
        return self._queues.get(project_id)

    def wish(self, queue: ProjectQueue, wish: Wish) -> None:
        """Queue a wish; while draining it is answered at once."""
        if self._draining:
            wish.resolve(Waited(draining=True))
        else:
            queue.add(wish)

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self._draining

    @property
    def waiting(self) -> int:
        """Number of wishes in all queues."""
        return sum(queue.waiting for queue in self._queues.values())

    def next_number(self) -> int:
        """Number wishes in the order of their arrival."""
        self._number += 1
        return self._number

    async def full_rses(self) -> frozenset[int]:
        """RSEs that nobody may read from just now; where no RSE has a limit, nobody has to look."""
        return await self.store.full_rses() if self.storage.limited else frozenset()

    def room_at_rses(self) -> None:
        """A limited RSE may have room again: whoever waits, for whatever project, may be served."""
        self._announce("room")
        self._kick_all()

    def _kick_all(self) -> None:
        for queue in list(self._queues.values()):
            queue.kick()

    async def hindrances(self, queue: ProjectQueue, cpu_site: str) -> Hindrances:
        """Say what stands in the way of a worker at a site."""
        standing = await queue.standing()
        found = hindrances(standing, self.storage, cpu_site, await self.full_rses())
        if found.reserved:
            oldest = await queue.oldest_lease()
            if oldest is not None:
                found.oldest_reserved_at, found.oldest_worker_id = oldest["reserved_at"], oldest["worker_id"]
        return found

    def announce(self, project_id: int) -> None:
        """Tell other replicas to look at a project again."""
        self._announce(f"p{project_id}")
        self.on_change(project_id)

    def changed(self, project_id: int) -> None:
        """A project changed by this process's doing: look again here, and tell the others."""
        self.announce(project_id)
        queue = self._queues.get(project_id)
        if queue is not None:
            queue.changed()

    def leases_ended(self, project_id: int) -> None:
        """Handles were taken from their workers by this process's doing: their sessions here and elsewhere must hear of it."""
        self._announce(f"r{project_id}")
        self._question_leases(project_id)
        if self.storage.limited:
            self.room_at_rses()

    def _question_leases(self, project_id: int) -> None:
        queue = self._queues.get(project_id)
        if queue is not None:
            for listener in list(queue.listeners):
                listener.question_leases()

    async def storage_changed(self) -> None:
        """Storage changed by this process's doing."""
        self._announce("storage")
        await self._storage_changed()

    def hear(self, word: str) -> None:
        """Another replica announced something."""
        if word == "storage":
            self._later(self._storage_changed())
        elif word == "room":
            self._kick_all()
        elif word[:1] == "p" and word[1:].isdigit():
            self.on_change(int(word[1:]))
            queue = self._queues.get(int(word[1:]))
            if queue is not None:
                queue.changed()
        elif word[:1] == "r" and word[1:].isdigit():
            self._question_leases(int(word[1:]))

    def missed(self) -> None:
        """Announcements may have been lost: look at everything."""
        self._later(self._storage_changed())

    def give_back(self, project_id: int, wish: Wish, rows: list[Row]) -> None:
        """Return what was reserved for a caller who has gone: as if it had never been handed out."""
        said: list[Said] = [
            (row["handle_id"], row["attempts"] + 1, 1, wish.worker_id, Outcome.RELEASED, None, "CALLER_GONE", "")
            for row in rows
        ]
        self.settle(project_id, said)

    def forget(self, queue: ProjectQueue) -> None:
        """Drop a queue whose project is gone."""
        if not queue.waiting and not queue.listeners:
            self._queues.pop(queue.project_id, None)

    async def renew_storage(self) -> None:
        """Read the storage map anew, as it is now or later.

        One at a time, or a look that began earlier and took longer would stay; who comes meanwhile shares the next one.
        """
        self._asked += 1
        mine = self._asked
        async with self._reading:
            if self._read < mine:
                covered = self._asked
                self.storage = await self.store.storage_map()
                self._read = covered

    async def start(self) -> None:
        """Read the storage map and begin to look around."""
        await self.renew_storage()
        await super().start()

    async def drain(self) -> None:
        """Answer everybody who waits."""
        self._draining = True
        for queue in self._queues.values():
            queue.drain()

    async def _storage_changed(self) -> None:
        await self.renew_storage()
        for queue in list(self._queues.values()):
            queue.changed()

    async def _look_around(self) -> float:
        try:
            await self.renew_storage()
        finally:
            self._look_at_projects()
        return self._fallback_seconds

    def _look_at_projects(self) -> None:
        now = time.monotonic()
        for queue in list(self._queues.values()):
            if queue.waiting or queue.listeners:
                queue.changed()
            elif now - queue.touched > _MEMORY:
                self.forget(queue)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_seen)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("look-up failed", error=str(task.exception()))
