"""Takes what workers and the sweeper say of jobs: coalesced, durable before the answer, fenced by attempt, worker and user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import structlog

from drayman.server.platform.coalescing import Coalescing
from drayman.server.platform.lifecycle import Part
from drayman.server.task.describing import Describing
from drayman.server.task.hand_out import HandOut
from drayman.server.task.job_fields import cut_texts, write_fields
from drayman.server.task.job_rendering import ExpectedOutput
from drayman.server.task.job_states import FINAL_JOB, JobState
from drayman.server.task.job_store import End, JobStore, MadeOutput, Return, Row, Touch

log = structlog.get_logger(__name__)

#: What PanDA's pilots say of an output that is not there.
_OUTPUT_MISSING = 1165
_KEPT_STARTS = 10_000


class Verdict(Enum):
    """What became of an update."""

    TAKEN = "taken"
    BAD_ATTEMPT = "bad attempt"
    ALREADY_DONE = "already done"
    WRONG_WORKER = "wrong worker"
    UNKNOWN = "unknown"
    STATE_KEPT = "state kept"


class Answer(NamedTuple):
    """What a worker is told of its update."""

    job_id: int
    verdict: Verdict
    state: JobState | None = None
    kill: bool = False
    debug: bool = False


class Made(NamedTuple):
    """A file that a worker says its job made."""

    name: str
    size: int
    checksum: str
    events: int


class Update(NamedTuple):
    """What a worker says of a job. `state` None = nothing new of it; ACTIVATED gives it back."""

    job_id: int
    attempt: int
    state: JobState | None
    fields: dict[str, object]
    node: str | None
    metadata: str | None
    tail: str
    outputs: Sequence[Made]


class JobReports(Part):
    """Queues reports; while one batch is on its way to disk the next one gathers. Ends wait for ends, heartbeats for heartbeats."""

    def __init__(
        self, store: JobStore, hand_out: HandOut, describing: Describing, engine_kick: Callable[[int], None]
    ) -> None:
        self._store = store
        self._hand_out = hand_out
        self._describing = describing
        self._engine_kick = engine_kick
        self._touches = Coalescing[int, Touch, Row | None]("heartbeats", self._touch)
        self._ends = Coalescing[int, End, Row | None]("ends of jobs", self._end)
        self._started: dict[int, None] = {}

    async def update(self, worker_id: str, user: str, updates: Sequence[Update]) -> list[Answer]:
        """Take updates; returns when they are on disk. Each stands for itself; several of one job are taken one after the other."""
        answers: list[Answer | None] = [None] * len(updates)
        for wave in waves([update.job_id for update in updates]):
            await self._wave(worker_id, user, updates, wave, answers)
        return [answer for answer in answers if answer is not None]

    async def expire(self, rows: Sequence[Row], explain: Callable[[Row], dict[str, object]]) -> int:
        """Fail jobs whose leases ran out, as the statement `due_leases` gives them; returns how many."""
        ends = [
            End(row["job_id"], 0, None, None, "failed", write_fields(cut_texts(explain(row))), None, row["state"])
            for row in rows
        ]
        return sum(row is not None for row in await self._ends.submit(0, ends)) if ends else 0

    async def refuse_to_run(self, row: Row, worker_id: str, user: str, why: str) -> None:
        """Fail a job that was handed out and cannot be described to anybody."""
        fields = cut_texts({"taskBufferErrorCode": 300, "taskBufferErrorDiag": f"the job cannot be run: {why}"})
        end = End(row["job_id"], row["attempt"], worker_id, user, "failed", write_fields(fields), None, None)
        await self._ends.submit(0, [end])

    async def stop(self) -> None:
        """Let the reports that were taken reach the disk."""
        await self._touches.stop()
        await self._ends.stop()

    # --- one wave: each job once -------------------------------------------------------------------------------------

    async def _wave(
        self, worker_id: str, user: str, updates: Sequence[Update], wave: Sequence[int], answers: list[Answer | None]
    ) -> None:
        ends = [place for place in wave if updates[place].state in FINAL_JOB]
        returns = [place for place in wave if updates[place].state is JobState.ACTIVATED]
        others = set(ends) | set(returns)
        touches = [place for place in wave if place not in others] if others else wave
        work = []
        if touches:
            work.append(self._take_touches(worker_id, user, updates, touches, answers))
        if ends:
            work.append(self._take_ends(worker_id, user, updates, ends, answers))
        if returns:
            work.append(self._take_returns(worker_id, user, updates, returns, answers))
        if len(work) == 1:
            await work[0]
        else:
            await asyncio.gather(*work)
        refused = [place for place in wave if answers[place] is None]
        if refused:
            standing = await self._store.standing([updates[place].job_id for place in refused])
            for place in refused:
                update = updates[place]
                answers[place] = why_refused(standing.get(update.job_id), update, worker_id, user)

    async def _take_touches(
        self, worker_id: str, user: str, updates: Sequence[Update], places: Sequence[int], answers: list[Answer | None]
    ) -> None:
        said = []
        for place in places:
            update = updates[place]
            fields = write_fields(update.fields)
            said.append(Touch(update.job_id, update.attempt, worker_id, user, update.state, fields, update.node))
        rows = await self._touches.submit(0, said)
        tails = {}
        for place, row in zip(places, rows, strict=True):
            if row is not None:
                update = updates[place]
                state = JobState(row["state"])
                kept = update.state is not None and update.state is not state
                verdict = Verdict.STATE_KEPT if kept else Verdict.TAKEN
                answers[place] = Answer(update.job_id, verdict, state, row["kill"], row["debug"])
                if update.tail and row["debug"]:
                    tails[update.job_id] = update.tail
        if tails:
            await self._store.write_tails(tails)

    async def _take_ends(
        self, worker_id: str, user: str, updates: Sequence[Update], places: Sequence[int], answers: list[Answer | None]
    ) -> None:
        expected = await self._describing.expected([updates[place].job_id for place in places])
        said = [end_of(updates[place], worker_id, user, expected.get(updates[place].job_id, ())) for place in places]
        rows = await self._ends.submit(0, said)
        tails = {}
        for place, row in zip(places, rows, strict=True):
            if row is not None:
                update = updates[place]
                self._describing.forget(update.job_id)
                answers[place] = Answer(update.job_id, Verdict.TAKEN, JobState(row["state"]))
                if update.tail and row["debug"]:
                    tails[update.job_id] = update.tail
        if tails:
            await self._store.write_tails(tails)

    async def _take_returns(
        self, worker_id: str, user: str, updates: Sequence[Update], places: Sequence[int], answers: list[Answer | None]
    ) -> None:
        said = [Return(updates[place].job_id, updates[place].attempt, worker_id, user, None) for place in places]
        taken = await self._hand_out.give_back(said)
        for place, well in zip(places, taken, strict=True):
            if well:
                answers[place] = Answer(updates[place].job_id, Verdict.TAKEN, JobState.ACTIVATED)

    # --- batches -----------------------------------------------------------------------------------------------------

    async def _touch(self, _key: int, said: list[Touch]) -> list[Row | None]:
        results: list[Row | None] = [None] * len(said)
        started: set[int] = set()
        for wave in waves([touch.job_id for touch in said]):
            for row in await self._store.touch([said[place] for place in wave]):
                results[wave[row["place"] - 1]] = row
                if row["task_id"] is not None and row["task_id"] not in self._started and row["state"] == "running":
                    started.add(row["task_id"])
        if started:
            await self._store.note_starts(sorted(started))
            self._started.update(dict.fromkeys(started))
            while len(self._started) > _KEPT_STARTS:
                del self._started[next(iter(self._started))]
        return results

    async def _end(self, _key: int, said: list[End]) -> list[Row | None]:
        results: list[Row | None] = [None] * len(said)
        for wave in waves([end.job_id for end in said]):
            rows = await self._store.report([said[place] for place in wave])
            for row in rows:
                results[wave[row["place"] - 1]] = row
            for task_id in {row["task_id"] for row in rows if row["attend"]}:
                self._engine_kick(task_id)
        return results


def waves(job_ids: Sequence[int]) -> Iterable[Sequence[int]]:
    """Part places of updates so that no part has a job twice, in their order."""
    if len(set(job_ids)) == len(job_ids):
        return (range(len(job_ids)),) if job_ids else ()
    parts: list[list[int]] = []
    seen: dict[int, int] = {}
    for place, job_id in enumerate(job_ids):
        number = seen.get(job_id, 0)
        seen[job_id] = number + 1
        if number == len(parts):
            parts.append([])
        parts[number].append(place)
    return parts


def end_of(update: Update, worker_id: str, user: str, expected: Sequence[ExpectedOutput]) -> End:
    """Say what an update ends its job with: one that finished without an output that it had to make has failed."""
    assert update.state is not None
    state, fields = update.state, update.fields
    made = {output.name: output for output in update.outputs}
    if state is JobState.FINISHED:
        missing = [output.name for output in expected if not output.optional and output.name not in made]
        if missing:
            state = JobState.FAILED
            text = f"Expected output file is missing: {', '.join(missing)}"
            fields = cut_texts(fields | {"pilotErrorCode": _OUTPUT_MISSING, "pilotErrorDiag": text})
    outputs = [_made(output, made[output.name]) for output in expected if output.name in made]
    metadata = update.metadata if state is JobState.FINISHED else None
    return End(update.job_id, update.attempt, worker_id, user, state, write_fields(fields), metadata, None, outputs)


def why_refused(row: Row | None, update: Update, worker_id: str, user: str) -> Answer:
    """Say why an update was refused. One that repeats what was accepted is taken again."""
    if row is None:
        return Answer(update.job_id, Verdict.UNKNOWN)
    state = JobState(row["state"])
    theirs = (row["worker_id"], row["worker_user"]) == (worker_id, user)
    if row["attempt"] != update.attempt:
        verdict = Verdict.BAD_ATTEMPT
    elif state in FINAL_JOB:
        verdict = Verdict.TAKEN if theirs and _repeats(state, row, update) else Verdict.ALREADY_DONE
    elif theirs:
        verdict = Verdict.STATE_KEPT  # it has begun: too late to give it back
    else:
        verdict = Verdict.WRONG_WORKER
    return Answer(update.job_id, verdict, state, row["kill"] and theirs, row["debug"] and theirs)


def _repeats(state: JobState, row: Row, update: Update) -> bool:
    """Whether a final report says what its job became by it: a killed one that failed was cancelled, one without its outputs failed."""
    if update.state is JobState.FINISHED:
        return state is JobState.FINISHED or (state is JobState.FAILED and row["output_missing"])
    return update.state is JobState.FAILED and (
        state is JobState.FAILED or (state is JobState.CANCELLED and row["kill"])
    )


def _made(output: ExpectedOutput, made: Made) -> MadeOutput:
    return MadeOutput(
        output.name,
        output.stream,
        output.type,
        output.dataset,
        output.place.project,
        output.place.asset,
        output.place.version,
        made.size,
        made.checksum,
        made.events,
    )
