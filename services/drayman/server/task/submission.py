"""New tasks: limits, tasks of the same name, parents (reference §3.1, §4.5, §4.6). One transaction stores the task or finds the old one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from drayman.server.platform.settings import Settings
from drayman.server.platform.trust import Caller
from drayman.server.task.acceptance import Command, judge
from drayman.server.task.commanding import begin_incremental
from drayman.server.task.parameters import (
    ParameterError,
    adopt,
    counts_against_limit,
    duplicate_key,
    missing_at_the_door,
)
from drayman.server.task.task_requests import write_object
from drayman.server.task.task_states import COUNTED, TaskState
from drayman.server.task.task_store import SQL, Connection, TaskStore

NEW, QUEUED, ACTIVE, AGAIN, WRONG, TOO_MANY, NO_PARENT = 0, 1, 2, 3, 4, 10, 11
_PRODUCTION = "production"
_LARGEST_PRIORITY = 2**31 - 1


def is_privileged(caller: Caller) -> bool:
    """Whether somebody has the production role."""
    return caller.admin or _PRODUCTION in caller.roles


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission, see SubmitTaskResponse. `task_id` 0 = none."""

    code: int
    message: str
    task_id: int = 0


class Submission:
    """Takes tasks in."""

    def __init__(self, store: TaskStore, settings: Settings) -> None:
        self._store = store
        self._limit = settings.task_limit

    async def submit(
        self, caller: Caller, parameters: Mapping[str, Any], parent_id: int, request_id: UUID | None
    ) -> Submitted:
        """Store a task, or say why not. The caller kicks the engine."""
        why = missing_at_the_door(parameters)
        if why is not None:
            return Submitted(WRONG, why)
        try:
            adopted = adopt(parameters, owner=caller.username, privileged=is_privileged(caller))
        except ParameterError as error:
            return Submitted(WRONG, str(error))
        async with self._store.transaction() as connection:
            owner = str(adopted["userName"])
            await self._store.run(connection, "queue_up", f"user {owner}")
            before = await self._before(connection, owner, request_id) or await self._too_many(
                connection, owner, adopted
            )
            if before is None:
                before = await self._duplicate(connection, caller, owner, adopted, parameters, request_id)
            if before is not None:
                return before
            if not parent_id and (parent := adopted.get("parentTaskName")):
                parent_id = await self._parent(connection, str(parent), str(adopted["vo"]))
                if not parent_id:
                    return Submitted(NO_PARENT, f"parentTaskName {str(parent)[:200]!r}: there is no such task")
            task_id = await self._insert(connection, owner, adopted, parameters, parent_id, request_id)
        return Submitted(NEW, f"succeeded. new jediTaskID={task_id}", task_id)

    async def _before(self, connection: Connection, owner: str, request_id: UUID | None) -> Submitted | None:
        if request_id is None:
            return None
        row = await connection.fetchrow(SQL["task_of_request"], owner, request_id)
        if row is None:
            return None
        task_id = row["task_id"]
        return (
            Submitted(NEW, f"succeeded. new jediTaskID={task_id}", task_id) if row["attempt"] == 1 else _again(task_id)
        )

    async def _too_many(self, connection: Connection, owner: str, adopted: Mapping[str, Any]) -> Submitted | None:
        if not self._limit or not counts_against_limit(adopted):
            return None
        label = adopted["prodSourceLabel"]
        count = await self._store.run(connection, "counted_tasks", owner, label, list(COUNTED))
        if count < self._limit:
            return None
        return Submitted(
            TOO_MANY, f"{owner} has {count} active tasks with the label {label}: at most {self._limit} are allowed"
        )

    async def _duplicate(
        self,
        connection: Connection,
        caller: Caller,
        owner: str,
        adopted: Mapping[str, Any],
        parameters: Mapping[str, Any],
        request_id: UUID | None,
    ) -> Submitted | None:
        """Find a task that is the same one, and begin it again if it is over."""
        key = duplicate_key(adopted)
        if key is None:
            return None
        await self._store.run(connection, "queue_up", f"task {key}")
        whose = None if adopted.get("official") is True else owner
        row = await connection.fetchrow(
            SQL["latest_of_name"], adopted["taskName"], adopted["vo"], adopted["prodSourceLabel"], whose
        )
        if row is None:
            return None
        task_id = row["task_id"]
        task = await self._store.lock(connection, task_id)
        assert task is not None
        state = TaskState(task["state"])
        if state is TaskState.REGISTERED:
            return Submitted(QUEUED, f"jediTaskID={task_id} has the same name and is queued", task_id)
        if not judge(Command.INCEXEC, state, None):
            return Submitted(ACTIVE, f"jediTaskID={task_id} has the same name and is {state}: use another one", task_id)
        if task["owner"] != caller.username and not is_privileged(caller):
            return Submitted(ACTIVE, f"jediTaskID={task_id} has the same name and belongs to {task['owner']}", task_id)
        await begin_incremental(self._store, connection, task, parameters, request_id=request_id)
        return _again(task_id)

    async def _parent(self, connection: Connection, name: str, vo: str) -> int:
        return await self._store.run(connection, "parent_of_name", name, vo) or 0

    async def _insert(
        self,
        connection: Connection,
        owner: str,
        adopted: Mapping[str, Any],
        parameters: Mapping[str, Any],
        parent_id: int,
        request_id: UUID | None,
    ) -> int:
        task_id: int = await self._store.run(
            connection,
            "insert_task",
            adopted["taskName"],
            owner,
            adopted["vo"],
            adopted["prodSourceLabel"],
            adopted.get("taskType") or "",
            adopted.get("processingType") or "",
            adopted.get("workingGroup") or "",
            adopted.get("reqID"),
            parent_id or None,
            min(adopted["taskPriority"], _LARGEST_PRIORITY),
            write_object(dict(parameters)),
            write_object(dict(adopted)),
            request_id,
        )
        await self._store.run(connection, "insert_tally", task_id)
        return task_id


def _again(task_id: int) -> Submitted:
    return Submitted(
        AGAIN, f"jediTaskID={task_id} has the same name and was over: it is run again with what is new", task_id
    )
