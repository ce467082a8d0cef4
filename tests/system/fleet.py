"""A fleet of workers in this process that writes down everything it was told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from drayman.client import DispatchClient, Handle, ProjectEnded, Report


@dataclass
class Diary:
    """What the workers saw: deliveries by (handle, attempt), what was acknowledged, and reports of which of them were refused."""

    delivered: Counter[tuple[int, int]] = field(default_factory=Counter)
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: list[tuple[int, int]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def reaches(self, number: int) -> None:
        """Wait until so many reports were acknowledged."""
        while len(self.acknowledged) < number:
            self.progress.clear()
            await self.progress.wait()


async def run_fleet(url: str, token: str, project_id: int, workers: int, diary: Diary, *, pace: float = 0.0) -> None:
    """Work until the project ends: most files are done, every tenth fails for good, some are tried twice."""
    async with DispatchClient(url, token, timeout=60, patience=60) as dispatch, asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(_work(dispatch, project_id, f"worker-{number}", diary, pace))


async def _work(dispatch: DispatchClient, project_id: int, worker_id: str, diary: Diary, pace: float) -> None:
    chance = random.Random(worker_id)
    while True:
        got = await dispatch.next_file(project_id, worker_id, timeout=60)
        if isinstance(got, ProjectEnded):
            diary.ended.append(got.state)
            return
        assert isinstance(got, Handle), got
        diary.delivered[got.handle_id, got.attempts] += 1
        await asyncio.sleep(chance.uniform(0, pace))
        outcome = "failed_final" if got.handle_id % 10 == 0 else "done"
        if got.handle_id % 7 == 0 and got.attempts == 1:
            outcome = "failed_retry"
        (refusal,) = await dispatch.report([Report(got, outcome)])
        if refusal is not None:
            diary.refused.append((got.handle_id, got.attempts))
        elif outcome != "failed_retry":
            assert got.handle_id not in diary.acknowledged
            diary.acknowledged[got.handle_id] = outcome.partition("_")[0]
            diary.progress.set()
