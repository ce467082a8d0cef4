"""Hands files to wishes: coalesced, durable before the reply, woken by events.

Each project has a queue. All wishes that wait for it are served by one statement; while that is on its way to disk the next ones
gather, so a batch is as large as the load makes it and nobody ever waits for a timer. Where nothing is ready the wish is parked in
memory. What frees handles calls `freed` or `changed`, and as many wishes are woken as there are handles.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from drayman.server.dispatch.allotment import Group, Stock, allot, preference
from drayman.server.dispatch.gathering import Gathering
from drayman.server.dispatch.hindrance import Hindrances, hindrances
from drayman.server.dispatch.lifecycle import Outcome, ProjectState
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.storage_map import StorageMap
from drayman.server.dispatch.store import Draw, Row, Said, Store
from drayman.server.platform.errors import Refusal
from drayman.server.platform.lifecycle import Repeating

log = structlog.get_logger(__name__)

#: Files that one statement reserves at most: it stays short, and with it everybody's wait.
_LARGEST_DRAW = 1000
#: Empty-handed draws in a row after which a group's count is taken anew.
_PATIENCE = 3
#: Projects that nobody asked for in this many seconds are forgotten.
_MEMORY = 600.0

#: For so many seconds the oldest lease of a project is not looked up again.
_FRESH = 1.0

GiveBack = Callable[[int, list[Said]], None]


@dataclass(frozen=True, slots=True)
class Given:
    """A wish came true."""

    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Ended:
    """The project hands out nothing any more."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Waited:
    """The wish's time is over, or the service is shutting down."""

    draining: bool


class Wish:
    """Somebody's wait for files."""

    __slots__ = (
        "_waiter",
        "cpu_site",
        "now_or_never",
        "number",
        "parked",
        "request_id",
        "result",
        "want",
        "withdrawn",
        "worker_id",
    )

    def __init__(
        self, worker_id: str, cpu_site: str, want: int, request_id: UUID | None, *, now_or_never: bool
    ) -> None:
        self.worker_id = worker_id
        self.cpu_site = cpu_site
        self.want = want
        self.request_id = request_id
        self.now_or_never = now_or_never
        self.number = 0
        self.parked = False
        self.withdrawn = False
        self.result: Given | Ended | Waited | Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def change(self) -> None:
        """Wait until there is a result, or until it is clear that there is none yet (`parked`)."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def resolve(self, result: Given | Ended | Waited | Exception) -> None:
        """Set the result."""
        self.result = result
        self.signal()

    def signal(self) -> None:
        """Wake who waits for a change."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Listener(Protocol):
    """Somebody who has to hear of a project even while waiting for nothing: a worker's session."""

    def project_ended(self, ended: Ended) -> None:
        """Nothing will be handed out any more."""

    def project_gone(self, refusal: Refusal) -> None:
        """There is no such project any more."""

    def question_leases(self) -> None:
        """Handles were taken from their workers: look whether one's own are among them."""

    def drain(self) -> None:
        """The service is shutting down."""


