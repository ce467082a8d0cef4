"""Hands jobs to workers: coalesced, durable before the reply, woken by events.

All wishes that wait are served by one statement; while that is on its way to disk the next ones gather. Wishes are matched in memory
against the lots that have something ready: highest priority first, then the lot that was made first. Where nothing fits a wish is
parked, and as many are woken as there are jobs that fit. What makes jobs ready calls `lots_changed`; what another replica announced
calls `hear`; and a slow look finds what was never told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from drayman.server.platform.coalescing import Coalescing, Gathering
from drayman.server.platform.lifecycle import Repeating
from drayman.server.platform.shares import allot, limited
from drayman.server.platform.wishes import Wishes
from drayman.server.task.job_store import JobStore, Return, Row
from drayman.server.task.matching import Offer, fits, hindrance
from drayman.server.task.ready_lots import Lot
from drayman.server.task.wishes import Again, Given, JobWish, Waited

log = structlog.get_logger(__name__)

#: Jobs that one statement hands out at most: it stays short, and with it everybody's wait.
_LARGEST_DRAW = 1000
#: Empty-handed draws in a row after which the lots drawn from are counted anew.
_PATIENCE = 3
#: Lines that a waiting worker is told at most of what does not fit.
_MOST_HINDRANCES = 20
#: What a look at all lots took is paid back with so many times as long without one.
_REST = 4.0

Share = list[tuple[int, int]]


class HandOut(Repeating):
    """All wishes for jobs of this process. As a part it looks for what a lost wake-up would have told."""

    def __init__(self, store: JobStore, announce: Callable[[str], None], fallback_seconds: float) -> None:
        super().__init__("hand-out", self._look_around)
        self._store = store
        self._announce = announce
        self._fallback_seconds = fallback_seconds
        self._wishes = Wishes[JobWish]()
        self._lots: dict[int, Lot] = {}  # best first
        self._fitting: dict[Offer, list[int]] = {}
        self._stale = True
        self._may_look_at = 0.0
        self._number = 0
        self._draining = False
        self._serving: asyncio.Task[None] | None = None
        self._gathering = Gathering()
        self._empty_handed = 0
        self._returns = Coalescing[int, Return, bool]("jobs given back", self._take_back)

    # --- what servicers see ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of wishes."""
        return len(self._wishes)

    def wish(self, wish: JobWish) -> None:
        """Queue a wish; while draining it is answered at once."""
        if self._draining:
            wish.resolve(Waited(draining=True))
            return
        self._number += 1
        wish.number = self._number
        self._wishes.put(wish)
        self._kick()

    def withdraw(self, wish: JobWish, result: Waited | None = None) -> None:
        """Take a wish back: its caller has gone, or (with a result) its time is over."""
        wish.withdrawn = result is None
        if self._wishes.remove(wish):
            if result is not None:
                wish.resolve(result)
        elif result is not None:
            wish.now_or_never = True  # it is being drawn for: if that brings nothing, its time is over

    def give_back(self, returns: Sequence[Return]) -> asyncio.Future[list[bool]]:
        """Take jobs back that have not begun; tells of each whether it was taken."""
        return self._returns.submit(0, returns)

    def return_to_lot(self, wish: JobWish, jobs: Sequence[tuple[Lot, Row]]) -> None:
        """Return what was handed out to a caller who has gone: as if it had never been."""
        self.give_back(
            [Return(row["job_id"], row["attempt"], wish.worker_id, wish.offer.user, row["state_at"]) for _, row in jobs]
        )

    def hindrances(self, offer: Offer) -> list[str]:
        """Say what is ready and does not fit. What others' jobs ask for is nobody's business."""
        lines = []
        for lot in self._lots.values():
            if lot.ready > 0 and (offer.anybody or lot.owner == offer.user):
                why = hindrance(lot.requirements, lot.owner, lot.task_id, offer)
                if why:
                    whose = f"of task {lot.task_id}" if lot.task_id else "without a task"
                    lines.append(f"{lot.ready} {'job' if lot.ready == 1 else 'jobs'} {whose}: {why}")
                    if len(lines) == _MOST_HINDRANCES:
                        break
        return lines

    # --- what wakes it -----------------------------------------------------------------------------------------------

    def lots_changed(self) -> None:
        """Jobs became ready, or lots were opened or closed, by this process's doing."""
        self._announce("l")
        self._changed()

    def hear(self, word: str) -> None:
        """Another replica announced something."""
        if word == "l":
            self._changed()

    def missed(self) -> None:
        """Announcements may have been lost."""
        self._changed()

    async def drain(self) -> None:
        """Answer everybody who waits: ask again elsewhere."""
        self._draining = True
        for wish in list(self._wishes):
            self.withdraw(wish, Waited(draining=True))

    async def stop(self) -> None:
        """Let what was given back reach the disk."""
        await super().stop()
        await self._returns.stop()

    async def _look_around(self) -> float:
        self._changed()
        return self._fallback_seconds

    def _changed(self) -> None:
        self._stale = True
        self._kick()

    def _kick(self) -> None:
        """Serve what can be served. Nothing is lost between "the queue is empty" and "I am not running": no await lies between them."""
        if self._serving is None and self._wishes:
            self._serving = asyncio.create_task(self._serve(), name="hand-out of jobs")

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while self._wishes:
                await self._gathering.gather()
                if not await self._serve_once():
                    break
        except Exception as error:
            log.warning("hand-out failed", error=str(error) or type(error).__name__)
            self._stale = True
            for wish in self._wishes.take_all():
                wish.resolve(error)
        finally:
            self._serving = (
                None  # in the same breath as the last look at the queue, or a wish that comes between is lost
            )

    async def _serve_once(self) -> bool:
        """Serve once; tells whether there may be more to do."""
        if self._stale and time.monotonic() >= self._may_look_at:
            await self._look()
        chosen = self._choose()
        if not chosen and self._stale:
            await self._look()
            chosen = self._choose()
        if chosen:
            await self._draw(chosen)
            return True
        return await self._park()

    async def _look(self) -> None:
        """See which lots have something. Where there are many that takes long, and is done the more seldom."""
        wait = self._may_look_at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._stale = False
        began = time.monotonic()
        try:
            lots = await self._store.open_lots()
        except BaseException:
            self._stale = True
            raise
        self._lots = {lot.lot_id: lot for lot in lots}
        self._fitting.clear()
        ended = time.monotonic()
        self._may_look_at = ended + (ended - began) * _REST if len(lots) > _LARGEST_DRAW else 0.0

    def _choose(self) -> list[tuple[JobWish, Share]]:
        """Allot what is ready, kind by kind in the order of their oldest wish, at most one statement's worth."""
        if not self._lots:
            return []
        left = {lot_id: lot.ready for lot_id, lot in self._lots.items() if lot.ready > 0}
        chosen: list[tuple[JobWish, Share]] = []
        room = _LARGEST_DRAW
        for offer in self._wishes.kinds():
            preferred = [lot_id for lot_id in self._lots_for(offer) if left.get(lot_id, 0) > 0]
            if not preferred or room <= 0:
                continue
            wants = limited((wish.want for wish in self._wishes.of(offer)), room)
            for share in allot(wants, preferred, left):
                chosen.append((self._wishes.pop_first(offer), share))
                room -= sum(number for _, number in share)
        return chosen

    def _lots_for(self, offer: object) -> list[int]:
        assert isinstance(offer, Offer)
        found = self._fitting.get(offer)
        if found is None:
            found = self._fitting[offer] = [
                lot.lot_id for lot in self._lots.values() if fits(lot.requirements, lot.owner, lot.task_id, offer)
            ]
        return found

    async def _draw(self, chosen: list[tuple[JobWish, Share]]) -> None:
        takes: dict[int, list[int]] = {}
        for place, (_, share) in enumerate(chosen):
            for lot_id, number in share:
                takes.setdefault(lot_id, []).extend([place] * number)
        self._gathering.begins(len(chosen))
        try:
            rows = await self._store.draw(takes, [wish for wish, _ in chosen])
        except BaseException:
            for wish, _ in reversed(chosen):
                self._wishes.put_first(wish)  # `_serve` answers them with the error
            raise
        given: dict[int, list[tuple[Lot, Row]]] = {}
        lots = {lot_id: self._lots.get(lot_id) for lot_id in takes}
        for lot in lots.values():
            if lot is not None:
                lot.ready = 0  # unless the statement found it
        for row in rows:
            lot = lots[row["lot_id"]]
            if lot is not None:
                lot.ready = row["ready"]
                if row["job_id"] is not None:
                    given.setdefault(row["wish"] - 1, []).append((lot, row))
        again = {n - 1 for n in rows[0]["again"] or ()} if rows else set()
        self._deliver(chosen, given, again)
        await self._mind_the_empty_handed(takes, bool(given or again))

    def _deliver(
        self, chosen: list[tuple[JobWish, Share]], given: dict[int, list[tuple[Lot, Row]]], again: set[int]
    ) -> None:
        for place in range(len(chosen) - 1, -1, -1):
            wish = chosen[place][0]
            jobs = given.get(place)
            if jobs is not None:
                if wish.withdrawn:
                    self.return_to_lot(wish, jobs)
                else:
                    jobs.sort(key=_order)
                    wish.resolve(Given(jobs))
            elif not wish.withdrawn:
                if place in again:
                    wish.resolve(Again())
                else:
                    self._wishes.put_first(wish)

    async def _mind_the_empty_handed(self, takes: dict[int, list[int]], found: bool) -> None:
        """A draw that brings nothing means that memory and tables differ: look again, and at last count anew."""
        if found:
            self._empty_handed = 0
            return
        self._stale = True
        for lot_id in takes:
            if lot_id in self._lots:
                self._lots[lot_id].ready = 0
        self._empty_handed += 1
        if self._empty_handed >= _PATIENCE:
            log.warning("recounting", lots=len(takes))
            for lot_id in takes:
                await self._store.recount_lot(lot_id)
            self._empty_handed = 0

    async def _park(self) -> bool:
        """Nothing fits now: who asked for now or never is answered, the others learn that they wait. Tells whether news came meanwhile."""
        asked = [wish for wish in self._wishes if not wish.questioned]
        if asked:
            again = await self._store.held_again(asked)
            for place, wish in enumerate(asked):
                wish.questioned = True
                if place in again and self._wishes.remove(wish):
                    wish.resolve(Again())
            return True  # others may have come during the look-up
        for wish in list(self._wishes):
            if wish.now_or_never:
                self.withdraw(wish, Waited(draining=False))
            elif not wish.parked:
                wish.parked = True
                wish.signal()
        return self._stale

    async def _take_back(self, _key: int, returns: list[Return]) -> list[bool]:
        taken = [False] * len(returns)
        rows = await self._store.give_back(returns)
        for row in rows:
            taken[row["place"] - 1] = True
        if rows:
            self.lots_changed()
        return taken


def _order(job: tuple[Lot, Row]) -> tuple[int, int, int]:
    lot, row = job
    return -lot.priority, lot.lot_id, row["job_id"]
