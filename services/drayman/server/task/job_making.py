"""Jobs are made of ready inputs, a chunk in a transaction.

Inputs that are rows already (files, and whatever comes back for another attempt) become jobs first. The records of a pseudo input are
written with their first job, as picked: that is one row less to change for each job.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from drayman.server.task.desk import CHUNK, Desk, lock_if
from drayman.server.task.lot_making import lot_for
from drayman.server.task.plan import SplitRule, TaskPlan, Unit
from drayman.server.task.refining import is_written_late, primary_of
from drayman.server.task.splitting import Window, groups, number, number_count, number_position, pseudo, secondary
from drayman.server.task.task_store import SQL, Connection, Row

_KEPT = 32
_INPUT_COLUMNS = (
    "task_id",
    "input_no",
    "stream_no",
    "dataset_no",
    "state",
    "name",
    "events",
    "first_event",
    "attempts",
    "max_attempts",
    "max_failures",
    "job_id",
)
_JOB_COLUMNS = (
    "job_id",
    "task_id",
    "lot_id",
    "attempt",
    "serial",
    "revision",
    "inputs",
    "others",
    "parent_id",
    "debug",
)


@dataclass(slots=True)
class Draft:
    """A job to be. `failures` are those of the input that failed most; `again`: of the very inputs of its parent."""

    inputs: list[int]
    attempt: int = 1
    failures: int = 0
    parent: int | None = None
    again: bool = False
    others: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it: how many jobs, and whether there may be more to make."""

    jobs: int
    more: bool


@dataclass(slots=True)
class _Windows:
    """The records of a pseudo input from one on: `put_back` come before those of `rest`."""

    after: int
    rest: Iterator[Window]
    put_back: list[Window] = field(default_factory=list)

    def take(self, count: int) -> list[Window]:
        """Take the next records."""
        taken = self.put_back[:count]
        del self.put_back[:count]
        taken += islice(self.rest, count - len(taken))
        self.after += len(taken)
        return taken

    def give_back(self, windows: list[Window]) -> None:
        """Put records back that were not used."""
        self.put_back = windows + self.put_back
        self.after -= len(windows)


