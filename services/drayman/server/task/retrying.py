"""What a retry or a reactivation does to inputs, a chunk in a transaction, before the task goes on."""

from __future__ import annotations

from drayman.server.task.desk import AGAIN, CHUNK, Desk, Wait, lock_if
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Connection, Row
from drayman.server.task.winding_down import withdraw

#: Attempts that a retry adds for inputs which had none left.
MORE = 5


async def set_back(desk: Desk, task: Row) -> Wait:
    """Carry out what the command says of inputs, whatever the state; afterwards the task has no command any more."""
    task_id = task["task_id"]
    from_the_beginning = task["command"] == "reactivate"
    stream_no = await desk.store.fetchval("primary_stream", task_id)
    if from_the_beginning and not await withdraw(desk, task):
        return AGAIN
    last = await desk.store.fetchval("last_input", task_id) if stream_no is not None else 0
    limits: tuple[int | None, ...] = ()
    if last and from_the_beginning:
        # not within the transactions: that would take a second connection while one is held
        plan = await desk.plans.plan(task_id, task["revision"])
        limits = (plan.max_attempts, plan.max_failures)
    for after in range(0, last, CHUNK):
        async with desk.store.transaction() as connection:
            if await lock_if(desk, connection, task) is None:
                return AGAIN
            await desk.store.run(connection, "lock_tally", task_id)
            if from_the_beginning:
                await desk.store.run(connection, "renew_inputs", task_id, stream_no, after, after + CHUNK, *limits)
            else:
                await desk.store.run(connection, "give_attempts", task_id, stream_no, after, after + CHUNK, MORE)
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        await desk.store.run(connection, "lock_tally", task_id)
        if from_the_beginning:
            await _begin_again(desk, connection, now, stream_no)
        await desk.store.run(connection, "clear_command", task_id)
    return AGAIN


async def _begin_again(desk: Desk, connection: Connection, task: Row, stream_no: int | None) -> None:
    """Count as if there had been no job before."""
    task_id = task["task_id"]
    await desk.store.run(connection, "begin_counts", task_id)
    await desk.store.run(connection, "set_scouts", task_id, 0)
    await desk.store.run(connection, "set_build", task_id, None)
    await desk.store.run(connection, "unuse_streams", task_id)
    await desk.store.run(connection, "forget_outputs", task_id)
    if stream_no is not None:
        unwritten = await desk.store.run(connection, "unwritten", task_id)
        await desk.store.run(connection, "recount", task_id, stream_no, unwritten or 0)


async def go_on(desk: Desk, task: Row) -> Wait:
    """From `toretry` to `ready`: the inputs are set back."""
    return await _go(desk, task, TaskState.READY)


async def read_anew(desk: Desk, task: Row) -> Wait:
    """From `toincexec` to `registered`: parameters and lists are looked at anew."""
    return await _go(desk, task, TaskState.REGISTERED)


async def _go(desk: Desk, task: Row, state: TaskState) -> Wait:
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        old_state = None if now["old_state"] is None else TaskState(now["old_state"])
        await desk.store.move(connection, now, state, old_state=old_state, command=now["command"])
    desk.tell(task["task_id"])
    return AGAIN
