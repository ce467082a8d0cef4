"""Runs the program of a job: in its folder, within its limits, with what it writes kept in bounds."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drayman.worker.job_error import KILLED, LOOPING, PAYLOAD_FAILED, TOO_LONG, TOO_MUCH_MEMORY, JobError
from drayman.worker.payload_log import PayloadLog
from drayman.worker.process_family import ProcessFamily, Usage

_BLOCK = 64 * 1024
#: Seconds between two looks at what the program uses, and how many times longer than a look itself that has to be.
_LOOK = 1.0
_REST = 20.0
#: Seconds between a polite end and the other one.
_GRACE = 10.0
#: Seconds to wait for the last of what it writes once nothing of it runs.
_DRAIN = 2.0
#: Seconds without a sign of life after which a program is taken to hang.
LOOPING_SECONDS = 2 * 3600.0
#: Seconds of CPU that are a sign of life.
_ALIVE = 0.5
#: Bytes of what a program writes that are kept.
LOG_BYTES = 100 * 1024 * 1024
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use; 0 = anything. Seconds, MB; `log_bytes` are kept of what it writes; `looping` without any sign of life."""

    walltime: float = 0.0
    memory_mb: int = 0
    log_bytes: int = LOG_BYTES
    looping: float = LOOPING_SECONDS


