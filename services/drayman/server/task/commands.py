"""Commands (reference §3.1, §5.3, §5.5): judged and carried out in one transaction. What they leave to do is the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drayman.server.platform.settings import Settings
from drayman.server.platform.trust import Caller
from drayman.server.task.acceptance import Command, judge, next_state, remembered
from drayman.server.task.commanding import (
    begin_again,
    begin_incremental,
    change_parameters,
    old_state_of,
    retry_children,
    state_of,
)
from drayman.server.task.retrying import MORE
from drayman.server.task.submission import is_privileged
from drayman.server.task.task_states import FINAL, TaskState
from drayman.server.task.task_store import SQL, Connection, Row, TaskStore

ACCEPTED, UNKNOWN, NOT_ALLOWED, NOT_NOW = 0, 2, 3, 4
#: INCREASE_ATTEMPTS has numbers of its own.
INCREASE_UNKNOWN, INCREASE_NOT_NOW, INCREASE_WRONG = 1, 2, 4
#: As has a retry with new parameters.
INCREMENTAL_UNKNOWN = 1
_LARGEST_INCREASE = 1_000_000
_USER_LABELS = ("user", "panda")


@dataclass(frozen=True, slots=True)
class Order:
    """A command as it arrives."""

    command: Command
    parameters: Mapping[str, Any] | None = None  # RETRY
    retry_live: bool = False
    increase: int = 0
    sole: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command, see CommandTaskResponse. `changed` are the tasks to tell about."""

    code: int
    message: str
    incremental: bool = False
    state: TaskState | None = None
    changed: tuple[int, ...] = ()


