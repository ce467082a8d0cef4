"""One job, from its description to its last report."""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drayman.client.errors import DraymanError, InvalidRequestError
from drayman.client.job_values import JobAnswer, JobDescription, JobUpdate, MadeFile
from drayman.client.sandboxes import SandboxClient
from drayman.worker.job_environment import environment_of
from drayman.worker.job_error import DISK_FAILED, KILLED, SANDBOX_FAILED, TERMINATED, JobError
from drayman.worker.job_metadata import MetadataError, read_metadata
from drayman.worker.merging import merge
from drayman.worker.payload import LOG_BYTES, LOOPING_SECONDS, Limits, Payload, words_of
from drayman.worker.persistence import persist
from drayman.worker.sandbox_unpacking import unpack
from drayman.worker.stage_in import StageIn, fetch
from drayman.worker.stage_out import StageOut

log = logging.getLogger(__name__)

_LOG = "payload.log"
_PILOT_LOG = "pilot.log"
#: Seconds between two tails of a job in debug mode.
_TAIL_EVERY = 3.0
_NOT_OURS = frozenset({"bad_attempt", "already_done", "wrong_worker", "unknown"})

Report = Callable[[JobUpdate], Awaitable[JobAnswer]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a job is run with. `report` sends an update and does not give up before its answer is there.

    `container` is a command that runs another one in a container: `{image}` and `{folder}` in it. `looping`: seconds without a sign of life
    after which a program is taken to hang, 0 = never.
    """

    sandboxes: SandboxClient
    stage_in: StageIn
    stage_out: StageOut
    report: Report
    scratch: Path
    keep: bool = False
    container: str = ""
    looping: float = LOOPING_SECONDS


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended: `finished`, `failed`, `returned` (it had not begun), or `lost` (it is not ours any more); with a text."""

    job: JobDescription
    state: str
    text: str
    seconds: float


class JobRun:
    """A job that a pilot runs."""

    def __init__(self, job: JobDescription, tools: Tools) -> None:
        self.job = job
        self._tools = tools
        self._payload: Payload | None = None
        self._stopped: JobError | None = None
        self._lost = ""
        self._returning = False
        self._begun = False
        self._debug = asyncio.Event()
        self._state = ""
        self._work: asyncio.Task[list[MadeFile]] | None = None
        self._lines: list[str] = []
        if job.debug:
            self._debug.set()

    def obey(self, answer: JobAnswer) -> None:
        """Take an order, or what became of an update."""
        if answer.debug:
            self._debug.set()
        else:
            self._debug.clear()
        if answer.status in _NOT_OURS:
            self._lost = self._lost or answer.status
            self.stop(KILLED, f"the job is not this worker's any more ({answer.status})")
        elif answer.kill:
            self.stop(KILLED, "it was killed by an order")

    def stop(self, code: int = TERMINATED, text: str = "its worker was told to stop", *, at_once: bool = False) -> None:
        """End it: it has failed for the reason given first. Its program gets time to end, unless `at_once`."""
        if self._stopped is None:
            self._stopped = JobError(code, text)
        elif not at_once:
            return
        if self._payload is not None and not self._payload.over:
            self._payload.kill(text, code, at_once=at_once)
        elif self._work is not None:
            self._work.cancel()

    def give_back(self) -> None:
        """Give it back, if its program has not begun: somebody else will run it as if it had never been here."""
        if not self._begun and self._stopped is None:
            self._returning = True
            self.stop()

    def heartbeat(self) -> JobUpdate:
        """Say how it is doing."""
        return JobUpdate(self.job.job_id, self.job.attempt, self._state, self._measurements(), output_tail=self._tail())

    async def run(self) -> JobEnd:
        """Run it, and report it until it is over. Raises DraymanError if the service cannot be told, OSError if the scratch fails.

        In that case it was given back.
        """
        begin = time.monotonic()
        try:
            base = Path(tempfile.mkdtemp(prefix=f"job-{self.job.job_id}-", dir=self._tools.scratch))
        except OSError:
            await self._tools.report(JobUpdate(self.job.job_id, self.job.attempt, "activated"))
            raise
        tails = asyncio.create_task(self._send_tails(), name="tails")
        try:
            end = await self._run(base)
        finally:
            tails.cancel()
            if not self._tools.keep:
                await asyncio.to_thread(shutil.rmtree, base, ignore_errors=True)
        return JobEnd(self.job, *end, time.monotonic() - begin)

    async def _run(self, base: Path) -> tuple[str, str]:
        folder = base / "work"
        made: list[MadeFile] = []
        problem: JobError | None = None
        try:
            folder.mkdir()
            await self._say("starting")
            self._work = asyncio.create_task(self._do(folder, base), name=f"job {self.job.job_id}")
            made = await self._outcome(self._work)
        except JobError as error:
            problem = error
        except OSError as error:
            problem = JobError(DISK_FAILED, f"the worker's disk: {error}")
        if self._lost:
            return "lost", f"the job is not this worker's any more ({self._lost})"
        if self._returning:
            return await self._return()
        if problem is not None:
            made += await self._keep_logs(base, problem)
            return await self._end("failed", problem.fields, made, "")
        try:
            metadata = await asyncio.to_thread(read_metadata, folder)
        except MetadataError as error:
            self._note(str(error))
            metadata = ""
        made += await self._keep_logs(base, None)
        return await self._end("finished", {"transExitCode": 0}, made, metadata)

    async def _outcome(self, work: asyncio.Task[list[MadeFile]]) -> list[MadeFile]:
        """Wait for what comes of the work. Raises JobError, OSError, and DraymanError if the service cannot be told."""
        try:
            return await work
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if self._stopped is None or (us is not None and us.cancelling()):
                raise
            raise self._stopped from None
        except (JobError, OSError, DraymanError):
            raise
        except Exception as error:
            # whatever a job does, the pilot goes on
            log.exception("job %d", self.job.job_id)
            raise JobError(SANDBOX_FAILED, f"the pilot failed: {type(error).__name__}: {error}") from error

    async def _do(self, folder: Path, base: Path) -> list[MadeFile]:
        """Prepare the folder, run the program, and store what it made."""
        job, tools = self.job, self._tools
        await self._prepare(folder, base)
        try:
            await tools.stage_in.bring(job.inputs, folder)
        except* JobError as errors:
            raise _first(errors) from None
        merging = job.kind == "merge" and not job.program
        words = [] if merging else await self._words(folder)
        self._begun = True
        await self._say("running")
        if merging:
            await asyncio.to_thread(merge, job.inputs, job.outputs, folder)
        else:
            await self._run_program(words, folder, base)
        await self._say("transferring")
        return await tools.stage_out.outputs(job, folder, base)

    async def _run_program(self, words: list[str], folder: Path, base: Path) -> None:
        job = self.job
        limits = Limits(
            walltime=job.walltime_seconds,
            memory_mb=job.memory_mb,
            log_bytes=job.log_limit or LOG_BYTES,
            looping=0.0 if job.no_looping_check else self._tools.looping,
        )
        self._note(f"command: {shlex.join(words)}")
        self._payload = Payload(words, folder, environment_of(job, folder), limits, base / _LOG)
        try:
            await self._payload.run()
        finally:
            if self._payload.log.problem:
                self._note(f"its log could not be written: {self._payload.log.problem}")

    async def _prepare(self, folder: Path, base: Path) -> None:
        for number, name in enumerate(self.job.sandboxes):
            archive = base / f"sandbox-{number}"
            try:
                await persist(lambda name=name, archive=archive: self._tools.sandboxes.get(name, archive))  # type: ignore[misc]
            except DraymanError as error:
                raise JobError(SANDBOX_FAILED, f"sandbox {name}: {error}") from error
            await asyncio.to_thread(unpack, archive, folder, name)
            archive.unlink()
        for name, content in self.job.secret_files.items():
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                raise JobError(SANDBOX_FAILED, f"{name!r} names no file in the job's folder")
            _write_private(folder / name, content)

    async def _words(self, folder: Path) -> list[str]:
        """Return what to run: the job's command line, in a container if it asks for one. Raises JobError."""
        words = words_of(f"{await self._program(folder)} {self.job.parameters}", folder)
        if not self.job.container:
            return words
        if not self._tools.container:
            text = f"the job asks for the container {self.job.container}, and this pilot has no --container command"
            raise JobError(SANDBOX_FAILED, text)
        outer = shlex.split(self._tools.container)
        return [word.replace("{image}", self.job.container).replace("{folder}", str(folder)) for word in outer] + words

    async def _program(self, folder: Path) -> str:
        """Return what to run: a program's name, or the file that a URL was fetched into."""
        program = self.job.program
        if not program.lower().startswith(("http://", "https://")):
            return program
        try:
            target = folder / (Path(urlsplit(program).path).name or "program")
            await fetch(program, target)
            target.chmod(target.stat().st_mode | stat.S_IXUSR)
        except (OSError, ValueError, HTTPException) as error:
            raise JobError(SANDBOX_FAILED, f"the program {program} cannot be fetched: {error}") from error
        return shlex.quote(f"./{target.name}")

    # --- reports -----------------------------------------------------------------------------------------------------

    async def _keep_logs(self, base: Path, problem: JobError | None) -> list[MadeFile]:
        if problem is not None:
            self._note(f"failed: {problem}")
        try:
            (base / _PILOT_LOG).write_text("".join(f"{line}\n" for line in self._lines), errors="backslashreplace")
            return await self._tools.stage_out.logs(self.job, [base / _LOG, base / _PILOT_LOG], base)
        except (JobError, OSError) as error:
            log.warning("job %d: its log is not kept: %s", self.job.job_id, error)
            return []  # a job does not fail for its log

    async def _return(self) -> tuple[str, str]:
        answer = await self._tools.report(JobUpdate(self.job.job_id, self.job.attempt, "activated"))
        if answer.status != "taken":
            return "lost", f"the job is not this worker's any more ({answer.status})"
        return "returned", "it had not begun"

    async def _end(self, state: str, fields: Mapping[str, Any], made: list[MadeFile], metadata: str) -> tuple[str, str]:
        said = {**self._measurements(), **fields}
        job = self.job
        update = JobUpdate(
            job.job_id, job.attempt, state, said, metadata=metadata, output_tail=self._tail(), outputs=made
        )
        try:
            answer = await self._tools.report(update)
        except InvalidRequestError as error:
            # better without what it does not take than not at all
            log.warning("job %d: %s", job.job_id, error)
            answer = await self._tools.report(JobUpdate(job.job_id, job.attempt, state, fields, outputs=made))
        if answer.status in _NOT_OURS:
            return "lost", f"the last report was not taken ({answer.status})"
        if answer.state and answer.state != state:
            return answer.state, str(fields.get("pilotErrorDiag", ""))
        return state, str(fields.get("pilotErrorDiag", ""))

    async def _say(self, state: str) -> None:
        """Report a state. Raises JobError if it is to be stopped."""
        if self._stopped is not None:
            raise self._stopped
        self._state = state
        self.obey(await self._tools.report(self.heartbeat()))
        if self._stopped is not None:
            raise self._stopped

    async def _send_tails(self) -> None:
        """While the job is in debug mode, its output is sent more often than it has to be heard of."""
        sent = ""
        while True:
            await self._debug.wait()
            if (tail := self._tail()) != sent:
                with suppress(DraymanError):
                    self.obey(await self._tools.report(self.heartbeat()))
                    sent = tail
            await asyncio.sleep(_TAIL_EVERY)

    def _tail(self) -> str:
        return self._payload.log.tail() if self._payload is not None and self._debug.is_set() else ""

    def _measurements(self) -> dict[str, Any]:
        if self._payload is None:
            return {}
        usage = self._payload.usage
        return {
            "cpuConsumptionTime": round(usage.cpu),
            "cpuConsumptionUnit": "s",
            "maxRSS": usage.memory // 1024,
        }

    def _note(self, line: str) -> None:
        self._lines.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}")


def _first(errors: BaseExceptionGroup[JobError]) -> JobError:
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group has members")


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(0o600, exist_ok=False)
    path.write_bytes(content)