class Payload:
    """A program that runs. `kill` ends it with everything that it started."""

    def __init__(
        self, words: list[str], folder: Path, environment: Mapping[str, str], limits: Limits, log: Path
    ) -> None:
        self._words = words
        self._folder = folder
        self._environment = environment
        self._limits = limits
        self.log = PayloadLog(log, limits.log_bytes)
        self._family = ProcessFamily()
        self._process: asyncio.subprocess.Process | None = None
        self._over = False
        self._killed: JobError | None = None
        self._ending: asyncio.Task[None] | None = None
        self._moved = time.monotonic()
        self._cpu_then = 0.0

    @property
    def usage(self) -> Usage:
        """What it used so far."""
        return self._family.usage

    @property
    def over(self) -> bool:
        """Whether it ended, with everything that it started."""
        return self._over

    async def run(self) -> None:
        """Run it to its end. Raises JobError if that is not a good one."""
        self._raise_killed()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._words,
                cwd=self._folder,
                env=self._family.environment(self._environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # so that it can be ended with all its children, and by us alone
            )
        except (OSError, ValueError) as error:
            text = f"{self._words[0]} cannot be run: {error}"
            raise JobError(PAYLOAD_FAILED, text, transExitCode=127, exeErrorDiag=str(error)) from error
        self._family.begin(process.pid)
        watch = asyncio.create_task(self._watch(), name="payload watch")
        reading = asyncio.create_task(self._read(process), name="payload output")
        try:
            if self._killed is not None:
                self._family.signal(signal.SIGKILL)
            code = await _wait(process)
        finally:
            watch.cancel()
            if self._ending is not None:
                self._ending.cancel()
            # what it left running must not outlive it, nor keep its output open
            await self._end_all(process)
            await asyncio.wait([reading], timeout=_DRAIN)
            reading.cancel()
            await asyncio.wait([watch, reading])
            self._over = True
            await asyncio.to_thread(self.log.close)
        self._raise_killed()
        if code:
            raise self._failure(code)

    def kill(self, text: str, code: int = KILLED, *, at_once: bool = False) -> None:
        """End it; it has failed for the reason given first. It gets SIGTERM, and SIGKILL some seconds later; `at_once` = now."""
        if self._killed is None:
            self._killed = JobError(code, text)
        if self._process is None or self._over:
            return
        if at_once:
            self._family.signal(signal.SIGKILL)
        elif self._ending is None:
            self._ending = asyncio.create_task(self._end_politely(), name="payload end")

    def _raise_killed(self) -> None:
        if self._killed is not None:
            raise self._killed

    async def _end_politely(self) -> None:
        await asyncio.to_thread(self._family.signal, signal.SIGTERM)
        await asyncio.sleep(_GRACE)
        await asyncio.to_thread(self._family.signal, signal.SIGKILL)

    async def _end_all(self, process: asyncio.subprocess.Process) -> None:
        """End what is left of it: what was started while we looked is found by the next look."""
        for _ in range(10):
            if not await asyncio.to_thread(self._family.signal, signal.SIGKILL):
                break
            await asyncio.sleep(0.02)
        await _wait(process)

    def _failure(self, code: int) -> JobError:
        lines = self.log.tail().strip().splitlines()
        last = lines[-1][-250:] if lines else ""
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        number = code if code > 0 else 128 - code
        return JobError(
            PAYLOAD_FAILED,
            f"the program ended with {what}" + (f": {last}" if last else ""),
            transExitCode=number,
            exeErrorCode=number,
            exeErrorDiag=last or what,
        )

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while block := await process.stdout.read(_BLOCK):
            self._moved = time.monotonic()
            if self.log.touches_file():
                await asyncio.to_thread(self.log.add, block)
            else:
                self.log.add(block)

    async def _watch(self) -> None:
        begin = time.monotonic()
        limits = self._limits
        pause = min(_LOOK, limits.looping or _LOOK)
        while True:
            await asyncio.sleep(pause)
            before = time.monotonic()
            resident = await asyncio.to_thread(self._family.measure)
            now = time.monotonic()
            pause = max(min(_LOOK, limits.looping or _LOOK), _REST * (now - before))
            if self.usage.cpu > self._cpu_then + _ALIVE:
                self._moved, self._cpu_then = now, self.usage.cpu
            if limits.memory_mb and resident > limits.memory_mb * _MB:
                await self._look_at_memory()
            if limits.walltime and now - begin > limits.walltime:
                self.kill(f"it ran longer than the {limits.walltime:g} s that it may", TOO_LONG)
            elif limits.looping and now - self._moved > limits.looping:
                await self._look_at_files()

    async def _look_at_memory(self) -> None:
        """What processes share counted for each of them: what they have between them is what matters."""
        used = await asyncio.to_thread(self._family.memory) // _MB
        if used > self._limits.memory_mb:
            # there may not be the time to be polite
            text = f"it used {used} MB of memory; it may use {self._limits.memory_mb} MB"
            self.kill(text, TOO_MUCH_MEMORY, at_once=True)

    async def _look_at_files(self) -> None:
        """A program that is silent may still write files."""
        quiet = time.time() - await asyncio.to_thread(_last_change, self._folder)
        if quiet < self._limits.looping:
            self._moved = time.monotonic() - max(quiet, 0.0)
        else:
            self.kill(f"nothing was seen of it for {self._limits.looping:g} s: it seems to hang", LOOPING)


def words_of(command: str, folder: Path) -> list[str]:
    """Split a command line as a shell does, and interpret it no further. Raises JobError.

    A program of the sandbox goes before one of the system.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise JobError(PAYLOAD_FAILED, f"the command line cannot be split: {error}: {command}") from error
    if not words or not words[0]:
        raise JobError(PAYLOAD_FAILED, "the command line is empty")
    inside = folder / words[0]
    if "/" not in words[0] and inside.is_file() and os.access(inside, os.X_OK):
        words[0] = str(inside)
    return words


def _last_change(folder: Path) -> float:
    """When anything in a folder was written last, on the clock of files."""
    last = 0.0
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):  # noqa: PTH118 - there may be very many
            with suppress(OSError):
                last = max(last, os.lstat(path).st_mtime)
    return last


async def _wait(process: asyncio.subprocess.Process) -> int:
    """Wait for a process itself. asyncio's `wait` would wait for its output to be closed as well, which a daemon may keep open."""
    while process.returncode is None:
        exited = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([exited], timeout=0.2)
        finally:
            exited.cancel()
    return process.returncode
