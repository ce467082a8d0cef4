"""A worker that takes jobs and reports them as a test wants it, by the statements that the hand-out and the reports run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from drayman.server.task.job_store import End, MadeOutput, Touch
from drayman.server.task.matching import Offer
from drayman.server.task.wishes import JobWish
from service.task.task_house import House

Outcome = Callable[[Any], str]


class Worker:
    """Takes anybody's jobs."""

    def __init__(self, house: House, name: str = "w1") -> None:
        self.house = house
        self.name = name

    async def take(self, task_id: int, most: int = 1000) -> list[Any]:
        """Fetch jobs of a task that are ready, and begin them."""
        lots = [lot for lot in await self.house.job_store.open_lots() if lot.task_id == task_id]
        wish = JobWish(self.name, Offer(user="pilot", anybody=True), "node", most, None, now_or_never=True)
        jobs: list[Any] = []
        for lot in lots:
            want = min(most - len(jobs), lot.ready)
            if want > 0:
                rows = await self.house.job_store.draw({lot.lot_id: [0] * want}, [wish])
                jobs += [row for row in rows if row["job_id"] is not None]
        await self.begin(jobs)
        return jobs

    async def begin(self, jobs: Sequence[Any]) -> None:
        if jobs:
            touches = [Touch(job["job_id"], job["attempt"], self.name, "pilot", "running", None, None) for job in jobs]
            await self.house.job_store.touch(touches)

    async def report(self, jobs: Sequence[Any], outcome: str | Outcome = "finished", *, outputs: bool = False) -> None:
        """End jobs."""
        ends = []
        for job in jobs:
            state = outcome if isinstance(outcome, str) else outcome(job)
            fields = json.dumps({"exeErrorCode": 1}) if state == "failed" else None
            made = await self._made(job) if outputs and state == "finished" else []
            ends.append(End(job["job_id"], job["attempt"], self.name, "pilot", state, fields, None, None, made))
        if ends:
            await self.house.job_store.report(ends)
            for task_id in {job["task_id"] for job in jobs}:
                self.house.room.kick(task_id)

    async def run(self, task_id: int, outcome: str | Outcome = "finished", *, outputs: bool = False) -> int:
        """Take what is ready now and end it; returns how many jobs that were."""
        jobs = await self.take(task_id)
        await self.report(jobs, outcome, outputs=outputs)
        return len(jobs)

    async def _made(self, job: Any) -> list[MadeOutput]:
        made = []
        merging = job["kind"] == "merge"
        for dataset in await self.house.store.fetch("datasets", job["task_id"]):
            if dataset["version"] is None:
                continue
            version = f"{dataset['version']}.{job['serial']:06d}"
            name = f"{'merged' if merging else 'out'}.{dataset['stream']}.{job['serial']}"
            kind = "log" if dataset["kind"] == "log" else "output"
            place = (dataset["project"], dataset["asset"], version)
            self.house.shelf.kept.setdefault(place, set()).add(name)
            made.append(MadeOutput(name, dataset["stream"], kind, dataset["name"], *place, 100, "md5:0", 0))
        return made
