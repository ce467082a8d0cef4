"""How inputs become records, and records become jobs (reference §4.4). Pure.

Files are cut into records (`task.input`): a file, or a window of its events. Records, in their order, are put together to jobs. Both can be
done chunk by chunk, and a chunk's end never shows in the result.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from drayman.server.task.plan import SplitRule, Stream, Unit

#: Records that a task may have.
MOST_RECORDS = 200_000
#: Files that a job may have, those of secondary streams included.
MOST_FILES_OF_A_JOB = 1_000
#: What a job reads at most where nothing is said.
BYTES_WITHOUT_A_RULE = 20 * 10**9
#: Numbers in a number stream where nothing is said, unless there are more inputs.
NUMBERS_WITHOUT_A_RULE = 10_000


class SplittingError(ValueError):
    """The inputs cannot be cut as the task asks; the text says why."""


class TooMany(SplittingError):
    """More records than a task may have, or more files than a job may have."""


class NotEnough(SplittingError):
    """A secondary or number stream has no more records, and they cannot be used again."""


class UnknownEvents(SplittingError):
    """Events are to be counted, and nobody says how many a file has."""


@dataclass(slots=True)
class InputFile:
    """A file of an input collection. `size` in bytes; `events` 0 = unknown."""

    name: str
    scope: str | None = None
    size: int = 0
    checksum: str | None = None
    events: int = 0
    place: str | None = None  # of a file of the registry: project/asset/version/path
    urls: tuple[str, ...] = ()
    guid: str | None = None


@dataclass(slots=True)
class Window:
    """A record to be: a file, or `events` of its events from `first_event` (from 0) on. `size` is the whole file's."""

    name: str
    scope: str | None = None
    size: int = 0
    checksum: str | None = None
    events: int = 0
    place: str | None = None
    urls: tuple[str, ...] = ()
    guid: str | None = None
    first_event: int = 0


class Cutter:
    """Cuts files into records, however many at a time.

    `files` and `events` are what was cut before, `records` what became of it: a list that grew is gone on with.
    """

    def __init__(self, rule: SplitRule, *, files: int = 0, events: int = 0, records: int = 0) -> None:
        self._rule = rule
        self._files = files
        self._events = events
        self._records = records

    @property
    def full(self) -> bool:
        """Whether the task takes no more files."""
        rule = self._rule
        return 0 < rule.n_files <= self._files or 0 < rule.n_events <= self._events

    def cut(self, files: Iterable[InputFile]) -> Iterator[Window]:
        """Yield the records of some files, until the task takes no more.

        Raises TooMany at the first record over the limit, and UnknownEvents for a file without a number of events where they count.
        """
        rule = self._rule
        per_file, per_job = rule.events_per_file, rule.events_per_job
        counts = bool(rule.n_events or per_job)
        for file in files:
            if self.full:
                return
            events = file.events or per_file
            if counts:
                if events <= 0:
                    raise UnknownEvents(
                        f"nobody says how many events are in {file.name!a}, and the task counts events"
                        " (nEvents, nEventsPerJob): give nEventsPerFile"
                    )
                if rule.n_events:
                    events = min(events, rule.n_events - self._events)
            self._files += 1
            self._events += events
            if not per_job or events <= per_job:
                self._records += 1
                if self._records > MOST_RECORDS:
                    raise _too_many()
                yield _window(file, events, 0)
                continue
            for first in range(0, events, per_job):
                self._records += 1
                if self._records > MOST_RECORDS:
                    raise _too_many()
                yield _window(file, min(per_job, events - first), first)


def cut(files: Iterable[InputFile], rule: SplitRule) -> Iterator[Window]:
    """Cut a whole list of files into records; see `Cutter`."""
    return Cutter(rule).cut(files)


def listed(names: Iterable[str], rule: SplitRule) -> Iterator[Window]:
    """Make records of the names of `pfnList`: one of them, unless `nFiles` says how many."""
    files = (InputFile(name) for name in names)
    for number, window in enumerate(cut(files, rule), 1):
        yield window
        if number >= 1 and not rule.n_files:
            return