class JobMaker:
    """Makes jobs. What it remembers spares it counting from the beginning; what is true is in the tables."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._windows: OrderedDict[tuple[int, int], _Windows] = OrderedDict()

    async def make(self, task: Row, plan: TaskPlan, *, scouts: int = 0, growing: bool = False) -> Made | None:
        """Make a chunk of jobs, or so many scouts. None: the task is not where it was. Raises SplittingError."""
        task_id, primary = task["task_id"], primary_of(plan)
        made: Made | None = None
        try:
            async with self._desk.store.transaction() as connection:
                now = await lock_if(self._desk, connection, task)
                if now is None:
                    return None
                room = _room(now, plan, scouts)
                rule = _scouts_rule(plan) if scouts else plan.rule
                rows = await connection.fetch(SQL["ready_inputs"], task_id, primary.number, CHUNK)
                if rows:
                    made = await self._of_rows(
                        connection, now, plan, rule, rows, room, most=scouts or CHUNK, growing=growing
                    )
                elif is_written_late(plan) and now["ready"] > 0:
                    made = await self._of_windows(connection, now, plan, rule, room)
                else:
                    made = Made(0, more=False)
                if scouts and made.jobs:
                    await self._desk.store.run(connection, "set_scouts", task_id, now["serial"] + made.jobs)
        except BaseException:
            self._forget(task_id)
            raise
        if made.jobs:
            self._desk.tell(task_id)
        return made

    # --- inputs that are rows ----------------------------------------------------------------------------------------

    async def _of_rows(
        self,
        connection: Connection,
        task: Row,
        plan: TaskPlan,
        rule: SplitRule,
        rows: Sequence[Row],
        room: int,
        *,
        most: int,
        growing: bool,
    ) -> Made:
        again = await self._again(connection, task, rows)
        taken = {number_ for draft in again for number_ in draft.inputs}
        facts = {row["input_no"]: row for row in rows}
        complete = len(rows) < CHUNK
        drafts: list[Draft] = list(again)
        fresh = [row for row in rows if row["input_no"] not in taken]
        for group in _alike(fresh, plan):
            units = [Unit(row["input_no"], row["size"], row["events"], row["first_event"]) for row in group]
            drafts += [_draft(cut, facts) for cut in groups(units, rule, last=complete and not growing)]
        if not drafts and not complete:  # a chunk that is smaller than a job
            units = [Unit(row["input_no"], row["size"], row["events"], row["first_event"]) for row in fresh]
            drafts = [_draft(cut, facts) for cut in islice(groups(units, rule, last=True), 1)]
        firsts = 0
        allowed: list[Draft] = []
        for draft in drafts:
            if draft.parent is None:
                if firsts >= room:
                    continue
                firsts += 1
            if len(allowed) >= most:
                break
            allowed.append(draft)
        allowed.sort(key=lambda draft: draft.inputs[0])
        await self._choose_others(connection, task, plan, [draft for draft in allowed if not draft.again])
        job_ids, filled = await self._insert(connection, task, plan, allowed)
        numbers = [number_ for draft in allowed for number_ in draft.inputs]
        owners = [job_id for job_id, draft in zip(job_ids, allowed, strict=True) for _ in draft.inputs]
        memory = [_memory(plan, draft) for draft in allowed for _ in draft.inputs]
        await self._desk.store.run(connection, "pick_inputs", task["task_id"], numbers, owners, memory)
        await self._count(connection, task, len(numbers), firsts, filled)
        more = bool(allowed) and (not complete or is_written_late(plan))
        return Made(len(allowed), more=more)

    async def _again(self, connection: Connection, task: Row, rows: Sequence[Row]) -> list[Draft]:
        """Find inputs that were in a job together and are all back: they stay together, and keep what they had of other streams."""
        back: dict[int, list[Row]] = {}
        for row in rows:
            if row["job_id"] is not None:
                back.setdefault(row["job_id"], []).append(row)
        if not back:
            return []
        drafts = []
        for job in await connection.fetch(SQL["jobs_before"], list(back)):
            inputs = back[job["job_id"]]
            same = sorted(job["inputs"]) == [row["input_no"] for row in inputs]
            if same and job["revision"] == task["revision"]:
                draft = _draft_of_rows(inputs)
                draft.again, draft.others = True, list(job["others"])
                drafts.append(draft)
        return drafts

    # --- inputs that are not written yet -----------------------------------------------------------------------------

    async def _of_windows(self, connection: Connection, task: Row, plan: TaskPlan, rule: SplitRule, room: int) -> Made:
        task_id, primary = task["task_id"], primary_of(plan)
        written, dataset_no = await self._written(connection, task_id, primary.number)
        source = self._source(task, plan, written)
        windows = source.take(CHUNK)
        complete = len(windows) < CHUNK
        units = [
            Unit(written + place, window.size, window.events, window.first_event)
            for place, window in enumerate(windows, 1)
        ]
        cuts = list(islice(groups(units, rule, last=complete), max(room, 0)))
        if not cuts and not complete and room > 0:
            cuts = list(islice(groups(units, rule, last=True), 1))
        drafts = [Draft([unit.number for unit in cut]) for cut in cuts]
        used = sum(len(cut) for cut in cuts)
        source.give_back(windows[used:])
        if not drafts:
            return Made(0, more=False)
        await self._choose_others(connection, task, plan, drafts)
        job_ids, filled = await self._insert(connection, task, plan, drafts)
        attempts = plan.max_attempts + task["more_attempts"]
        failures = None if plan.max_failures is None else plan.max_failures + task["more_attempts"]
        stream_no = primary.number
        place = 0
        records = []
        for job_id, draft in zip(job_ids, drafts, strict=True):
            for input_no in draft.inputs:
                window = windows[place]
                place += 1
                records.append(
                    (
                        task_id,
                        input_no,
                        stream_no,
                        dataset_no,
                        "picked",
                        window.name,
                        window.events,
                        window.first_event,
                        1,
                        attempts,
                        failures,
                        job_id,
                    )
                )
        await connection.copy_records_to_table("input", schema_name="task", columns=_INPUT_COLUMNS, records=records)
        await self._desk.store.run(connection, "use_stream", task_id, stream_no, used)
        await self._count(connection, task, used, len(drafts), filled)
        return Made(len(drafts), more=not complete or used < len(windows))

    async def _written(self, connection: Connection, task_id: int, stream_no: int) -> tuple[int, int]:
        rows = await connection.fetch(SQL["datasets"], task_id)
        row = next(row for row in rows if row["stream_no"] == stream_no)
        return row["used"], row["dataset_no"]

    def _source(self, task: Row, plan: TaskPlan, written: int) -> _Windows:
        key = (task["task_id"], task["revision"])
        found = self._windows.get(key)
        if found is None or found.after != written:
            found = self._windows[key] = _Windows(written, islice(pseudo(plan.rule), written, None))
        self._windows.move_to_end(key)
        while len(self._windows) > _KEPT:
            self._windows.popitem(last=False)
        return found

    def _forget(self, task_id: int) -> None:
        for key in [key for key in self._windows if key[0] == task_id]:
            del self._windows[key]

    # --- what both have in common ------------------------------------------------------------------------------------

    async def _choose_others(self, connection: Connection, task: Row, plan: TaskPlan, drafts: Sequence[Draft]) -> None:
        """Give jobs their records of secondary streams, and see that number streams last. Raises SplittingError."""
        if not drafts:
            return
        _check_numbers(plan, task["inputs"], max(draft.inputs[0] for draft in drafts))
        streams = [stream for stream in plan.streams if stream.kind == "input" and not stream.primary]
        if not streams:
            return
        task_id = task["task_id"]
        used = {row["stream_no"]: row["used"] for row in await connection.fetch(SQL["streams"], task_id)}
        counted = await connection.fetch(SQL["count_secondary"], task_id, primary_of(plan).number)
        records = {row["stream_no"]: row["n"] for row in counted}
        draw = random.Random(task_id)  # noqa: S311 - an order, no secret
        chosen: list[Mapping[int, tuple[int, ...]]] = []
        gained = dict.fromkeys((stream.number for stream in streams), 0)
        for draft in drafts:
            positions = secondary(streams, records, used, len(draft.inputs), draw=draw)
            chosen.append(positions)
            for stream_no, places in positions.items():
                used[stream_no] += len(places)
                gained[stream_no] += len(places)
        for stream in streams:
            wanted = [places[stream.number] for places in chosen]
            numbers = await self._numbers(connection, task_id, stream.number, wanted)
            for draft, places in zip(drafts, wanted, strict=True):
                draft.others += [numbers[place] for place in places]
            await self._desk.store.run(connection, "use_stream", task_id, stream.number, gained[stream.number])

    async def _numbers(
        self, connection: Connection, task_id: int, stream_no: int, wanted: Iterable[tuple[int, ...]]
    ) -> dict[int, int]:
        """Find the numbers of records by their places in their stream."""
        places = {place for some in wanted for place in some}
        if not places:
            return {}
        first = min(places)
        rows = await connection.fetch(SQL["secondary_records"], task_id, stream_no, first, max(places) - first + 1)
        return {first + offset: row["input_no"] for offset, row in enumerate(rows)}

    async def _insert(
        self, connection: Connection, task: Row, plan: TaskPlan, drafts: Sequence[Draft]
    ) -> tuple[list[int], dict[int, int]]:
        """Write the jobs; returns their ids, and how many are in which lot."""
        if not drafts:
            return [], {}
        task_id, serial, revision = task["task_id"], task["serial"], task["revision"]
        job_ids: list[int] = sorted(await connection.fetchval(SQL["reserve_jobs"], len(drafts)))
        lots: dict[int | None, int] = {}
        filled: dict[int, int] = {}
        records = []
        for job_id, draft in zip(job_ids, drafts, strict=True):
            serial += 1
            memory = _memory(plan, draft)
            lot_id = lots.get(memory)
            if lot_id is None:
                lot_id = lots[memory] = await lot_for(connection, task, plan, memory_mb=memory)
            filled[lot_id] = filled.get(lot_id, 0) + 1
            records.append(
                (
                    job_id,
                    task_id,
                    lot_id,
                    draft.attempt,
                    serial,
                    revision,
                    draft.inputs,
                    draft.others,
                    draft.parent,
                    plan.debug,
                )
            )
        await connection.copy_records_to_table("job", schema_name="task", columns=_JOB_COLUMNS, records=records)
        return job_ids, filled

    async def _count(
        self, connection: Connection, task: Row, inputs: int, firsts: int, filled: Mapping[int, int]
    ) -> None:
        """Count what was made; the lots last, so that the hand-out waits for none of it."""
        store, task_id, jobs = self._desk.store, task["task_id"], sum(filled.values())
        if not jobs:
            return
        await store.run(connection, "count_made", task_id, inputs, jobs, firsts, jobs)
        for lot_id, count in sorted(filled.items()):
            await store.run(connection, "fill_lot", lot_id, count)


def _room(task: Row, plan: TaskPlan, scouts: int) -> int:
    """Return how many jobs may be made that are no second attempt."""
    room = scouts or CHUNK
    return min(room, max(plan.rule.max_jobs - task["fresh"], 0)) if plan.rule.max_jobs else room


def _scouts_rule(plan: TaskPlan) -> SplitRule:
    """Return the rule that scouts are cut by: one file each where none is given, unless the task wants its rule respected."""
    rule = plan.rule
    given = rule.files_per_job or rule.bytes_per_job or rule.events_per_job or plan.respect_split_rule
    return rule if given else replace(rule, files_per_job=1)


def _alike(rows: Sequence[Row], plan: TaskPlan) -> list[list[Row]]:
    """Part inputs by what a job with them asks for."""
    if not plan.memory_step_mb:
        return [list(rows)] if rows else []
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["failures"], []).append(row)
    return [parts[failures] for failures in sorted(parts)]


def _draft(cut: Sequence[Unit], facts: Mapping[int, Row]) -> Draft:
    return _draft_of_rows([facts[unit.number] for unit in cut])


def _draft_of_rows(rows: Sequence[Row]) -> Draft:
    return Draft(
        [row["input_no"] for row in rows],
        attempt=1 + max(row["attempts"] for row in rows),
        failures=max(row["failures"] for row in rows),
        parent=next((row["job_id"] for row in rows if row["job_id"] is not None), None),
    )


def _memory(plan: TaskPlan, draft: Draft) -> int | None:
    """Return what a job asks for that failed before, if that is more than what the task says; in MB."""
    if not plan.memory_step_mb or not draft.failures:
        return None
    asked = plan.requirements.memory_mb + plan.memory_step_mb * draft.failures
    return min(asked, plan.memory_max_mb) if plan.memory_max_mb else asked


def _check_numbers(plan: TaskPlan, inputs: int, first: int) -> None:
    for stream in plan.streams:
        if stream.kind in ("number", "random_seed"):
            count = number_count(stream, plan.rule, inputs)
            number(stream, number_position(first, plan.rule), count)