class Commands:
    """Gives commands to tasks."""

    def __init__(self, store: TaskStore, settings: Settings) -> None:
        self._store = store
        self._attempts = settings.task_attempt_limit

    async def carry_out(self, caller: Caller, task_id: int, order: Order) -> Answer:
        """Judge a command and carry it out."""
        async with self._store.transaction() as connection:
            task = await self._store.lock(connection, task_id)
            refusal = _refuse(caller, task_id, task, order)
            if refusal is not None:
                return refusal
            assert task is not None
            return await self._judge(connection, task, order)

    async def _judge(self, connection: Connection, task: Row, order: Order) -> Answer:
        command, state, old_state = order.command, state_of(task), old_state_of(task)
        if command is Command.INCREASE:
            return await self._increase(connection, task, order.increase)
        live = order.retry_live and task["label"] in _USER_LABELS
        if command is Command.RETRY and live and judge(Command.RETRY_LIVE, state, old_state):
            return await self._retry_live(connection, task, order)
        if command is Command.RETRY and order.parameters:
            command = Command.INCEXEC
        if not judge(command, state, old_state):
            return Answer(
                NOT_NOW, f"task {task['task_id']} is {state}: {_words(order.command)} is not possible", state=state
            )
        match command:
            case Command.RETRY | Command.INCEXEC | Command.RELOAD_INPUT:
                return await self._begin_again(connection, task, command, order)
            case Command.PAUSE:
                await self._store.move(
                    connection, task, TaskState.PAUSED, old_state=remembered(state, old_state), command=task["command"]
                )
            case Command.RESUME:
                becomes = next_state(command, state, old_state)
                await self._store.move(connection, task, becomes, command=task["command"])
            case Command.REACTIVATE:
                becomes = next_state(command, state, old_state)
                await self._store.run(connection, "clear_start", task["task_id"])
                await self._store.move(connection, task, becomes, error="", command="reactivate")
            case Command.FINISH | Command.FINISH_SOFT:
                await self._store.move(connection, task, TaskState.FINISHING, error="", command=command.value)
            case Command.KILL:
                await self._store.move(connection, task, TaskState.ABORTING, error="")
            case _:
                becomes = next_state(command, state, old_state)
                await self._store.move(connection, task, becomes, command=task["command"])
        return await self._accepted(connection, task, order.command)

    async def _begin_again(self, connection: Connection, task: Row, command: Command, order: Order) -> Answer:
        task_id = task["task_id"]
        if task["attempt"] >= self._attempts:
            why = f"the task was begun {task['attempt']} times, which is as often as is allowed"
            await self._store.move(connection, task, TaskState.EXHAUSTED, old_state=old_state_of(task), error=why)
            return Answer(NOT_NOW, f"task {task_id}: {why}", state=TaskState.EXHAUSTED, changed=(task_id,))
        if command is Command.RETRY:
            await begin_again(self._store, connection, task, command)
        else:
            await begin_incremental(self._store, connection, task, order.parameters or {})
        children = [] if order.sole else await retry_children(self._store, connection, task_id)
        return await self._accepted(
            connection, task, order.command, incremental=bool(order.parameters), children=tuple(children)
        )

    async def _retry_live(self, connection: Connection, task: Row, order: Order) -> Answer:
        """Try again what was given up in a task that goes on."""
        if order.parameters:
            await change_parameters(self._store, connection, task, order.parameters)
        stream_no = await self._store.run(connection, "primary_stream", task["task_id"])
        if stream_no is not None:
            await self._store.run(connection, "lock_tally", task["task_id"])
            last = await self._store.run(connection, "last_input", task["task_id"])
            await self._store.run(connection, "give_attempts", task["task_id"], stream_no, 0, last, MORE)
        await self._store.run(connection, "touch", task["task_id"], None)
        await self._store.run(connection, "attend", [task["task_id"]])
        return await self._accepted(connection, task, Command.RETRY_LIVE, incremental=bool(order.parameters))

    async def _increase(self, connection: Connection, task: Row, increase: int) -> Answer:
        task_id, state = task["task_id"], state_of(task)
        if not judge(Command.INCREASE, state, old_state_of(task)):
            return Answer(
                INCREASE_NOT_NOW,
                f"task {task_id} is {state}: attempts can be added while it runs or is ready",
                state=state,
            )
        await self._store.run(connection, "lock_tally", task_id)
        stream_no = await self._store.run(connection, "primary_stream", task_id)
        unwritten = await self._store.run(connection, "unwritten", task_id) or 0
        row = await connection.fetchrow(SQL["raise_attempts"], task_id, stream_no, increase)
        await self._store.run(connection, "raise_unwritten", task_id, increase)
        changed, reactivated = row["n"] + unwritten, row["reactivated"]
        message = f"increased attemptNr for {changed} inputs ({reactivated} reactivated)"
        return Answer(ACCEPTED, message, state=state, changed=(task_id,))

    async def _accepted(
        self,
        connection: Connection,
        task: Row,
        command: Command,
        *,
        incremental: bool = False,
        children: tuple[int, ...] = (),
    ) -> Answer:
        task_id = task["task_id"]
        state = TaskState(await self._store.run(connection, "state", task_id))
        if state in FINAL:
            children = (*children, *[row["task_id"] for row in await connection.fetch(SQL["children"], task_id)])
        message = f"command {_words(command)} is registered: task {task_id} is {state}"
        return Answer(ACCEPTED, message, incremental, state, (task_id, *children))


def _refuse(caller: Caller, task_id: int, task: Row | None, order: Order) -> Answer | None:
    """Say why somebody may not give a task a command: whatever its state, which is none of a stranger's business."""
    privileged = is_privileged(caller)
    mine = task is not None and task["owner"] == caller.username
    not_allowed = Answer(
        NOT_ALLOWED, f"task {task_id} belongs to somebody else: {_words(order.command)} needs the production role"
    )
    if order.command is Command.INCREASE:
        if task is not None and not mine and not privileged:
            return not_allowed
        if not 0 <= order.increase <= _LARGEST_INCREASE:
            return Answer(INCREASE_WRONG, f"increase {order.increase}: expected 0 to {_LARGEST_INCREASE}")
        return Answer(INCREASE_UNKNOWN, f"task {task_id} not found") if task is None else None
    if task is None:
        incremental = order.command is Command.RETRY and bool(order.parameters)
        return Answer(INCREMENTAL_UNKNOWN if incremental else UNKNOWN, f"task {task_id} not found")
    return None if mine or privileged else not_allowed


def _words(command: Command) -> str:
    return command.value.replace("_", " ")
