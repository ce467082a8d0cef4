"""`drayman.task.v1.TaskService`, RPC by RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC
from uuid import UUID

from drayman.server.platform.calls import Call
from drayman.server.platform.errors import invalid
from drayman.server.task import task_messages as messages
from drayman.server.task.acceptance import Command
from drayman.server.task.commands import Commands, Order
from drayman.server.task.plans import Plans
from drayman.server.task.recovery import LostFiles
from drayman.server.task.submission import Submission
from drayman.server.task.task_requests import read_object
from drayman.server.task.task_store import Row, Selection, TaskStore
from drayman.server.task.task_watching import TaskWatching, not_found
from drayman.task.v1 import task_pb2
from drayman.task.v1 import task_service_pb2 as pb

_PAGE = 500
_INPUTS = 5_000
_METADATA = 100
_LARGEST_ID = 2**63 - 1
_INPUT_STATES = ("ready", "picked", "finished", "failed", "missing", "lost")


class TaskServicer:
    """Tasks. `changed` is called with the task that a call changed."""

    def __init__(
        self,
        store: TaskStore,
        plans: Plans,
        submission: Submission,
        commands: Commands,
        watching: TaskWatching,
        recovery: LostFiles,
        changed: Callable[[int], None],
    ) -> None:
        self._store = store
        self._plans = plans
        self._submission = submission
        self._commands = commands
        self._watching = watching
        self._recovery = recovery
        self._changed = changed

    async def SubmitTask(self, request: pb.SubmitTaskRequest, call: Call) -> pb.SubmitTaskResponse:
        """Take a task in."""
        parameters = read_object(request.parameters_json, "parameters_json")
        parent = _id(request.parent_task_id, "parent_task_id")
        answer = await self._submission.submit(call.caller, parameters, parent, _uuid(request.request_id))
        if answer.task_id:
            self._changed(answer.task_id)
        return pb.SubmitTaskResponse(code=answer.code, message=answer.message, task_id=answer.task_id)

    async def CommandTask(self, request: pb.CommandTaskRequest, call: Call) -> pb.CommandTaskResponse:
        """Give a task a command."""
        command = messages.COMMAND.get(request.command)
        if command is None:
            raise invalid("command", f"command {request.command}: there is no such command")
        parameters = None
        if request.new_parameters_json:
            if command is not Command.RETRY:
                raise invalid("new_parameters_json", "only a retry takes new parameters")
            parameters = read_object(request.new_parameters_json, "new_parameters_json")
        order = Order(command, parameters or None, request.retry_live, request.increase, request.sole)
        answer = await self._commands.carry_out(call.caller, _id(request.task_id, "task_id"), order)
        for task_id in answer.changed:
            self._changed(task_id)
        return pb.CommandTaskResponse(
            code=answer.code,
            message=answer.message,
            incremental=answer.incremental,
            state=task_pb2.TASK_STATE_UNSPECIFIED if answer.state is None else messages.STATE[answer.state],
        )

    async def GetTask(self, request: pb.GetTaskRequest, _call: Call) -> pb.GetTaskResponse:
        """Return a task."""
        return pb.GetTaskResponse(task=await self._shown(await self._task(request.task_id)))

    async def GetTaskParameters(
        self, request: pb.GetTaskParametersRequest, _call: Call
    ) -> pb.GetTaskParametersResponse:
        """Return the parameters of a task."""
        row = await self._store.fetchrow("parameters", _id(request.task_id, "task_id"))
        if row is None:
            raise not_found(request.task_id)
        return pb.GetTaskParametersResponse(parameters_json=row["parameters" if request.effective else "submitted"])

    async def GetTaskDetails(self, request: pb.GetTaskDetailsRequest, _call: Call) -> pb.GetTaskDetailsResponse:
        """Return what a task reads and makes."""
        task = await self._task(request.task_id)
        task_id = task["task_id"]
        by_state: dict[int, dict[str, int]] = {}
        used: dict[int, int] = {}
        for row in await self._store.fetch("count_collections", task_id):
            by_state.setdefault(row["dataset_no"], {})[row["state"]] = row["n"]
            used[row["dataset_no"]] = used.get(row["dataset_no"], 0) + row["used"]
        made = {row["stream"]: row["n"] for row in await self._store.fetch("outputs_made", task_id)}
        datasets = await self._store.fetch("datasets", task_id)
        reply = pb.GetTaskDetailsResponse(
            task=await self._shown(task), datasets=messages.datasets(datasets, task, by_state, used, made)
        )
        throttled = task["state"] == "paused"
        for row in await self._store.fetch("live_jobs", task_id):
            state = "throttled" if throttled and row["state"] == "activated" else row["state"]
            reply.live_jobs.add(state=state, count=row["n"], inputs=row["inputs"])
        if not request.without_jobs:
            primary = next((row["stream_no"] for row in datasets if row["is_primary"]), None)
            if primary is not None:
                latest = await self._store.fetch("latest_jobs", task_id, primary)
                reply.job_ids.extend(row["job_id"] for row in latest)
            reply.merge_job_ids.extend(row["job_id"] for row in await self._store.fetch("merge_jobs", task_id))
        return reply

    async def ListTasks(self, request: pb.ListTasksRequest, call: Call) -> None:
        """Stream tasks, newest first."""
        if request.limit < 0:
            raise invalid("limit", f"limit {request.limit} is negative")
        try:
            since = request.changed_since.ToDatetime(UTC) if request.HasField("changed_since") else None
        except (ValueError, OverflowError):
            raise invalid("changed_since", "changed_since is no time") from None
        selection = Selection(
            owner=request.owner or None,
            states=[messages.STATE_NAME[state] for state in request.states if state in messages.STATE_NAME] or None,
            name=request.name or None,
            task_ids=list(request.task_ids) or None,
            request_no=request.request_id or None,
            after=request.after_task_id,
            changed_since=since,
            type=request.type or None,
            parent_id=request.parent_task_id or None,
        )
        left = request.limit or _LARGEST_ID
        before: int | None = None
        while left > 0:
            rows = await self._store.tasks(selection, before=before, limit=min(left, _PAGE))
            if rows:
                await call.send(pb.ListTasksResponse(tasks=[await self._shown(row) for row in rows]))
                before = rows[-1]["task_id"]
            left -= len(rows)
            if len(rows) < _PAGE:
                return

    async def ListTaskInputs(self, request: pb.ListTaskInputsRequest, call: Call) -> None:
        """Stream the records of a task's inputs."""
        task = await self._task(request.task_id)
        unknown = [state for state in request.states if state not in _INPUT_STATES]
        if unknown:
            raise invalid("states", f"{unknown[0][:40]!r} is no state of an input: {', '.join(_INPUT_STATES)}")
        after = 0
        states = list(request.states) or None
        while rows := await self._store.fetch("inputs", task["task_id"], after, states, _INPUTS):
            await call.send(pb.ListTaskInputsResponse(inputs=map(messages.task_input, rows)))
            after = rows[-1]["input_no"]

    async def WatchTask(self, request: pb.WatchTaskRequest, call: Call) -> None:
        """Stream how a task stands."""
        interval = request.interval.seconds + request.interval.nanos / 1e9 if request.HasField("interval") else 1.0
        if interval < 0:
            raise invalid("interval", f"interval of {interval:g} s is negative")
        task_id = _id(request.task_id, "task_id")
        async with aclosing(self._watching.watch(task_id, interval, forever=request.forever)) as views:
            async for view in views:
                await call.send(pb.WatchTaskResponse(task=view))

    async def ListJobMetadata(self, request: pb.ListJobMetadataRequest, call: Call) -> None:
        """Stream what finished jobs left in `userJobMetadata.json`."""
        async for rows in self._metadata(_id(request.task_id, "task_id")):
            found = [pb.JobMetadata(job_id=row["job_id"], metadata_json=row["metadata"]) for row in rows]
            await call.send(pb.ListJobMetadataResponse(metadata=found))

    async def RecoverLostFiles(self, request: pb.RecoverLostFilesRequest, call: Call) -> pb.RecoverLostFilesResponse:
        """Run again what was lost."""
        task_id = _id(request.task_id, "task_id")
        found = await self._recovery.recover(call.caller, task_id, dry_run=request.dry_run)
        return pb.RecoverLostFilesResponse(
            accepted=found.accepted, message=found.message, lost=found.lost, inputs=found.inputs
        )

    async def _metadata(self, task_id: int) -> AsyncIterator[list[Row]]:
        after = 0
        # a job's metadata may have a megabyte: a few at a time
        while rows := await self._store.fetch("job_metadata", task_id, after, _METADATA):
            for row in rows:
                yield [row]
            after = rows[-1]["job_id"]

    async def _task(self, task_id: int) -> Row:
        row = await self._store.task(_id(task_id, "task_id"))
        if row is None:
            raise not_found(task_id)
        return row

    async def _shown(self, row: Row) -> task_pb2.Task:
        return messages.task(row, await self._plans.appearance(row["task_id"], row["revision"]))


def _id(value: int, field: str) -> int:
    if value < 0:
        raise invalid(field, f"{field} {value} is negative")
    return value


def _uuid(text: str) -> UUID | None:
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise invalid("request_id", f"request_id {text[:60]!r} is not a UUID") from None
