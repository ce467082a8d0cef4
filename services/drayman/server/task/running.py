"""From `ready` to `prepared`: build job, scouts, the jobs of all inputs, merge jobs."""

from __future__ import annotations

from drayman.server.task.desk import AGAIN, FALLBACK, Desk, Wait, lock_if
from drayman.server.task.job_making import JobMaker
from drayman.server.task.job_states import FINAL_JOB, JobState
from drayman.server.task.lot_making import lot_for
from drayman.server.task.merging import merge
from drayman.server.task.plan import TaskPlan
from drayman.server.task.reading_inputs import is_growing, read_again
from drayman.server.task.refining import broken, pending
from drayman.server.task.scouting import ScoutVerdict, how_many, judge_scouts
from drayman.server.task.splitting import SplittingError
from drayman.server.task.task_states import FINAL, TaskState
from drayman.server.task.task_store import SQL, Connection, Row

#: How often a collection is looked at that may grow, in seconds.
_GROWTH = 10.0
_BUILDS = 3
#: The lists were read once more after they were closed.
_LAST_LOOK = "last_look"


class Running:
    """The steps of tasks whose jobs are being made or run."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._maker = JobMaker(desk)

    # --- ready -------------------------------------------------------------------------------------------------------

    async def begin(self, task: Row) -> Wait:
        """Decide what a task begins with, now that its inputs are known."""
        plan = await self._plan(task)
        usable = task["inputs"] - task["missing"]
        growing = await is_growing(self._desk, task, plan)
        if usable == 0 and not growing:
            return await self._empty(task, plan)
        before = None if task["old_state"] is None else TaskState(task["old_state"])
        if before in FINAL and task["ready"] == 0 and task["live"] == 0 and not growing:
            return await self._nothing_to_do(task, before)
        scouts = task["jobs_finished"] == 0 and how_many(plan, usable) > 0
        return await self._move(task, TaskState.SCOUTING if scouts else TaskState.RUNNING)

    async def _empty(self, task: Row, plan: TaskPlan) -> Wait:
        if plan.allow_empty_input:
            return await self._move(task, TaskState.PREPARED)
        if plan.wait_input:
            return await pending(self._desk, task, TaskState.DEFINED, "the input is empty yet")
        return await broken(self._desk, task, "the input is empty, and allowEmptyInput is not set")

    async def _nothing_to_do(self, task: Row, before: TaskState) -> Wait:
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                why = "nothing to do: no input is new or unprocessed"
                await self._desk.store.move(connection, now, before, error=why)
        self._desk.tell(task["task_id"])
        return AGAIN

    # --- scouting ----------------------------------------------------------------------------------------------------

    async def scout(self, task: Row) -> Wait:
        """Make scouts, or judge them."""
        plan = await self._plan(task)
        if (wait := await self._build(task, plan)) is not None:
            return wait
        return await (self._judge(task, plan) if task["scouts_until"] else self._send_scouts(task, plan))

    async def _send_scouts(self, task: Row, plan: TaskPlan) -> Wait:
        wanted = how_many(plan, task["inputs"] - task["missing"])
        if not wanted or not task["ready"]:
            return await self._move(task, TaskState.RUNNING)
        try:
            made = await self._maker.make(task, plan, scouts=wanted)
        except SplittingError as error:
            return await self._cannot_split(task, plan, error)
        if made is not None and not made.jobs:
            return await self._move(task, TaskState.RUNNING)
        return AGAIN

    async def _judge(self, task: Row, plan: TaskPlan) -> Wait:
        finished, failed = task["scouts_finished"], task["scouts_failed"]
        verdict = judge_scouts(
            scouts=finished + failed + task["live"],
            finished=finished,
            failed=failed,
            live=task["live"],
            success_rate=plan.scout_success_rate,
        )
        match verdict:
            case ScoutVerdict.GO_ON:
                return await self._move(task, TaskState.RUNNING)
            case ScoutVerdict.BROKEN:
                return await broken(self._desk, task, f"no scout job succeeded: {failed} of {failed} failed")
            case ScoutVerdict.EXHAUSTED:
                why = f"{failed} of {finished + failed} scout jobs failed: more than scoutSuccessRate allows"
                return await self._exhaust(task, why)
        return FALLBACK

    async def _exhaust(self, task: Row, why: str) -> Wait:
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                await self._desk.store.move(
                    connection, now, TaskState.EXHAUSTED, old_state=TaskState(now["state"]), error=why
                )
        self._desk.tell(task["task_id"])
        return AGAIN

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, task: Row) -> Wait:
        """Make jobs of what is ready; when there is nothing left to do and nothing runs, go on to the end."""
        plan = await self._plan(task)
        if (wait := await self._build(task, plan)) is not None:
            return wait
        growing = await is_growing(self._desk, task, plan)
        if task["ready"]:
            try:
                made = await self._maker.make(task, plan, growing=growing)
            except SplittingError as error:
                return await self._cannot_split(task, plan, error)
            if made is None or made.jobs:
                return AGAIN
        if growing:
            return await self._look_for_more(task, plan)
        return FALLBACK if task["live"] else await self._nothing_left(task, plan)

    async def _look_for_more(self, task: Row, plan: TaskPlan) -> Wait:
        """Read lists that may grow. What is new becomes jobs at once; an incomplete group waits for more files."""
        await read_again(self._desk, task, plan)
        now = await self._desk.store.task(task["task_id"])
        more = now is not None and now["inputs"] - now["missing"] > task["inputs"] - task["missing"]
        return AGAIN if more else _GROWTH

    async def _nothing_left(self, task: Row, plan: TaskPlan) -> Wait:
        if task["command"] != _LAST_LOOK and await self._may_have_grown(task, plan):
            return AGAIN
        if plan.merge is not None and (wait := await merge(self._desk, task, plan)) is not None:
            return wait
        return await self._over(task)

    async def _may_have_grown(self, task: Row, plan: TaskPlan) -> bool:
        """Look once more at lists that were open until now: files may have come between the last look and the end."""
        if not (plan.run_until_closed or (not plan.wait_parent and task["parent_id"] is not None)):
            return False
        await read_again(self._desk, task, plan)
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                await self._desk.store.run(connection, "set_command", task["task_id"], _LAST_LOOK)
        return True

    async def _over(self, task: Row) -> Wait:
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is None:
                return AGAIN
            await self._desk.store.run(connection, "lock_tally", task["task_id"])
            live, ready = await self._left(connection, task)
            if live or ready != task["ready"]:
                return AGAIN
            await self._desk.store.move(connection, now, TaskState.PREPARED)
        self._desk.tell(task["task_id"])
        return AGAIN

    async def _left(self, connection: Connection, task: Row) -> tuple[int, int]:
        row = await connection.fetchrow(SQL["left"], task["task_id"])
        return row["live"], row["ready"]

    async def _cannot_split(self, task: Row, plan: TaskPlan, error: SplittingError) -> Wait:
        if plan.wait_input:
            return await pending(self._desk, task, TaskState.DEFINED, str(error))
        return await broken(self._desk, task, str(error))

    # --- the build job -----------------------------------------------------------------------------------------------

    async def _build(self, task: Row, plan: TaskPlan) -> Wait:
        """See to the build job; None = there is none, or it has finished."""
        if plan.build is None:
            return None
        attempt = 0
        if task["build_job_id"] is not None:
            job = await self._desk.store.fetchrow("job_state", task["build_job_id"])
            if job is None or job["state"] == JobState.FINISHED:
                return None
            if JobState(job["state"]) not in FINAL_JOB:
                return FALLBACK
            attempt = job["attempt"]
            if attempt >= _BUILDS:
                return await broken(
                    self._desk, task, f"the build job failed {attempt} times, last {task['build_job_id']}"
                )
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                lot_id = await lot_for(connection, now, plan, kind="build")
                job_id = await self._desk.store.run(
                    connection,
                    "insert_build",
                    now["task_id"],
                    lot_id,
                    attempt + 1,
                    now["revision"],
                    now["build_job_id"],
                )
                await self._desk.store.run(connection, "set_build", now["task_id"], job_id)
                await self._desk.store.run(connection, "count_made", now["task_id"], 0, 1, 0, 0)
                await self._desk.store.run(connection, "fill_lot", lot_id, 1)
        self._desk.tell(task["task_id"])
        return AGAIN

    # --- both --------------------------------------------------------------------------------------------------------

    async def _plan(self, task: Row) -> TaskPlan:
        return await self._desk.plans.plan(task["task_id"], task["revision"])

    async def _move(self, task: Row, state: TaskState) -> Wait:
        async with self._desk.store.transaction() as connection:
            now = await lock_if(self._desk, connection, task)
            if now is not None:
                if state is TaskState.SCOUTING:
                    await self._desk.store.run(connection, "set_scouts", task["task_id"], 0)
                    await self._desk.store.run(connection, "forget_scouts", task["task_id"])
                await self._desk.store.move(connection, now, state, command=now["command"])
        self._desk.tell(task["task_id"])
        return AGAIN
