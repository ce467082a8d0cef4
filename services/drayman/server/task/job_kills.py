"""Kills jobs for users (reference §6.6): what waits is over at once, what runs gets an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from drayman.server.platform.errors import invalid
from drayman.server.platform.trust import Caller
from drayman.server.task import job_rules
from drayman.server.task.job_fields import cut_texts, storable, write_fields
from drayman.server.task.job_states import JobState
from drayman.server.task.job_store import JobStore, Kill, Row
from drayman.server.task.orders import Orders

#: Codes that a kill may have.
CODES = (0, 2, 3, 4, 7, 8, 9, 10, 50, 51, 52, 55, 60, 91, 99)
#: What the job's record says of each (`taskBufferErrorCode`, reference §6.5); 100 of the others.
_ERROR_CODES = {2: 102, 3: 103, 4: 102, 7: 106, 8: 105, 10: 130, 51: 105}
_KILLED = 100

_ONE_STATEMENT = 1000


def is_production(caller: Caller) -> bool:
    """Whether a caller has the production role."""
    return caller.admin or "production" in caller.roles


class JobKills:
    """Kills jobs, by whoever may."""

    def __init__(self, store: JobStore, orders: Orders, engine_kick: Callable[[int], None]) -> None:
        self._store = store
        self._orders = orders
        self._engine_kick = engine_kick

    async def kill(self, caller: Caller, job_ids: Sequence[int], reason: str, code: int) -> list[bool]:
        """Kill jobs; tells of each whether it was cancelled now or an order newly recorded. Raises Refusal for a code that there is not."""
        if code not in CODES:
            raise invalid("code", f"code {code}: expected one of {', '.join(map(str, CODES))}")
        production = is_production(caller)
        code = code if production else 0
        killed = set()
        for begin in range(0, len(job_ids), _ONE_STATEMENT):
            chunk = list(dict.fromkeys(job_ids[begin : begin + _ONE_STATEMENT]))
            found = await self._store.whose_jobs(chunk)
            allowed = [
                job_id
                for job_id, row in found.items()
                if job_rules.may_kill(
                    owns=row["owner"] == caller.username, production=production, label=row["label"], code=code
                )
            ]
            killed |= await self._end(allowed, caller.username, reason, code)
        answers = []
        for job_id in job_ids:
            answers.append(job_id in killed)
            killed.discard(job_id)  # a second time in one call is a second kill
        return answers

    async def by_time(self, job_ids: Sequence[int], reason: str, *, expected: JobState) -> int:
        """End what waited or ran too long, if it still does; returns how many."""
        code = job_rules.EXPIRED if expected is not JobState.RUNNING else 0
        return len(await self._end(job_ids, "the system", reason, code, expected)) if job_ids else 0

    async def _end(
        self, job_ids: Sequence[int], killer: str, reason: str, code: int, expected: JobState | None = None
    ) -> set[int]:
        # what becomes of a job that runs is decided where its state is known for sure: in the statement
        effect = job_rules.kill_effect(JobState.ACTIVATED, ordered=False, code=code)
        assert effect.state is not None
        text = f"killed by {killer}" + (f": {reason}" if reason else "")
        fields = write_fields(
            cut_texts({"taskBufferErrorCode": _ERROR_CODES.get(code, _KILLED), "taskBufferErrorDiag": storable(text)})
        )
        kills = [
            Kill(job_id, effect.state, fields or "{}", killer, expected, code in job_rules.FORCED)
            for job_id in sorted(job_ids)
        ]
        rows = await self._store.withdraw(kills) if kills else []
        self._tell(rows)
        return {row["job_id"] for row in rows}

    def _tell(self, rows: Sequence[Row]) -> None:
        told = [row["job_id"] for row in rows if row["told"]]
        if told:
            self._orders.given(told)
        for task_id in {row["task_id"] for row in rows if row["attend"]}:
            self._engine_kick(task_id)
