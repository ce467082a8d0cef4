"""Jobs for pilots that a site writes itself: take one, say how it is doing. For programs without asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import secrets
import socket
import threading
from base64 import b64encode
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from drayman.client.job_values import JobAnswer, JobDescription, JobUpdate, MadeFile
from drayman.client.pilots import PilotClient
from drayman.worker.machine import own_platform

_Result = TypeVar("_Result")

#: What a pilot is told (reference §6.2).
_SUCCEEDED, _NO_JOB, _FAILED = 0, 20, 30
_RESULTS = {
    "taken": "succeeded",
    "state_kept": "succeeded",
    "bad_attempt": "badattemptnr",
    "already_done": "alreadydone",
    "wrong_worker": "wrongworker",
    "unknown": "unknown",
}


#: A secret with such a key is a file in the job's folder, in base64 (reference §8.1).
_FILE_SECRET = "___file___:"  # noqa: S105 - the name of a key


class PilotJob(dict[str, Any]):
    """A job by PanDA's names: `job["PandaID"]` or `job.PandaID`; `job.description` is all that the service said."""

    description: JobDescription

    def __init__(self, description: JobDescription) -> None:
        super().__init__(
            StatusCode=_SUCCEEDED,
            PandaID=description.job_id,
            attemptNr=description.attempt,
            taskID=description.task_id,
            jediTaskID=description.task_id,
            jobName=description.name,
            prodSourceLabel=description.label,
            prodUserID=description.owner,
            transformation=description.program,
            jobPars=description.parameters,
            jobParameters=description.parameters,
            inFiles=",".join(file.name for file in description.inputs),
            scopeIn=",".join(file.scope for file in description.inputs),
            fsize=",".join(str(file.size) for file in description.inputs),
            checksum=",".join(file.checksum for file in description.inputs),
            GUID=",".join(file.guid for file in description.inputs),
            outFiles=",".join(output.name for output in description.outputs),
            destinationDblock=",".join(output.dataset for output in description.outputs),
            logFile=next((output.name for output in description.outputs if output.type == "log"), ""),
            coreCount=description.cores,
            minRamCount=description.memory_mb,
            maxWalltime=description.walltime_seconds,
            debug=description.debug,
            secrets=dict(description.environment)
            | {_FILE_SECRET + name: b64encode(content).decode() for name, content in description.secret_files.items()},
            container_name=description.container,
            heartbeatSeconds=description.lease,
        )
        self.description = description

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a job has no {name}: it has {', '.join(self)}") from None

    def __repr__(self) -> str:
        """Show all but the secrets."""
        shown = {name: value for name, value in self.items() if name != "secrets"}
        return f"PilotJob({shown!r})"


class UpdateReply(dict[str, Any]):
    """What became of an update (reference §6.2), by key or attribute.

    `StatusCode` 0 = taken, 30 = not; `command` is `NULL`, `tobekilled`, `debug` or both, parted by a comma; `result` is `succeeded`,
    `badattemptnr`, `alreadydone`, `wrongworker` or `unknown`; `jobStatus` is where the job stands.
    """

    def __init__(self, answer: JobAnswer) -> None:
        orders = [
            name for name, given in (("tobekilled", answer.stop), ("debug", answer.debug and not answer.stop)) if given
        ]
        if answer.kill and answer.debug:
            orders = ["tobekilled", "debug"]
        result = _RESULTS.get(answer.status, answer.status)
        super().__init__(
            StatusCode=_SUCCEEDED if result == "succeeded" else _FAILED,
            command=",".join(orders) or "NULL",
            result=result,
            jobStatus=answer.state,
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a reply has no {name}: it has {', '.join(self)}") from None


class JobClient:
    """Takes jobs and reports them, as one worker. Use it in `with`, or call `close`.

    `url` None = `DRAYMAN_URL`, `token` None = `DRAYMAN_TOKEN`, else the token library. `worker_id` names the worker (PanDA's batch id); it
    is made up unless given, and has to be unique. Methods raise DraymanError, and RuntimeError after `close`; they may be called from
    several threads.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, worker_id: str | None = None) -> None:
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="job client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_open(url, token))
        except BaseException:
            self._closed = True
            self._stop()
            raise

    def next_job(
        self,
        *,
        site: str = "",
        timeout: float | None = None,
        cores: int = 1,
        memory: int = 0,
        disk: int = 0,
        walltime: int = 0,
        platform: str = "",
        label: str = "",
        task_id: int = 0,
        node: str | None = None,
        software: Sequence[str] = (),
    ) -> PilotJob | None:
        """Wait for a job that fits what is offered, and take it; None when `timeout` seconds passed (None = wait for ever, 0 = do not).

        `memory` and `disk` in MB, `walltime` in seconds; 0 = no limit. `label` and `task_id` restrict what is taken. `platform` empty =
        this machine's. It survives the loss of the service for some minutes.
        """
        jobs = self._run(
            self._client.next_jobs(
                worker_id=self.worker_id,
                site=site,
                node=socket.gethostname() if node is None else node,
                cores=cores,
                memory_mb=memory,
                disk_mb=disk,
                walltime_seconds=walltime,
                platform=platform or own_platform(),
                label=label,
                task_id=task_id,
                timeout=timeout,
                software=software,
            )
        )
        return PilotJob(jobs[0]) if jobs else None

    def update(
        self,
        PandaID: int,  # noqa: N803 - the contract's name
        state: str = "",
        *,
        attemptNr: int,  # noqa: N803 - the contract's name
        metadata: str = "",
        stdout: str = "",
        outputs: Sequence[MadeFile] = (),
        **fields: Any,
    ) -> UpdateReply:
        """Say how a job is doing; the same state again is a heartbeat. When it returns, what was taken is on disk.

        `state` is `starting`, `running`, `holding`, `transferring`, `finished` or `failed`; empty = a heartbeat. `metadata` is what the job
        left in `userJobMetadata.json`, `stdout` the tail of its output in debug mode, `outputs` what it made and put into the registry.
        `fields` are errors and measurements by PanDA's names: `pilotErrorCode`, `exeErrorDiag`, `transExitCode`, `maxRSS`, ...

        Raises ValueError for a state that there is not, and TypeError for fields that are no JSON.
        """
        update = JobUpdate(
            int(PandaID), int(attemptNr), state, fields, metadata=metadata, output_tail=stdout, outputs=outputs
        )
        return UpdateReply(self._run(self._client.update(self.worker_id, [update]))[0])

    def close(self) -> None:
        """Close the connection; calls that wait end with RuntimeError. Says nothing about jobs: their leases run."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        finally:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        with self._closing:
            if self._closed:
                work.close()
                raise RuntimeError("the job client is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the job client was closed") from None
        except BaseException:
            future.cancel()  # Ctrl-C, while it runs
            raise

    async def _end(self) -> None:
        us = asyncio.current_task()
        calls = [task for task in asyncio.all_tasks() if task is not us]
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
        await self._client.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _open(url: str | None, token: str | None) -> PilotClient:
    return PilotClient(url, token)
