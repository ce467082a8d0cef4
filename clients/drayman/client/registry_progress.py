"""How far an upload or a download is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

_PERIOD = 0.1

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is: `reading` (what is to be uploaded), `sending`, `publishing` or `receiving`. Files and bytes of that stage."""

    stage: Literal["reading", "sending", "publishing", "receiving"]
    files: int
    files_total: int
    bytes: int
    bytes_total: int


ProgressCallback = Callable[[Progress], None]


class Meter:
    """Counts, for whoever wants to know. Threads may count as well."""

    def __init__(self, tell: ProgressCallback | None) -> None:
        self._tell = tell
        self._told: Progress | None = None
        self.begin("reading", 0, 0)

    def begin(self, stage: Literal["reading", "sending", "publishing", "receiving"], files: int, size: int) -> None:
        """Begin a stage of so many files and bytes."""
        self._stage = stage
        self._total = files, size
        self.files = self.bytes = 0

    def tell(self) -> None:
        """Tell how far it is, if that has changed."""
        if self._tell is None:
            return
        now = Progress(self._stage, self.files, self._total[0], self.bytes, self._total[1])
        if now != self._told:
            self._told = now
            self._tell(now)

    async def watch(self, work: Awaitable[_Result]) -> _Result:
        """Tell now and then while something is at work."""
        self.tell()
        if self._tell is None:
            return await work
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=_PERIOD))[0]:
                self.tell()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        self.tell()
        return task.result()
