"""Takes note of what workers offer: each combination at most once a minute, and never in a worker's way."""

from __future__ import annotations

import time

from drayman.server.platform.lifecycle import Repeating
from drayman.server.task.farm_store import FarmStore, Offered

#: Seconds until the same offer is recorded again.
_FRESH = 60.0
#: Combinations that are kept in memory; a farm has a few dozen.
_MOST = 10_000
_FLUSH = 1.0
_FORGET_EVERY = 3600.0


class Farm(Repeating):
    """What was offered lately, on its way to the database."""

    def __init__(self, store: FarmStore) -> None:
        super().__init__("offers of workers", self._flush)
        self._store = store
        self._recorded: dict[Offered, float] = {}
        self._new: set[Offered] = set()
        self._forget_at = 0.0

    def offered(self, site: str, platform: str, software: tuple[str, ...]) -> None:
        """A worker asked for jobs."""
        offer = (site, platform, software)
        now = time.monotonic()
        if self._recorded.get(offer, -_FRESH) + _FRESH <= now and len(self._new) < _MOST:
            self._recorded[offer] = now
            if not self._new:
                self.hasten()
            self._new.add(offer)

    async def _flush(self) -> float:
        if self._new:
            offers, self._new = self._new, set()
            try:
                await self._store.record_offers(offers)
            except BaseException:
                for offer in offers:
                    self._recorded.pop(offer, None)
                raise
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY
            self._recorded = {offer: at for offer, at in self._recorded.items() if at + _FRESH > now}
            await self._store.forget_offers()
        return _FLUSH if self._new else _FRESH
