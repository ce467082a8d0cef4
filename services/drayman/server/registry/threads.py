"""Threads of our own for calls that block."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

_T = TypeVar("_T")


class Stopped(Exception):
    """The caller does not want it any more."""


class Stop:
    """Tells work that takes long that nobody waits for it."""

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        """Nobody waits any more."""
        self._event.set()

    def check(self) -> None:
        """Raises Stopped if nobody waits any more."""
        if self._event.is_set():
            raise Stopped


class Threads:
    """Two bounded pools: what takes long never keeps what takes a moment waiting."""

    def __init__(self, name: str, quick: int, long: int) -> None:
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix=name)
        self._long = ThreadPoolExecutor(long, thread_name_prefix=f"{name}-long")

    async def run(self, job: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Do it in a thread. A cancelled call waits for its end and then, with `undo`, takes back what it gave."""
        return await self._finish(self._quick, job, undo)

    async def run_long(self, job: Callable[[Stop], _T]) -> _T:
        """Do what takes long in a thread. A cancelled call stops it and waits for its end."""
        stop = Stop()
        return await self._finish(self._long, lambda: job(stop), None, stop)

    def submit(self, job: Callable[[], _T]) -> Future[_T]:
        """Do it in a thread, for another thread that waits for it: never for one of those that take a moment."""
        return self._quick.submit(job)

    def close(self) -> None:
        """Wait for what is under way; nothing more is begun."""
        self._quick.shutdown(cancel_futures=True)
        self._long.shutdown(cancel_futures=True)

    @staticmethod
    async def _finish(
        pool: ThreadPoolExecutor,
        job: Callable[[], _T],
        undo: Callable[[_T], object] | None,
        stop: Stop | None = None,
    ) -> _T:
        future = asyncio.get_running_loop().run_in_executor(pool, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if stop is not None:
                stop.set()
            await _ended(future)
            if undo is not None and not future.cancelled() and future.exception() is None:
                undo(future.result())
            raise


async def _ended(future: "asyncio.Future[_T]") -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # cancelled once more: the thread is still at it
    if not future.cancelled():
        future.exception()  # looked at
