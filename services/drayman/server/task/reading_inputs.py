"""From `defined` to `ready`: the lists of the input collections are read, and compared with those read before.

Files arrive in a table of the connection, a chunk at a time; one transaction then makes records of what is new, marks what vanished, and
takes back what came back. Until then nothing of the task has changed, so a reading that was cut off is simply begun again.
"""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from drayman.server.platform.errors import Refusal
from drayman.server.task.collections import Collection
from drayman.server.task.dataset_names import DatasetNameError
from drayman.server.task.desk import AGAIN, CHUNK, Desk, Wait, lock_if
from drayman.server.task.parents import Parent, parent_of
from drayman.server.task.plan import SplitRule, Stream, TaskPlan
from drayman.server.task.refining import broken, is_written_late, pending, primary_of
from drayman.server.task.splitting import Cutter, InputFile, SplittingError, Window, listed, pseudo
from drayman.server.task.task_states import TaskState
from drayman.server.task.task_store import SQL, Connection, Row

_COLUMNS = (
    "stream_no",
    "dataset_no",
    "name",
    "scope",
    "size",
    "checksum",
    "events",
    "first_event",
    "place",
    "urls",
    "guid",
)


class _Unknown(Exception):
    """There is no such collection."""


async def read_inputs(desk: Desk, task: Row) -> Wait:
    """Read the lists of a task that is defined."""
    plan = await desk.plans.plan(task["task_id"], task["revision"])
    parent = await parent_of(desk, task)
    if plan.wait_parent and parent is Parent.ACTIVE:
        return await pending(desk, task, TaskState.DEFINED, f"waits for its parent, task {task['parent_id']}")
    try:
        return await _read(desk, task, plan, TaskState.READY)
    except _Unknown as unknown:
        why = f"there is no collection {unknown}"
        if plan.wait_input or parent is Parent.ACTIVE:
            return await pending(desk, task, TaskState.DEFINED, f"{why} yet")
        return await broken(desk, task, why)
    except (SplittingError, DatasetNameError) as error:
        return await broken(desk, task, str(error))


async def read_again(desk: Desk, task: Row, plan: TaskPlan) -> None:
    """Look for what is new in the lists of a task that runs. What is wrong with them just now is not its end."""
    try:
        await _read(desk, task, plan, None)
    except (_Unknown, SplittingError, DatasetNameError):
        return


async def is_growing(desk: Desk, task: Row, plan: TaskPlan) -> bool:
    """Whether more files may come that the task is to wait for."""
    if is_written_late(plan) or plan.listed_files:
        return False
    if not plan.wait_parent and await parent_of(desk, task) is Parent.ACTIVE:
        return True
    return plan.run_until_closed and await may_grow(desk, plan)


async def may_grow(desk: Desk, plan: TaskPlan) -> bool:
    """Whether a collection of the primary input is not closed."""
    for name in primary_of(plan).datasets:
        collection = await _find(desk, name)
        if collection is not None and collection.growing:
            return True
    return False


async def _find(desk: Desk, name: str) -> Collection | None:
    try:
        return await desk.collections.find(name)
    except Refusal as refusal:
        if refusal.reason == "NOT_OFFERED":
            return None
        raise


async def _read(desk: Desk, task: Row, plan: TaskPlan, state: TaskState | None) -> Wait:
    task_id, primary = task["task_id"], primary_of(plan)
    async with desk.store.connection() as connection:
        await connection.execute(SQL["drop_reading"])
        await connection.execute(SQL["make_reading"])
        try:
            await _read_streams(desk, connection, task_id, plan)
            await connection.execute(SQL["index_reading"])
            async with connection.transaction():
                now = await lock_if(desk, connection, task)
                if now is None:
                    return AGAIN
                await connection.execute(SQL["lock_tally"], task_id)
                await connection.execute(SQL["compare_lists"])
                unwritten = 0
                if is_written_late(plan):
                    await _expect(connection, task_id, plan)
                    unwritten = await connection.fetchval(SQL["unwritten"], task_id)
                await connection.execute(SQL["miss_vanished"], task_id, unwritten_stream(plan))
                await connection.execute(SQL["welcome_back"], task_id)
                await connection.execute(SQL["add_read"], task_id, primary.number, plan.max_attempts, plan.max_failures)
                await connection.execute(SQL["recount"], task_id, primary.number, unwritten)
                if not is_written_late(plan):
                    await connection.execute(SQL["count_datasets"], task_id)
                await connection.execute(SQL["compare_no_more"])
                if state is not None:
                    old_state = None if now["state"] == TaskState.PENDING else now["old_state"]
                    await desk.store.move(connection, now, state, old_state=old_state, error="", command=now["command"])
        finally:
            if not connection.is_closed():
                await connection.execute(SQL["drop_reading"])
    desk.tell(task_id)
    return AGAIN


