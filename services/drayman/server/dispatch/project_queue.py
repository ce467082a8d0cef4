"""The wishes of one project: coalesced, durable before the reply, woken by events.

All wishes that wait for a project are served by one statement; while that is on its way to disk the next ones gather, so a batch is as
large as the load makes it, and a wish that comes alone never waits for a timer. Where nothing is ready the wish is parked in memory. What
frees handles calls `freed` or `changed`, and as many wishes are woken as there are handles.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import structlog

from drayman.server.dispatch.allotment import Group, Stock, preference
from drayman.server.dispatch.lifecycle import ProjectState
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.store import Draw, Row
from drayman.server.dispatch.wishes import Ended, Given, Listener, Waited, Wish
from drayman.server.platform.coalescing import Gathering
from drayman.server.platform.errors import Refusal
from drayman.server.platform.shares import allot, limited
from drayman.server.platform.wishes import Wishes

if TYPE_CHECKING:
    from drayman.server.dispatch.reserver import Reserver

log = structlog.get_logger(__name__)

#: Files that one statement reserves at most: it stays short, and with it everybody's wait.
_LARGEST_DRAW = 1000
#: Empty-handed draws in a row after which a group's count is taken anew.
_PATIENCE = 3
#: For so many seconds the oldest lease of a project is not looked up again.
_FRESH = 1.0


class ProjectQueue:
    """The wishes of one project, and what is known of it."""

    def __init__(self, reserver: Reserver, project_id: int) -> None:
        self._reserver = reserver
        self._store = reserver.store
        self.project_id = project_id
        self._wishes = Wishes[Wish]()
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
        return len(self._wishes)

    def add(self, wish: Wish) -> None:
        """Queue a wish."""
        wish.number = self._reserver.next_number()
        self._wishes.put(wish)
        self.kick()

    def withdraw(self, wish: Wish, result: Waited | None = None) -> None:
        """Take a wish back: its caller has gone, or (with a result) its time is over."""
        wish.withdrawn = result is None
        if self._wishes.remove(wish):
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
        if self._task is None and (self._wishes or self._unheard):
            self._task = asyncio.create_task(self._run(), name=f"project {self.project_id}")

    def drain(self) -> None:
        """Answer everybody who waits: ask again elsewhere."""
        for wish in list(self._wishes):
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
            while self._wishes or self._unheard:
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
        if standing.state is ProjectState.ABANDONED and self._wishes:
            await self._store.activate(self.project_id, None)
            self._reserver.announce(self.project_id)
            self._stale = True
            return True
        if not standing.hands_out:
            ended = Ended(standing)
            for wish in self._wishes.take_all():
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
        for wish in self._wishes.take_all():
            wish.resolve(error)

    def _choose(self, standing: Standing, full: frozenset[int]) -> list[tuple[Wish, list[tuple[Group, int]]]]:
        """Allot what is ready, site by site in the order of their oldest wish, at most one statement's worth."""
        left = {group: stock.ready for group, stock in standing.groups.items()}
        chosen: list[tuple[Wish, list[tuple[Group, int]]]] = []
        room = _LARGEST_DRAW if standing.room is None else min(standing.room, _LARGEST_DRAW)
        for site in self._wishes.kinds():
            preferred = preference(standing.groups, self._reserver.storage.rank(str(site), full))
            if not preferred or room <= 0:
                continue
            shares = allot(limited((wish.want for wish in self._wishes.of(site)), room), preferred, left)
            for share in shares:
                chosen.append((self._wishes.pop_first(site), share))
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
        limited = self._reserver.storage.limited
        self._gathering.begins(len(chosen))
        try:
            rows = await self._store.draw(self.project_id, draws, limited)
        except BaseException:
            for wish, _ in reversed(chosen):
                self._wishes.put_first(wish)  # `_fail` answers them with the error
            raise
        places = [wish for wishes in takers.values() for wish in wishes]
        given: dict[int, list[Row]] = {}
        for row in rows:
            if row["handle_id"] is not None:
                given.setdefault(places[row["place"] - 1].number, []).append(row)
        self._note_stock(standing, rows, takers)
        self._deliver(chosen, given)
        if not rows:  # the project closed meanwhile, or an RSE has a limit that is not known here
            self._stale = True
            await self._reserver.renew_storage()
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
                    self._wishes.put_first(wish)
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
        for wish in list(self._wishes):
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


def _place(row: Row) -> int:
    place: int = row["place"]
    return place
