"""Batches that form by themselves: while one is on its way to disk the next one gathers.

A batch is as large as the load makes it; what comes alone never waits for a timer, and whoever waits for a batch is answered when it is
on disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from drayman.server.platform.lifecycle import Part

#: Seconds from the start of one batch to that of the next, at least, while batches have company.
_PACE = 0.007

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Gathering:
    """Lets batches fill up under load, and only under load.

    A statement for five wishes costs nearly what one for twenty does. A loaded service that begins the next one the moment the last is on
    disk spends its time on statements, so it waits a moment; a wish that comes alone never waits.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._company = False

    async def gather(self) -> None:
        """Return when the next batch may begin: at once, unless the last one had company and began just now."""
        if self._company:
            left = self._began + _PACE - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.sleep(left)

    def begins(self, size: int) -> None:
        """Take note of a batch."""
        self._began = asyncio.get_running_loop().time()
        self._company = size > 1


class _Group(NamedTuple, Generic[Item, Result]):
    """Items that arrived together, and who waits for them."""

    items: Sequence[Item]
    done: asyncio.Future[list[Result]]


class Coalescing(Part, Generic[Key, Item, Result]):
    """Queues items by key; one batch a key at a time, in the order of arrival.

    `work(key, items)` takes a batch to disk and returns a result for each item, in their order. If it raises, all who wait for the batch
    get the exception.
    """

    def __init__(
        self, name: str, work: Callable[[Key, list[Item]], Awaitable[Sequence[Result]]], *, largest: int = 1000
    ) -> None:
        self._name = name
        self._work = work
        self._largest = largest
        self._waiting: dict[Key, deque[_Group[Item, Result]]] = {}
        self._running: dict[Key, asyncio.Task[None]] = {}

    def submit(self, key: Key, items: Sequence[Item]) -> asyncio.Future[list[Result]]:
        """Queue items; the future has their results, in their order, when they are on disk."""
        done: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(_Group(items, done))
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._run(key), name=f"{self._name} {key}")
        return done

    async def stop(self) -> None:
        """Let what was taken reach the disk."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def _run(self, key: Key) -> None:
        gathering = Gathering()
        while True:
            await gathering.gather()
            waiting = self._waiting.get(key)
            if not waiting:  # no await lies between this and being gone: an item that comes now starts a new run
                self._waiting.pop(key, None)
                del self._running[key]
                return
            groups = self._take(waiting)
            gathering.begins(len(groups))
            try:
                results = await self._work(key, [item for group in groups for item in group.items])
            except Exception as error:
                for group in groups:
                    if not group.done.done():
                        group.done.set_exception(error)
                        group.done.exception()  # callers may have gone
                continue
            begin = 0
            for group in groups:
                end = begin + len(group.items)
                if not group.done.done():
                    group.done.set_result(list(results[begin:end]))
                begin = end

    def _take(self, waiting: deque[_Group[Item, Result]]) -> list[_Group[Item, Result]]:
        """Take groups, in their order, up to one batch's worth."""
        groups: list[_Group[Item, Result]] = []
        size = 0
        while waiting and (not groups or size + len(waiting[0].items) <= self._largest):
            group = waiting.popleft()
            groups.append(group)
            size += len(group.items)
        return groups