def pseudo(rule: SplitRule) -> Iterator[Window]:
    """Make the records of a task without input: one, or a window for each `nEventsPerJob` of `nEvents`, or `nFiles`.

    Each is named by its number, from 1. Raises TooMany.
    """
    events, per_job = rule.n_events, rule.events_per_job
    if events and per_job:
        count = -(-events // per_job)
    else:
        count = max(rule.n_files, 1)
        if not per_job and count == 1:
            per_job = events
    if count > MOST_RECORDS:
        raise _too_many(count)
    for number in range(count):
        first = number * per_job
        window = min(per_job, events - first) if events else per_job
        yield Window(str(number + 1), events=window, first_event=first)


def groups(units: Iterable[Unit], rule: SplitRule, *, last: bool) -> Iterator[tuple[Unit, ...]]:
    """Put records together to jobs, in their order.

    Without `last` an incomplete group at the end is kept back: begin the next chunk with the first record that was not given out.
    A job has `nFilesPerJob` records; or as many as fit into `nGBPerJob` or `nEventsPerJob`, but at least one and at most
    `nMaxFilesPerJob`; or, where nothing is said, as many as fit into 20 GB.
    """
    most = min(rule.files_per_job or rule.max_files_per_job or MOST_FILES_OF_A_JOB, MOST_FILES_OF_A_JOB)
    if rule.events_per_job:
        return _by_events(units, most, rule.bytes_per_job, rule.events_per_job, last=last)
    if rule.files_per_job and not rule.bytes_per_job:
        return _by_number(units, most, last=last)
    return _by_size(units, most, rule.bytes_per_job or BYTES_WITHOUT_A_RULE, last=last)


def _by_number(units: Iterable[Unit], most: int, *, last: bool) -> Iterator[tuple[Unit, ...]]:
    rows = list(units)
    end = len(rows) if last else len(rows) - len(rows) % most
    for first in range(0, end, most):
        yield tuple(rows[first : first + most])


def _by_size(units: Iterable[Unit], most: int, most_bytes: int, *, last: bool) -> Iterator[tuple[Unit, ...]]:
    group: list[Unit] = []
    room = most_bytes
    for unit in units:
        size = unit.size
        if group and size > room:
            yield tuple(group)
            group = []
            room = most_bytes
        group.append(unit)
        room -= size
        if room <= 0 or len(group) == most:
            yield tuple(group)
            group = []
            room = most_bytes
    if last and group:
        yield tuple(group)


def _by_events(
    units: Iterable[Unit], most: int, most_bytes: int, most_events: int, *, last: bool
) -> Iterator[tuple[Unit, ...]]:
    """Group by events. A window that begins within its file begins a job: a job skips events at its beginning only."""
    group: list[Unit] = []
    events = size = 0
    for unit in units:
        # a record without a number is all a job can have: it might have any
        count = unit.events or most_events
        if group and (
            unit.first_event or events + count > most_events or (most_bytes and size + unit.size > most_bytes)
        ):
            yield tuple(group)
            group = []
            events = size = 0
        group.append(unit)
        events += count
        size += unit.size
        if events >= most_events or len(group) == most:
            yield tuple(group)
            group = []
            events = size = 0
    if last and group:
        yield tuple(group)


@dataclass(frozen=True, slots=True)
class EventWindow:
    """What a job's placeholders say of events: the first one's number (from 1), how many to skip in its input, and how many to take."""

    first: int
    skip: int
    most: int  # -1 = all


def event_window(units: Sequence[Unit], rule: SplitRule) -> EventWindow:
    """Return the window of events of a job with these records. Without nEvents and nEventsPerJob there is no limit."""
    skip = units[0].first_event if units else 0
    if not units or not (rule.n_events or rule.events_per_job) or not all(unit.events for unit in units):
        return EventWindow(skip + 1, skip, -1)
    return EventWindow(skip + 1, skip, sum(unit.events for unit in units))


def secondary(
    streams: Iterable[Stream],
    records: Mapping[int, int],
    used: Mapping[int, int],
    primary_files: int,
    *,
    draw: random.Random,
) -> dict[int, tuple[int, ...]]:
    """Choose what a job with `primary_files` files gets of the secondary inputs.

    `records` says how many records there are by number of the stream, `used` how many of them were given to jobs before. The result has,
    by number of the stream, positions from 0 in the stream's records; add their number to `used` for the next job. A stream gives
    `nFilesPerJob` records, or `ratio` for each primary file (1 if nothing is said), one after the other. Those of a `reusable` stream begin
    anew at its end. A `random` one gives them in an order of its own - any, for each job, if they are reusable too.

    Raises NotEnough, and TooMany where a job would have more files than one may.
    """
    chosen: dict[int, tuple[int, ...]] = {}
    files = primary_files
    for stream in streams:
        if stream.kind != "input" or stream.primary:
            continue
        number = stream.number
        need = stream.files_per_job or (stream.ratio or 1) * primary_files
        files += need
        if files > MOST_FILES_OF_A_JOB:
            raise TooMany(
                f"a job would have {files:,} files with those of stream {stream.name}, it can have {MOST_FILES_OF_A_JOB:,}:"
                " ask for fewer with nFilesPerJob or ratio"
            )
        chosen[number] = _of_stream(stream, records.get(number, 0), used.get(number, 0), need, draw)
    return chosen


def _of_stream(stream: Stream, there: int, taken: int, need: int, draw: random.Random) -> tuple[int, ...]:
    if not there or (not stream.reusable and taken + need > there):
        left = max(there - taken, 0)
        raise NotEnough(
            f"stream {stream.name} has {left:,} of {there:,} records left, a job needs {need:,}"
            + ("" if stream.reusable else ", and they are not reusable")
        )
    if stream.random and stream.reusable:
        return tuple(draw.sample(range(there), need) if need <= there else draw.choices(range(there), k=need))
    positions = range(taken, taken + need)
    if stream.random:
        return _scrambled(positions, there, stream.number)
    if taken + need <= there:
        return tuple(positions)
    return tuple(position % there for position in positions)


def _scrambled(positions: Iterable[int], count: int, key: int) -> tuple[int, ...]:
    """Map positions to others, one to one, without keeping a list: what was given before is known by its number only."""
    choose = random.Random(f"{count}.{key}")  # noqa: S311 - an order, no secret
    step = choose.randrange(count) | 1
    while _common(step, count) != 1:
        step += 2
    start = choose.randrange(count)
    return tuple((start + step * position) % count for position in positions)


def _common(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def number_count(stream: Stream, rule: SplitRule, inputs: int) -> int:
    """Return how many numbers a number stream has: `num_records`, else nFiles, else nEvents/nEventsPerJob, else enough for all inputs.

    Raises TooMany.
    """
    if stream.num_records:
        count = stream.num_records
    elif rule.n_files:
        count = rule.n_files
    elif rule.n_events and rule.events_per_job:
        count = -(-rule.n_events // rule.events_per_job)
    else:
        count = max(NUMBERS_WITHOUT_A_RULE, inputs)
    if count > MOST_RECORDS:
        raise _too_many(count)
    return count


def number_position(first: int, rule: SplitRule) -> int:
    """Return which number (from 0) of a number stream a job gets whose first primary record is `first` (from 1).

    Another attempt at the same records gets the same.
    """
    return (first - 1) // rule.files_per_job if rule.files_per_job else first - 1


def number(stream: Stream, position: int, count: int) -> int:
    """Return the number at a position of a number stream with `count` of them: the first is the offset + 1. Raises NotEnough."""
    if position >= count:
        if not stream.reusable or not count:
            raise NotEnough(f"stream {stream.name} has {count:,} numbers, a job needs number {position + 1:,}")
        position %= count
    return stream.offset + 1 + position


def _window(file: InputFile, events: int, first: int) -> Window:
    return Window(file.name, file.scope, file.size, file.checksum, events, file.place, file.urls, file.guid, first)


def _too_many(count: int | None = None) -> TooMany:
    return TooMany(
        f"the task would have {f'{count:,}' if count else 'more than 200,000'} records, it can have {MOST_RECORDS:,}:"
        " take fewer files or events, or more of them for each job"
    )
