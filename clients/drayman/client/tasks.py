"""The asyncio client of tasks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

import grpc.aio

from drayman.client.calls import Client
from drayman.client.errors import OverloadedError, UnavailableError
from drayman.client.files import duration
from drayman.client.patience import Patience
from drayman.client.task_values import (
    CommandAnswer,
    Recovery,
    Submission,
    Task,
    TaskDetails,
    TaskInput,
    dataset_of,
    input_of,
    task_of,
    task_state_name,
    task_state_value,
)
from drayman.task.v1 import task_service_pb2 as pb
from drayman.task.v1 import task_service_pb2_grpc

_COMMANDS = {name.removeprefix("TASK_COMMAND_").lower(): number for name, number in pb.TaskCommand.items() if number}


class TaskClient(Client):
    """Submits tasks, tells what to do with them and how they stand. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._tasks = task_service_pb2_grpc.TaskServiceStub(channel)

    async def submit(
        self, parameters: Mapping[str, Any], *, parent: int = 0, request_id: str | None = None
    ) -> Submission:
        """Submit a task: `parameters` is PanDA's `taskParams`. With a `request_id` (a UUID) the same again gets the same answer."""
        request = pb.SubmitTaskRequest(
            parameters_json=json.dumps(parameters), parent_task_id=parent, request_id=request_id or str(uuid4())
        )
        reply = await self._call(self._tasks.SubmitTask, request)
        return Submission(reply.code, reply.message, reply.task_id)

    async def command(
        self,
        task_id: int,
        command: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        retry_live: bool = False,
        increase: int = 0,
        sole: bool = False,
    ) -> CommandAnswer:
        """Give a task a command: kill, finish, finish_soft, pause, resume, retry, reload_input, reactivate, increase_attempts, avalanche.

        `parameters` are new ones for a retry, `retry_live` lets it try again what failed in a task that runs, `sole` leaves the children
        alone; `increase` is the number of attempts for increase_attempts. Raises ValueError for a command that there is not.
        """
        value = _COMMANDS.get(command)
        if value is None:
            raise ValueError(f"no command {command!r}: there are {', '.join(_COMMANDS)}")
        request = pb.CommandTaskRequest(
            task_id=task_id,
            command=cast("pb.TaskCommand", value),
            new_parameters_json=json.dumps(parameters) if parameters else "",
            retry_live=retry_live,
            increase=increase,
            sole=sole,
        )
        reply = await self._call(self._tasks.CommandTask, request)
        return CommandAnswer(reply.code, reply.message, reply.incremental, task_state_name(reply.state))

    async def get(self, task_id: int) -> Task:
        """Return a task."""
        return task_of((await self._call(self._tasks.GetTask, pb.GetTaskRequest(task_id=task_id))).task)

    async def parameters(self, task_id: int, *, effective: bool = False) -> dict[str, Any]:
        """Return the parameters as first submitted or, with `effective`, as they are now."""
        request = pb.GetTaskParametersRequest(task_id=task_id, effective=effective)
        found: dict[str, Any] = json.loads((await self._call(self._tasks.GetTaskParameters, request)).parameters_json)
        return found

    async def details(self, task_id: int, *, jobs: bool = True) -> TaskDetails:
        """Return what a task reads and makes and its latest jobs; without `jobs` their ids, which may be many, are left out."""
        request = pb.GetTaskDetailsRequest(task_id=task_id, without_jobs=not jobs)
        reply = await self._call(self._tasks.GetTaskDetails, request)
        return TaskDetails(
            task_of(reply.task),
            [dataset_of(dataset) for dataset in reply.datasets],
            {entry.state: entry.count for entry in reply.live_jobs},
            list(reply.job_ids),
            list(reply.merge_job_ids),
        )

    async def tasks(
        self,
        *,
        owner: str = "",
        states: Sequence[str] = (),
        name: str = "",
        task_ids: Sequence[int] = (),
        request_id: int = 0,
        after: int = 0,
        changed_since: datetime | None = None,
        type: str = "",  # noqa: A002 - the contract's word
        limit: int = 0,
        parent: int = 0,
    ) -> AsyncIterator[Task]:
        """Read tasks, newest first: those that have all that is asked for. `*` in `name` stands for anything; `limit` 0 = all."""
        request = pb.ListTasksRequest(
            owner=owner,
            states=[task_state_value(state) for state in states],
            name=name,
            task_ids=task_ids,
            request_id=request_id,
            after_task_id=after,
            type=type,
            limit=limit,
            parent_task_id=parent,
        )
        if changed_since is not None:
            request.changed_since.FromDatetime(changed_since)
        async with self._stream(self._tasks.ListTasks, request) as replies:
            async for reply in replies:
                for task in reply.tasks:
                    yield task_of(task)

    async def inputs(self, task_id: int, states: Sequence[str] = ()) -> AsyncIterator[TaskInput]:
        """Read the records of a task's inputs in their order: all, or those in some states."""
        request = pb.ListTaskInputsRequest(task_id=task_id, states=states)
        async with self._stream(self._tasks.ListTaskInputs, request) as replies:
            async for reply in replies:
                for record in reply.inputs:
                    yield input_of(record)

    async def watch(self, task_id: int, *, interval: float = 1.0, forever: bool = False) -> AsyncGenerator[Task, None]:
        """Yield a task now and whenever it changed, at most once in `interval` seconds, until it is final.

        It survives the loss of the service for as long as the client is patient. Use it in `contextlib.aclosing` if you may leave early.
        """
        request = pb.WatchTaskRequest(task_id=task_id, interval=duration(interval), forever=forever)
        patience = Patience(self._patience)
        seen: Task | None = None
        while True:
            try:
                async with self._stream(self._tasks.WatchTask, request) as replies:
                    async for reply in replies:
                        patience.renew()
                        task = task_of(reply.task)
                        if task != seen:
                            seen = task
                            yield task
                if seen is not None and seen.over and not forever:
                    return
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)

    async def metadata(self, task_id: int) -> AsyncIterator[tuple[int, Any]]:
        """Read what finished jobs left in `userJobMetadata.json`: job id and JSON value."""
        async with self._stream(self._tasks.ListJobMetadata, pb.ListJobMetadataRequest(task_id=task_id)) as replies:
            async for reply in replies:
                for entry in reply.metadata:
                    yield entry.job_id, json.loads(entry.metadata_json)

    async def recover(self, task_id: int, *, dry_run: bool = False) -> Recovery:
        """Compare a task's outputs with the registry and run again what is missing; `dry_run` only tells."""
        request = pb.RecoverLostFilesRequest(task_id=task_id, dry_run=dry_run)
        reply = await self._call(self._tasks.RecoverLostFiles, request)
        return Recovery(reply.accepted, reply.message, list(reply.lost), reply.inputs)
