"""Lost files (reference §8.3): what a task made is compared with what the registry has, and what is missing is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from drayman.server.platform.trust import Caller
from drayman.server.task.outputs import Outputs
from drayman.server.task.submission import is_privileged
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import Row, TaskStore

_PAGE = 2_000
_QUESTIONS = 16
_USEFUL = frozenset({TaskState.DONE, TaskState.FINISHED})
_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came of a request, see RecoverLostFilesResponse. `lost` are the first thousand files."""

    accepted: bool
    message: str
    lost: tuple[str, ...] = ()
    inputs: int = 0


class LostFiles:
    """Finds lost files, and has them made again."""

    def __init__(self, store: TaskStore, outputs: Outputs, kick: Callable[[int], None]) -> None:
        self._store = store
        self._outputs = outputs
        self._kick = kick

    async def recover(self, caller: Caller, task_id: int, *, dry_run: bool) -> Recovery:
        """Look for lost files of a task; without `dry_run` run it again for them, but not its children."""
        task = await self._store.task(task_id)
        refusal = _refuse(caller, task_id, task)
        if task is None or refusal:
            return Recovery(False, refusal)
        lost = await self._look(task_id)
        names = tuple(f"{row['dataset']}/{row['name']}" for row in lost[:_SHOWN])
        if not lost or dry_run:
            found = f"{len(lost)} files" if lost else "no files"
            return Recovery(True, f"task {task_id} has lost {found}: nothing is changed", names)
        inputs = await self._run_again(task, lost)
        if inputs is None:
            return Recovery(False, f"task {task_id} was changed meanwhile: ask again")
        self._kick(task_id)
        return Recovery(
            True, f"task {task_id} has lost {len(lost)} files: {inputs} inputs are run again", names, inputs
        )

    async def _look(self, task_id: int) -> list[Row]:
        lost: list[Row] = []
        after: tuple[int, str] = (0, "")
        while rows := await self._store.fetch("made_files", task_id, *after, _PAGE):
            after = (rows[-1]["job_id"], rows[-1]["name"])
            versions: dict[tuple[str, str, str], list[Row]] = {}
            for row in rows:
                versions.setdefault((row["project"], row["asset"], row["version"]), []).append(row)
            places = list(versions)
            for begin in range(0, len(places), _QUESTIONS):
                asked = places[begin : begin + _QUESTIONS]
                answers = await asyncio.gather(*(self._outputs.present(*place) for place in asked))
                for place, names in zip(asked, answers, strict=True):
                    lost += [row for row in versions[place] if names is None or row["name"] not in names]
        return lost

    async def _run_again(self, task: Row, lost: list[Row]) -> int | None:
        task_id = task["task_id"]
        async with self._store.transaction() as connection:
            now = await self._store.lock(connection, task_id)
            if now is None or now["state"] != task["state"] or now["attempt"] != task["attempt"]:
                return None
            await self._store.run(connection, "lock_tally", task_id)
            inputs: int = await self._store.run(
                connection, "lose", task_id, [row["job_id"] for row in lost], [row["name"] for row in lost]
            )
            await self._store.run(connection, "begin_again", task_id, None, None)
            await self._store.move(
                connection, now, TaskState.TORETRY, old_state=TaskState(now["state"]), error="", command="retry"
            )
        return inputs


def _refuse(caller: Caller, task_id: int, task: Row | None) -> str:
    if task is None:
        return f"task {task_id} not found"
    if task["owner"] != caller.username and not is_privileged(caller):
        return f"task {task_id} belongs to somebody else: recovery needs the production role"
    if TaskState(task["state"]) not in _USEFUL:
        return f"task {task_id} is {task['state']}: recovery needs one that is done or finished"
    return ""
