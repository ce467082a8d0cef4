"""What a kill or a finish leaves to do, and what begins from the beginning: live jobs go away, a chunk in a transaction."""

from __future__ import annotations

import json

from drayman.server.task.desk import AGAIN, CHUNK, FALLBACK, Desk, Wait, lock_if
from drayman.server.task.job_rules import BY_ENGINE, FORCED_BY_ENGINE, REASSIGNED, kill_effect
from drayman.server.task.job_states import JobState
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Row

#: `taskBufferErrorCode` of a job that was killed, and of one that was withdrawn.
_KILLED, _WITHDRAWN = 100, 105


async def abort(desk: Desk, task: Row) -> Wait:
    """Go on with a kill: when nothing of the task lives any more, it is aborted, or broken if that is why it was killed."""
    if not await take_away(desk, task, code=BY_ENGINE, held=True, why="killed with its task"):
        return AGAIN
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        if now["live"]:
            return FALLBACK
        state = TaskState.BROKEN if now["command"] == "break" else TaskState.ABORTED
        await desk.store.move(connection, now, state)
    desk.tell(task["task_id"])
    return AGAIN


async def finish(desk: Desk, task: Row) -> Wait:
    """Go on with a finish: by force, or with what runs coming to its end. Then the counts decide."""
    soft = task["command"] == "finish_soft"
    if not await take_away(desk, task, code=FORCED_BY_ENGINE, held=not soft, why="its task is being finished"):
        return AGAIN
    async with desk.store.transaction() as connection:
        now = await lock_if(desk, connection, task)
        if now is None:
            return AGAIN
        if now["live"]:
            return FALLBACK
        await desk.store.move(connection, now, TaskState.PREPARED, command=now["command"])
    desk.tell(task["task_id"])
    return AGAIN


async def take_away(desk: Desk, task: Row, *, code: int, held: bool, why: str) -> bool:
    """Kill live jobs, those that workers have only if `held`. False: the task is not where it was."""
    after = 0
    while True:
        async with desk.store.transaction() as connection:
            now = await lock_if(desk, connection, task)
            if now is None:
                return False
            await desk.store.run(connection, "lock_tally", task["task_id"])
            await desk.store.run(connection, "lock_lots", task["task_id"])
            jobs = await desk.store.live_chunk(connection, task["task_id"], held=held, after=after, limit=CHUNK)
            ends: dict[JobState, list[int]] = {}
            ordered = []
            for job in jobs:
                effect = kill_effect(JobState(job["state"]), ordered=job["ordered"], code=code)
                if effect.state is not None:
                    ends.setdefault(effect.state, []).append(job["job_id"])
                elif effect.order:
                    ordered.append(job["job_id"])
            for state, job_ids in ends.items():
                closed = state is JobState.CLOSED
                fields = {
                    "taskBufferErrorCode": _WITHDRAWN if closed else _KILLED,
                    "taskBufferErrorDiag": why,
                }
                await desk.store.run(
                    connection, "end_jobs", job_ids, state, json.dumps(fields), closed, task["task_id"]
                )
            told = await desk.store.order(connection, ordered, why)
        desk.tell_orders(told + [job_id for job_ids in ends.values() for job_id in job_ids])
        desk.tell(task["task_id"])
        if len(jobs) < CHUNK:
            return True
        after = jobs[-1]["job_id"]


async def withdraw(desk: Desk, task: Row) -> bool:
    """Take all live jobs away as if they had never been. False: the task is not where it was."""
    return await take_away(desk, task, code=REASSIGNED, held=True, why="its task begins from the beginning")
