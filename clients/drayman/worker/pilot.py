"""The pilot: takes jobs, runs them, and says how they are doing, until there is nothing more to do or it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from drayman.client.errors import DraymanError, OverloadedError, UnavailableError
from drayman.client.job_values import JobAnswer, JobDescription, JobUpdate
from drayman.client.pilots import Attendance, PilotClient
from drayman.client.registry import RegistryClient
from drayman.client.sandboxes import SandboxClient
from drayman.worker.job_run import JobEnd, JobRun, Tools
from drayman.worker.payload import LOOPING_SECONDS
from drayman.worker.stage_in import StageIn
from drayman.worker.stage_out import StageOut

log = logging.getLogger(__name__)

#: A lease is renewed so many times within its length; and at least so often, in seconds.
_RENEWALS = 4
_LONGEST_SILENCE = 60.0
#: Seconds to wait at most before a broken stream is opened again.
_LONGEST_PAUSE = 10.0
#: Seconds that a wait for a further job takes at least while others run, which is asked for again and again.
_SHORTEST_WAIT = 2.0
#: Seconds to ask for what may have been handed over while the pilot was told to stop.
_AFTERTHOUGHT = 5.0
#: Seconds that killed jobs have to be reported.
_LAST_WORDS = 20.0
#: Bytes that the scratch has to take before a job is asked for.
_PROBE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a pilot offers for one job: cores, memory and scratch space in MB, seconds; 0 = no limit."""

    site: str = ""
    cores: int = 1
    memory_mb: int = 0
    disk_mb: int = 0
    walltime_seconds: int = 0
    platform: str = ""
    label: str = ""
    task_id: int = 0
    software: tuple[str, ...] = ()


