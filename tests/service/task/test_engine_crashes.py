"""An engine that dies between any two of its transactions leaves a state from which another one goes on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman.server.platform.trust import Caller
from drayman.server.task import job_making, retrying, winding_down
from drayman.server.task.acceptance import Command
from drayman.server.task.commands import Commands, Order
from drayman.server.task.engine import Engine
from drayman.server.task.plans import Plans
from drayman.server.task.task_states import FINAL
from drayman.server.task.task_store import TaskStore
from drayman.server.task.tasks_room import open_tasks
from service.task.scripted_worker import Worker
from service.task.task_house import House, house, parameters, reading

_OWNER = Caller("ann", False, frozenset(), 0.0, "")


class Died(Exception):
    """As if the process had been killed."""


class DyingStore(TaskStore):
    """Lives for so many transactions; from then on nothing can be done with it."""

    def __init__(self, pool: Any, life: int) -> None:
        super().__init__(pool)
        self.life = life

    def _live(self) -> None:
        if self.life <= 0:
            raise Died

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self._live()
        async with super().transaction() as connection:
            yield connection
        self.life -= 1
        self._live()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self._live()
        async with super().connection() as connection:
            yield connection
        self.life -= 1
        self._live()

    async def task(self, task_id: int) -> Any:
        self._live()
        return await super().task(task_id)


class Life:
    """Drives one task with an engine that dies, and then with one that does not."""

    def __init__(self, running: House, task_id: int, life: int) -> None:
        self.running = running
        self.task_id = task_id
        self.worker = Worker(running)
        self._store: TaskStore = DyingStore(running.hot, life)
        self.died = False

    async def settle(self) -> None:
        """Let the engine do what there is to do. Whoever dies over it is replaced a minute later."""
        await self._try(self._look_after)

    async def command(self, command: Command) -> None:
        await self._try(self._command, command)
        await self.settle()

    async def work(self, outcome: Any = "finished", **options: Any) -> None:
        await self.worker.run(self.task_id, outcome, **options)
        await self.settle()

    async def end(self) -> str:
        """Work until the task is over."""
        for _ in range(100):
            task = await self.running.store.task(self.task_id)
            assert task is not None
            if task["state"] in FINAL:
                return str(task["state"])
            await self.work(outputs=True)
        raise AssertionError(f"the task does not end: {dict(task)}")

    async def _try(self, act: Callable[..., Awaitable[None]], *values: Any) -> None:
        try:
            await act(*values)
        except Died:
            self.died = True
            self._store = self.running.store
            await act(*values)

    async def _look_after(self) -> None:
        due = "UPDATE task.tally SET attend_at = now() WHERE task_id = $1 AND attend_at IS NOT NULL"
        await self.running.pool.execute(due, self.task_id)
        engine = self._engine()
        for task_id, claimed in await self._store.claim([], 1000):
            if task_id == self.task_id:
                await engine.look_after(task_id, claimed)

    async def _command(self, command: Command) -> None:
        await Commands(self._store, self.running.settings).carry_out(_OWNER, self.task_id, Order(command))

    def _engine(self) -> Engine:
        shelf: Any = self.running.shelf
        return open_tasks(
            self._store,
            Plans(self._store, self.running.settings),
            self.running.settings,
            announce=lambda _word: None,
            collections=shelf,
            outputs=shelf,
            lots_changed=lambda: None,
            orders=lambda _jobs: None,
        ).engine


async def _check_counts(running: House, task_id: int) -> None:
    """Whatever happened, what is counted is what is there, and nothing was processed twice."""
    found = await running.pool.fetchrow(
        """SELECT y.live = (SELECT count(*) FROM task.job WHERE task_id = $1 AND state < 'finished') AS live,
                  y.jobs = (SELECT count(*) FROM task.job WHERE task_id = $1) AS jobs,
                  y.finished = (SELECT count(*) FROM task.input WHERE task_id = $1 AND state = 'finished') AS finished,
                  y.picked = (SELECT count(*) FROM task.input WHERE task_id = $1 AND state = 'picked') AS picked,
                  y.failed = (SELECT count(*) FROM task.input WHERE task_id = $1 AND state = 'failed') AS failed,
                  NOT EXISTS (SELECT FROM task.lot l WHERE task_id = $1 AND ready <>
                      (SELECT count(*) FROM task.job j WHERE j.lot_id = l.lot_id AND j.state = 'activated')) AS lots,
                  (SELECT count(*) = count(DISTINCT serial) FROM task.job WHERE task_id = $1 AND serial > 0) AS serials
             FROM task.tally y WHERE task_id = $1""",
        task_id,
    )
    assert {name for name, right in found.items() if not right} == set()


async def _plain(life: Life) -> None:
    await life.settle()
    await life.work(lambda job: "failed" if job["serial"] == 2 else "finished", outputs=True)
    assert await life.end() == "done"


def _only_the_first(job: Any) -> str:
    return "finished" if job["kind"] == "merge" or job["inputs"] == [1] else "failed"


async def _retried(life: Life) -> None:
    await life.settle()
    for _ in range(20):
        await life.work(_only_the_first, outputs=True)
    await life.command(Command.RETRY)
    assert await life.end() == "done"


async def _reloaded(life: Life) -> None:
    await life.settle()
    assert await life.end() == "done"
    name = life.running.shelf.opened.setdefault("names", [])[-1]
    life.running.shelf.put(name, 2, first=90)
    await life.command(Command.RELOAD_INPUT)
    assert await life.end() == "done"
    assert len(life.running.shelf.lists[name]) == await life.running.one(
        "SELECT finished FROM task.tally WHERE task_id = $1", life.task_id
    )


async def _killed(life: Life) -> None:
    await life.settle()
    await life.worker.take(life.task_id, 1)
    await life.command(Command.FINISH)
    state = await life.end()
    assert state == "failed"
    await life.command(Command.RETRY)
    await life.command(Command.KILL)
    assert await life.end() == "aborted"


async def _reactivated(life: Life) -> None:
    await life.settle()
    await life.worker.report(await life.worker.take(life.task_id, 2), outputs=True)
    await life.worker.take(life.task_id, 1)
    await life.command(Command.REACTIVATE)
    assert await life.end() == "done"


def _output() -> dict[str, Any]:
    return {"type": "template", "param_type": "output", "value": "o.${SN}.root", "dataset": f"out.{uuid4().hex[:8]}"}


def _windows(_running: House) -> dict[str, Any]:
    given = parameters(nEvents=5, mergeOutput=True, nFilesPerMergeJob=3, maxAttempt=3)
    given["jobParameters"] += [_output()]
    return given


def _files(running: House) -> dict[str, Any]:
    name = f"set.{uuid4().hex[:8]}"
    running.shelf.put(name, 6)
    running.shelf.opened.setdefault("names", []).append(name)
    given = reading(name, nFilesPerJob=2)
    given["jobParameters"] += [_output()]
    return given


#: What happens to which task, and after how many transactions more the engine dies the next time: what begins all stories is told once.
STORIES = [
    (_plain, _windows, 1),
    (_plain, _files, 2),
    (_retried, _windows, 5),
    (_reloaded, _files, 5),
    (_killed, _windows, 3),
    (_reactivated, _files, 3),
    (_reactivated, _windows, 3),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("story", "task", "step"), STORIES)
async def test_a_death_between_any_two_transactions(
    story: Callable[[Life], Awaitable[None]],
    task: Callable[[House], dict[str, Any]],
    step: int,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (job_making, winding_down, retrying):
        monkeypatch.setattr(module, "CHUNK", 2)
    async with house(database_url, tmp_path, engine=False, task_scouts=2) as running:
        ann = await running.tasks("ann")
        for transactions in range(1, 1000, step):
            life = Life(running, await ann.made(task(running)), transactions)
            await story(life)
            await _check_counts(running, life.task_id)
            if not life.died:
                break
        assert transactions > 15
