"""From `registered` to `defined`: the parameters are understood, the streams and collections are written down."""

from __future__ import annotations

from collections import defaultdict

from drayman.server.platform.errors import Refusal
from drayman.server.task.dataset_names import DatasetNameError, output_place
from drayman.server.task.desk import AGAIN, Desk, Wait, lock_if
from drayman.server.task.job_rendering import library_dataset
from drayman.server.task.parameters import ParameterError
from drayman.server.task.parents import Parent, parent_of
from drayman.server.task.plan import Stream, TaskPlan
from drayman.server.task.sandbox_store import SQL as SANDBOXES
from drayman.server.task.sandbox_store import is_name
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Connection, Row

#: The stream of a task that has no input at all.
NOTHING = Stream(number=0, name="PSEUDO", kind="pseudo_input", primary=True)
#: What the records of a pseudo input belong to.
_PSEUDO = "pseudo_dataset"
_ASK_AGAIN = ("UNAVAILABLE", "OVERLOADED")


def primary_of(plan: TaskPlan) -> Stream:
    """Return the stream that drives the splitting."""
    return plan.primary or NOTHING


def is_written_late(plan: TaskPlan) -> bool:
    """Whether the records of the primary input are numbers or windows, which need not be written before there are jobs for them."""
    return primary_of(plan).kind == "pseudo_input" and not plan.listed_files


async def refine(desk: Desk, task: Row) -> Wait:
    """Examine a task that was registered."""
    try:
        plan = await desk.plans.plan(task["task_id"], task["revision"])
        places = {
            stream.number: output_place(
                stream.datasets[0], outputs=desk.settings.task_outputs, task_id=task["task_id"], serial=0
            )
            for stream in plan.streams
            if stream.kind in ("output", "log")
        }
    except (ParameterError, DatasetNameError) as error:
        return await broken(desk, task, str(error))
    if plan.wait_parent and await parent_of(desk, task) is Parent.ACTIVE:
        return await pending(desk, task, TaskState.REGISTERED, f"waits for its parent, task {task['parent_id']}")
    assets = defaultdict(list)
    for where in places.values():
        assets[where.project].append(where.asset)
    if plan.build is not None:
        assets[desk.settings.task_outputs].append(library_dataset(task["task_id"]))
    for project, names in assets.items():
        try:
            await desk.outputs.open(project, task["owner"], names)
        except Refusal as refusal:
            if refusal.reason in _ASK_AGAIN:
                raise
            return await broken(desk, task, f"outputs cannot go to {project}: {refusal.message}")
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        await _write(desk, connection, now, plan)
        await connection.execute(SANDBOXES["used"], [name for name in plan.sandboxes if is_name(name)])
        for stream in plan.streams:
            if stream.number in places:
                where = places[stream.number]
                await desk.store.run(
                    connection,
                    "put_dataset",
                    task["task_id"],
                    stream.number,
                    stream.datasets[0],
                    stream.container,
                    where.project,
                    where.asset,
                    where.assembled,
                )
        # where a retry had come from is remembered until it is known whether there is anything to do
        old_state = None if now["state"] == TaskState.PENDING else _state(now["old_state"])
        await desk.store.move(connection, now, TaskState.DEFINED, old_state=old_state, error="", command=now["command"])
    desk.tell(task["task_id"])
    return AGAIN


async def _write(desk: Desk, connection: Connection, task: Row, plan: TaskPlan) -> None:
    task_id = task["task_id"]
    for stream in (*((NOTHING,) if plan.primary is None else ()), *plan.streams):
        await desk.store.run(connection, "put_stream", task_id, stream.number, stream.name, stream.kind, stream.primary)
        if stream.kind == "input":
            names = stream.datasets
        elif stream.kind in ("output", "log"):
            names = ()
        else:
            names = stream.datasets[:1] or (_PSEUDO,)
        for name in names:
            container = stream.container or (name if name.endswith("/") else "")
            await desk.store.run(connection, "put_dataset", task_id, stream.number, name, container, None, None, None)


async def broken(desk: Desk, task: Row, why: str) -> Wait:
    """End a task that cannot be run."""
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is not None:
            # what runs of it goes away first
            state = TaskState.ABORTING if now["live"] else TaskState.BROKEN
            await desk.store.move(connection, now, state, error=why, command="break" if now["live"] else None)
    desk.tell(task["task_id"])
    return AGAIN


async def pending(desk: Desk, task: Row, old_state: TaskState, why: str) -> Wait:
    """Let a task wait."""
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        await desk.store.pend(connection, now, old_state, why)
    desk.tell(task["task_id"])
    return desk.settings.task_pending_interval


def _state(text: str | None) -> TaskState | None:
    return None if text is None else TaskState(text)