class Pilot:
    """Runs jobs, `parallel` at a time, `jobs` in all (None = any number), until none came for `wait` seconds (None = for ever).

    `grace`: seconds that running jobs have to end after `stop`. `fetch`, `container` and `looping`: see StageIn and Tools. `on_begin` and
    `on_end` are told of each job.
    """

    def __init__(
        self,
        pilots: PilotClient,
        registry: RegistryClient,
        sandboxes: SandboxClient,
        *,
        worker_id: str,
        offer: Offer,
        scratch: Path,
        jobs: int | None = None,
        wait: float | None = None,
        parallel: int = 1,
        grace: float = 60.0,
        fetch: str = "",
        container: str = "",
        looping: float = LOOPING_SECONDS,
        keep: bool = False,
        on_begin: Callable[[JobDescription], None] = lambda _job: None,
        on_end: Callable[[JobEnd], None] = lambda _end: None,
    ) -> None:
        self._pilots = pilots
        self._worker_id = worker_id
        self._offer = offer
        self._left = jobs
        self._wait = wait
        self._parallel = parallel
        self._grace = grace
        self._on_begin, self._on_end = on_begin, on_end
        self._scratch = scratch
        self._tools = Tools(
            sandboxes,
            StageIn(registry, fetch),
            StageOut(registry),
            self._report,
            scratch,
            keep=keep,
            container=container,
            looping=looping,
        )
        self._running: dict[int, JobRun] = {}
        self._begun = asyncio.Event()
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()
        self._problem: DraymanError | OSError | None = None

    def stop(self) -> None:
        """Take no more jobs, give back what has not begun; what runs has the grace to end."""
        self._stopping.set()
        for run in self._running.values():
            run.give_back()

    def abort(self) -> None:
        """Stop at once: what runs is killed and reported as failed."""
        self.stop()
        self._aborting.set()
        for run in self._running.values():
            run.stop(at_once=True)

    async def run(self) -> None:
        """Work. Raises DraymanError when the service says no, or was away for too long; OSError for a bad scratch.

        Jobs that run then still have the grace to end.
        """
        attending = asyncio.create_task(self._attend(), name="attend")
        slots = [asyncio.create_task(self._slot(), name="slot") for _ in range(self._parallel)]
        patience = asyncio.create_task(self._end_in_grace(slots), name="grace")
        try:
            await asyncio.gather(*slots, return_exceptions=True)
            for slot in slots:
                if not slot.cancelled():
                    slot.result()
        finally:
            tasks = [attending, patience, *slots]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._problem is not None:
            raise self._problem

    async def _slot(self) -> None:
        while not self._stopping.is_set() and (self._left is None or self._left > 0):
            if self._left is not None:
                self._left -= 1
            try:
                if await self._next_job() or self._stopping.is_set():
                    continue
            except (DraymanError, OSError) as error:
                self._problem = self._problem or error
                self.stop()
                return
            if self._left is not None:
                self._left += 1  # it was for a job that did not come
            if not self._running:
                return

    async def _next_job(self) -> bool:
        """Take a job and run it; returns whether there was one."""
        await asyncio.to_thread(probe, self._scratch)
        job = await self._take()
        if job is None:
            return False
        run = self._running[job.job_id] = JobRun(job, self._tools)
        self._begun.set()
        try:
            if self._stopping.is_set():
                run.give_back()
            else:
                self._on_begin(job)
            self._on_end(await run.run())
        finally:
            del self._running[job.job_id]
        return True

    async def _take(self) -> JobDescription | None:
        request_id = str(uuid4())
        wait = self._wait if self._wait is None or not self._running else max(self._wait, _SHORTEST_WAIT)
        asking = asyncio.create_task(self._ask(request_id, wait))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([asking, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not asking.done():
                asking.cancel()
                await asyncio.wait([asking])
        if not asking.cancelled():
            return asking.result()
        # the same wish again: a job that was on its way is ours, and has to go back
        with suppress(DraymanError, TimeoutError):
            return await asyncio.wait_for(self._ask(request_id, 0.0), _AFTERTHOUGHT)
        return None

    async def _ask(self, request_id: str, timeout: float | None) -> JobDescription | None:
        offer = self._offer
        jobs = await self._pilots.next_jobs(
            worker_id=self._worker_id,
            site=offer.site,
            node=socket.gethostname(),
            cores=offer.cores,
            memory_mb=offer.memory_mb,
            disk_mb=offer.disk_mb,
            walltime_seconds=offer.walltime_seconds,
            platform=offer.platform,
            label=offer.label,
            task_id=offer.task_id,
            timeout=timeout,
            software=offer.software,
            request_id=request_id,
        )
        return jobs[0] if jobs else None

    async def _report(self, update: JobUpdate) -> JobAnswer:
        return (await self._pilots.update(self._worker_id, [update]))[0]

    async def _end_in_grace(self, slots: list[asyncio.Task[None]]) -> None:
        await self._stopping.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._aborting.wait(), self._grace)
        for run in self._running.values():
            run.stop()
        await self._aborting.wait()
        await asyncio.sleep(_LAST_WORDS)
        for slot in slots:
            slot.cancel()

    # --- leases and orders -------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Keep a stream open on which leases are renewed and orders come, and open it again when it breaks."""
        pause = 0.2
        while True:
            try:
                async with self._pilots.attend(self._worker_id) as attendance:
                    listening = asyncio.create_task(self._listen(attendance), name="orders")
                    try:
                        while not listening.done():
                            self._begun.clear()
                            await self._renew(attendance)
                            pause = 0.2
                            await self._rest(listening)
                    finally:
                        listening.cancel()
                        await asyncio.wait([listening])
            except (UnavailableError, OverloadedError):
                pass
            except DraymanError as error:
                log.warning("orders cannot be had: %s", error)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads a fleet
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _rest(self, listening: asyncio.Task[None]) -> None:
        """Wait until leases are to be renewed. A job that begins may have a shorter one; a stream that ended carries no orders."""
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait([begun, listening], timeout=self._interval(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()

    async def _renew(self, attendance: Attendance) -> None:
        runs = list(self._running.values())
        for run, answer in zip(runs, await attendance.update([run.heartbeat() for run in runs]), strict=True):
            run.obey(answer)

    async def _listen(self, attendance: Attendance) -> None:
        with suppress(DraymanError):
            async for order in attendance:
                run = self._running.get(order.job_id)
                if run is not None:
                    run.obey(order)

    def _interval(self) -> float:
        leases = [run.job.lease / _RENEWALS for run in self._running.values() if run.job.lease]
        return max(0.2, min([_LONGEST_SILENCE, *leases]))


def probe(scratch: Path) -> None:
    """Raise OSError, which names the folder, if it takes no files: a job that came here would fail for nothing."""
    try:
        with tempfile.NamedTemporaryFile(prefix="probe-", dir=scratch) as file:
            file.write(bytes(_PROBE))
            file.flush()
    except OSError as error:
        raise OSError(
            error.errno, f"the scratch folder cannot be written: {error.strerror or error}", str(scratch)
        ) from error
