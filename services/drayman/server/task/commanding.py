"""How a task is begun again: a retry, with new parameters or without, and that of its children."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from drayman.server.task.acceptance import Command, judge, next_state
from drayman.server.task.parameter_values import as_whole
from drayman.server.task.parameters import merge_incremental
from drayman.server.task.task_requests import write_object
from drayman.server.task.task_states import FINAL, TaskState
from drayman.server.task.task_store import SQL, Connection, Row, TaskStore

_MOST = 2**31 - 1


def state_of(task: Row) -> TaskState:
    """Return a task's state."""
    return TaskState(task["state"])


def old_state_of(task: Row) -> TaskState | None:
    """Return the state that a task remembers."""
    return None if task["old_state"] is None else TaskState(task["old_state"])


async def begin_again(store: TaskStore, connection: Connection, task: Row, command: Command) -> TaskState:
    """Retry a locked task that accepted the command; returns what it becomes."""
    state, old_state = state_of(task), old_state_of(task)
    becomes = next_state(command, state, old_state)
    await store.run(connection, "begin_again", task["task_id"], None, None)
    await store.run(connection, "clear_start", task["task_id"])
    if becomes is TaskState.SCOUTING:
        await store.run(connection, "set_scouts", task["task_id"], 0)
        await store.run(connection, "forget_scouts", task["task_id"])
    # a task that turns out to have nothing to do goes back to where it was
    remembered = state if state in FINAL and becomes in (TaskState.TORETRY, TaskState.TOINCEXEC) else None
    await store.move(connection, task, becomes, old_state=remembered, error="", command="retry")
    return becomes


async def begin_incremental(
    store: TaskStore,
    connection: Connection,
    task: Row,
    parameters: Mapping[str, Any],
    *,
    request_id: UUID | None = None,
) -> None:
    """Run a locked task that is over again, with what new parameters say."""
    merged = await _merged(store, connection, task, parameters)
    await store.run(connection, "begin_again", task["task_id"], merged, request_id)
    await store.run(connection, "clear_start", task["task_id"])
    await store.move(connection, task, TaskState.TOINCEXEC, old_state=state_of(task), error="", command="retry")


async def change_parameters(store: TaskStore, connection: Connection, task: Row, parameters: Mapping[str, Any]) -> None:
    """Take new parameters over into a locked task that goes on."""
    merged = await _merged(store, connection, task, parameters)
    await store.run(connection, "change_parameters", task["task_id"], merged)


async def _merged(store: TaskStore, connection: Connection, task: Row, new: Mapping[str, Any]) -> str:
    row = await connection.fetchrow(SQL["parameters"], task["task_id"])
    old = json.loads(row["parameters"])
    merged = merge_incremental(old, new)
    priority = as_whole(new.get("currentPriority", new.get("priority")))
    if priority is not None and abs(priority) <= _MOST:
        await store.run(connection, "reprioritize", task["task_id"], priority)
    memory = as_whole(new.get("ramCount"))
    if memory is not None and 0 <= memory <= _MOST:
        # what inputs grew to is forgotten: less is asked for now
        await store.run(connection, "lower_memory", task["task_id"], memory)
    return write_object(merged)


async def retry_children(store: TaskStore, connection: Connection, task_id: int) -> list[int]:
    """Retry what waits for a task that is run again, and what waits for that; returns which tasks these are.

    Their inputs change with their parent's outputs, so their lists are read anew.
    """
    retried: list[int] = []
    waiting = [task_id]
    while waiting:
        for row in await connection.fetch(SQL["children"], waiting.pop()):
            child = await store.lock(connection, row["task_id"])
            if child is None or child["task_id"] in retried or child["task_id"] == task_id:
                continue
            if not judge(Command.RETRY, state_of(child), old_state_of(child)):
                continue
            await store.run(connection, "begin_again", child["task_id"], None, None)
            await store.run(connection, "clear_start", child["task_id"])
            await store.move(
                connection, child, TaskState.TOINCEXEC, old_state=state_of(child), error="", command="retry"
            )
            retried.append(child["task_id"])
            waiting.append(child["task_id"])
    return retried