def unwritten_stream(plan: TaskPlan) -> int:
    """Return the number of the stream whose records no list has; -1 = there is none."""
    return primary_of(plan).number if is_written_late(plan) else -1


async def _expect(connection: Connection, task_id: int, plan: TaskPlan) -> None:
    files = events = 0
    for window in pseudo(plan.rule):
        files += 1
        events += window.events
    await connection.execute(SQL["expect"], task_id, primary_of(plan).number, files, events)


async def _read_streams(desk: Desk, connection: Connection, task_id: int, plan: TaskPlan) -> None:
    """Put the files of all input streams into the table."""
    datasets: dict[int, list[tuple[int, str]]] = {}
    for row in await connection.fetch(SQL["datasets"], task_id):
        datasets.setdefault(row["stream_no"], []).append((row["dataset_no"], row["name"]))
    records = 0
    for stream in plan.streams:
        if stream.primary and plan.listed_files:
            dataset_no = datasets[stream.number][0][0]
            rows = [_row(stream, dataset_no, window) for window in listed(plan.listed_files, plan.rule)]
            await _copy(connection, rows)
            records += len(rows)
        elif stream.kind == "input":
            unknown = []
            rule = plan.rule if stream.primary else SplitRule(n_files=stream.n_files)
            cutter = Cutter(rule, records=records)
            for dataset_no, name in datasets.get(stream.number, ()):
                collection = await _find(desk, name)
                if collection is None:
                    unknown.append(name)
                    if not plan.ignore_missing_inputs or len(unknown) == len(datasets[stream.number]):
                        raise _Unknown(name)
                    continue
                async with aclosing(_chunks(desk, collection, stream)) as chunks:
                    async for chunk in chunks:
                        rows = [_row(stream, dataset_no, window) for window in cutter.cut(chunk)]
                        records += len(rows)
                        await _copy(connection, rows)
                        if cutter.full:
                            break


async def _chunks(desk: Desk, collection: Collection, stream: Stream) -> AsyncGenerator[list[InputFile], None]:
    chunk: list[InputFile] = []
    async with aclosing(desk.collections.files(collection)) as files:
        async for file in files:
            if _is_wanted(file.name, stream):
                chunk.append(file)
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
    if chunk:
        yield chunk


def _is_wanted(name: str, stream: Stream) -> bool:
    """Whether a stream takes a file: patterns are as a shell's, and one without `*` or `?` may stand anywhere in the name."""
    if stream.files and name not in stream.files:
        return False
    if stream.include and not _matches(name, stream.include):
        return False
    return not (stream.exclude and _matches(name, stream.exclude))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern) if any(sign in pattern for sign in "*?[") else pattern in name
        for pattern in patterns
    )


def _row(stream: Stream, dataset_no: int, window: Window) -> tuple[object, ...]:
    return (
        stream.number,
        dataset_no,
        window.name,
        window.scope,
        window.size,
        window.checksum,
        window.events,
        window.first_event,
        window.place,
        list(window.urls) or None,
        window.guid,
    )


async def _copy(connection: Connection, rows: list[tuple[object, ...]]) -> None:
    await connection.copy_records_to_table("reading", columns=_COLUMNS, records=rows)