class ProjectQueue:
    """The wishes of one project, and what is known of it."""

    def __init__(self, reserver: Reserver, project_id: int) -> None:
        self._reserver = reserver
        self._store = reserver.store
        self.project_id = project_id
        self._wishes: dict[str, OrderedDict[int, Wish]] = {}
        self._count = 0
        self._standing: Standing | None = None
        self._stale = True
        self._looking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._gathering = Gathering()
        self._empty_handed = 0
        self.listeners: set[Listener] = set()
        self._oldest: asyncio.Future[Row | None] | None = None
        self._oldest_at = 0.0
        self.touched = time.monotonic()

    # --- what servicers see ------------------------------------------------------------------------------------------

    async def standing(self) -> Standing:
        """Return what is known of the project, looking it up if need be. Raises Refusal if there is no such project."""
        self.touched = time.monotonic()
        while self._stale or self._standing is None:
            await self._look()
        return self._standing

    async def oldest_lease(self) -> Row | None:
        """Return who holds a file longest and since when, as it was within the last second: thousands may ask at once."""
        if self._oldest is None or time.monotonic() - self._oldest_at > _FRESH:
            self._oldest_at = time.monotonic()
            self._oldest = asyncio.ensure_future(self._store.oldest_lease(self.project_id))
        return await asyncio.shield(self._oldest)

    @property
    def waiting(self) -> int:
        """Number of wishes."""
        return self._count

    def add(self, wish: Wish) -> None:
        """Queue a wish."""
        wish.number = self._reserver.next_number()
        self._put(wish)
        self.kick()

    def withdraw(self, wish: Wish, result: Waited | None = None) -> None:
        """Take a wish back: its caller has gone, or (with a result) its time is over."""
        wish.withdrawn = result is None
        of_site = self._wishes.get(wish.cpu_site)
        if of_site is not None and of_site.pop(wish.number, None) is not None:
            self._count -= 1
            if result is not None:
                wish.resolve(result)
        elif result is not None:
            wish.now_or_never = True  # it is being drawn for: if that brings nothing, its time is over

    # --- what wakes it -----------------------------------------------------------------------------------------------

    def freed(self, group: Group, handle_id: int) -> None:
        """A handle came back to a group."""
        if self._standing is not None:
            stock = self._standing.groups.setdefault(group, Stock(0, handle_id))
            stock.ready += 1
            stock.low = min(stock.low, handle_id)

    def settled(self, files: int, done: int, failed: int, became: str | None) -> None:
        """Handles were settled: new counts, and the project's new state if that changed."""
        if self._standing is not None:
            self._standing.files, self._standing.done, self._standing.failed = files, done, failed
            if became is not None:
                self._standing.state = ProjectState(became)
                self._stale = True

    def changed(self) -> None:
        """Something may be different: look again before the next draw."""
        self._stale = True
        self.kick()

    def kick(self) -> None:
        """Serve what can be served. Nothing is lost between "the queue is empty" and "I am not running": no await lies between them."""
        if self._task is None and (self._count or self._unheard):
            self._task = asyncio.create_task(self._run(), name=f"project {self.project_id}")

    def drain(self) -> None:
        """Answer everybody who waits: ask again elsewhere."""
        for wish in list(self._all()):
            self.withdraw(wish, Waited(draining=True))
        for listener in list(self.listeners):
            listener.drain()

    @property
    def _unheard(self) -> bool:
        """Whether there may be news for those who listen."""
        return self._stale and bool(self.listeners)

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._count or self._unheard:
                await self._gathering.gather()
                if not await self._turn():
                    break
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None  # in the same breath as the last look at the queue, or a wish that comes between is lost

    async def _turn(self) -> bool:
        """Serve once; tells whether there may be more to do."""
        standing = await self.standing()
        if standing.state is ProjectState.ABANDONED and self._count:
            await self._store.activate(self.project_id, None)
            self._reserver.announce(self.project_id)
            self._stale = True
            return True
        if not standing.hands_out:
            ended = Ended(standing)
            for wish in self._take_all():
                wish.resolve(ended)
            for listener in list(self.listeners):
                listener.project_ended(ended)
            return False
        full = await self._reserver.full_rses()
        chosen = self._choose(standing, full)
        if chosen:
            await self._draw(standing, chosen, full)
        else:
            self._park()
        return bool(chosen)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, Refusal):
            log.warning("draw failed", project_id=self.project_id, error=str(error) or type(error).__name__)
        else:
            for listener in list(self.listeners):
                listener.project_gone(error)
        self._stale = True
        for wish in self._take_all():
            wish.resolve(error)

    def _choose(self, standing: Standing, full: frozenset[int]) -> list[tuple[Wish, list[tuple[Group, int]]]]:
        """Allot what is ready, site by site in the order of their oldest wish, at most one statement's worth."""
        left = {group: stock.ready for group, stock in standing.groups.items()}
        chosen: list[tuple[Wish, list[tuple[Group, int]]]] = []
        room = _LARGEST_DRAW if standing.room is None else min(standing.room, _LARGEST_DRAW)
        heads = sorted((next(iter(of_site)), site) for site, of_site in self._wishes.items() if of_site)
        for _, site in heads:
            of_site = self._wishes[site]
            preferred = preference(standing.groups, self._reserver.storage.rank(site, full))
            if not preferred or room <= 0:
                continue
            shares = allot(_limited((wish.want for wish in of_site.values()), room), preferred, left)
            for share in shares:
                _, wish = of_site.popitem(last=False)
                self._count -= 1
                chosen.append((wish, share))
                room -= sum(number for _, number in share)
        return chosen

    async def _draw(
        self, standing: Standing, chosen: list[tuple[Wish, list[tuple[Group, int]]]], full: frozenset[int]
    ) -> None:
        takers: dict[Group, list[Wish]] = {}
        for wish, share in chosen:
            for group, number in share:
                takers.setdefault(group, []).extend([wish] * number)
        draws = {group: self._draws(group, wishes, full) for group, wishes in takers.items()}
        self._gathering.begins(len(chosen))
        try:
            rows = await self._store.draw(self.project_id, draws)
        except BaseException:
            for wish, _ in reversed(chosen):
                self._put_first(wish)  # `_fail` answers them with the error
            raise
        places = [wish for wishes in takers.values() for wish in wishes]
        given: dict[int, list[Row]] = {}
        for row in rows:
            if row["handle_id"] is not None:
                given.setdefault(places[row["place"] - 1].number, []).append(row)
        self._note_stock(standing, rows, takers)
        if not rows:
            self._stale = True  # the project closed meanwhile
        self._deliver(chosen, given)
        await self._mind_the_empty_handed(standing, takers, given)

    def _draws(self, group: Group, wishes: list[Wish], full: frozenset[int]) -> list[Draw]:
        storage = self._reserver.storage
        if not storage.limited:
            return [(wish.worker_id, wish.request_id, wish.cpu_site, None) for wish in wishes]
        at = {site: storage.nearest(site, group.location_id, full) for site in {wish.cpu_site for wish in wishes}}
        return [(wish.worker_id, wish.request_id, wish.cpu_site, at[wish.cpu_site]) for wish in wishes]

    def _note_stock(self, standing: Standing, rows: list[Row], takes: Iterable[Group]) -> None:
        """Remember what the statement left in each group; groups it did not find are empty."""
        for group in takes:
            standing.groups[group].ready = 0
        for row in rows:
            stock = standing.groups[Group(row["attempts"], row["location_id"])]
            stock.ready = row["ready"]
            if row["handle_id"] is not None:
                stock.low = max(stock.low, row["handle_id"] + 1)

    def _deliver(self, chosen: list[tuple[Wish, list[tuple[Group, int]]]], given: dict[int, list[Row]]) -> None:
        for wish, _ in reversed(chosen):
            rows = given.get(wish.number)
            if rows is None:
                if not wish.withdrawn:
                    self._put_first(wish)
            elif wish.withdrawn:
                self._reserver.give_back(self.project_id, wish, rows)
            else:
                rows.sort(key=_place)  # best first, as the wish was allotted
                wish.resolve(Given(rows))

    async def _mind_the_empty_handed(
        self, standing: Standing, takes: Collection[Group], given: dict[int, list[Row]]
    ) -> None:
        """A draw that brings nothing means that memory and tables differ: look again, and at last count anew."""
        if given:
            self._empty_handed = 0
            return
        self._stale = True
        self._empty_handed += 1
        if self._empty_handed >= _PATIENCE and standing.state is ProjectState.ACTIVE:
            log.warning("recounting", project_id=self.project_id, groups=len(takes))
            for group in takes:
                await self._store.recount_group(self.project_id, group)
            self._empty_handed = 0

    def _park(self) -> None:
        """Nothing can be given now: who asked for now or never is answered, the others learn that they wait."""
        for wish in list(self._all()):
            if wish.now_or_never:
                self.withdraw(wish, Waited(draining=False))
            elif not wish.parked:
                wish.parked = True
                wish.signal()

    async def _look(self) -> None:
        """Look the project up; who comes meanwhile waits for the same look."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_now())
        try:
            await asyncio.shield(self._looking)
        finally:
            if self._looking is not None and self._looking.done():
                self._looking = None

    async def _look_now(self) -> None:
        self._stale = False
        try:
            self._standing = await self._store.standing(self.project_id)
        except BaseException:
            self._stale = True
            raise
        if self._standing is None:
            self._stale = True
            self._reserver.forget(self)
            raise Refusal(
                "PROJECT_NOT_FOUND",
                f"project {self.project_id} not found",
                metadata={"project_id": str(self.project_id)},
            )
        unknown = {group.location_id for group in self._standing.groups} - self._reserver.storage.locations.keys()
        if unknown:
            await self._reserver.renew_storage()

    def _all(self) -> Iterator[Wish]:
        for of_site in self._wishes.values():
            yield from of_site.values()

    def _take_all(self) -> list[Wish]:
        wishes = list(self._all())
        self._wishes.clear()
        self._count = 0
        return wishes

    def _put(self, wish: Wish) -> None:
        self._wishes.setdefault(wish.cpu_site, OrderedDict())[wish.number] = wish
        self._count += 1

    def _put_first(self, wish: Wish) -> None:
        self._put(wish)
        self._wishes[wish.cpu_site].move_to_end(wish.number, last=False)


def _place(row: Row) -> int:
    place: int = row["place"]
    return place


def _limited(wants: Iterator[int], room: int) -> Iterator[int]:
    for want in wants:
        if room <= 0:
            return
        yield min(want, room)
        room -= want


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
        if self.storage.limited:
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
        """Read the storage map anew."""
        self.storage = await self.store.storage_map()

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
        now = time.monotonic()
        for queue in list(self._queues.values()):
            if queue.waiting or queue.listeners:
                queue.changed()
            elif now - queue.touched > _MEMORY:
                self.forget(queue)
        return self._fallback_seconds

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_seen)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("look-up failed", error=str(task.exception()))
