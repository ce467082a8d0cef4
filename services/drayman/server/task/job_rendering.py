"""What a job is, in full: made of its row and its task's plan when somebody asks. Pure.

Rows have `task_id, job_id, kind, attempt, serial, inputs, others, records, sources, own` as the statements `draw` and `jobs` give them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from drayman.server.task.dataset_names import Place, output_place
from drayman.server.task.parameter_values import as_text
from drayman.server.task.placeholders import PlaceholderError, command_line, list_files, output_name
from drayman.server.task.plan import Item, JobFacts, Stream, TaskPlan, Unit
from drayman.server.task.splitting import (
    NotEnough,
    event_window,
    number,
    number_count,
    number_position,
)

#: Numbers of build jobs in the places of their outputs: beyond those of the other jobs.
_FIRST_BUILD = 9_000_000


class Record(NamedTuple):
    """A record of an input, as the statements give it."""

    number: int
    stream_no: int
    name: str
    scope: str | None
    size: int
    checksum: str | None
    place: str | None
    urls: list[str] | None
    guid: str | None
    events: int
    first_event: int
    dataset: str | None
    state: str


class Source(NamedTuple):
    """What another job made, as the statements give it."""

    name: str
    stream: str
    type: str
    dataset: str
    project: str
    asset: str
    version: str
    size: int
    checksum: str
    events: int
    state: str


@dataclass(frozen=True, slots=True)
class JobInput:
    """A file that a job reads. `registry` is where it is in the registry, if it is there."""

    name: str
    type: str
    dataset: str
    stream: str
    number: int = 0
    size: int = 0
    checksum: str = ""
    scope: str = ""
    registry: str = ""
    urls: tuple[str, ...] = ()
    guid: str = ""
    status: str = "ready"


class ExpectedOutput(NamedTuple):
    """A file that a job has to make, and where it goes."""

    name: str
    stream: str
    type: str  # output, log or lib
    dataset: str
    place: Place
    optional: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """A job: what runs, what it reads and makes. `lists`: names of files to write, and what goes into each, a line each."""

    program: str
    parameters: str
    inputs: tuple[JobInput, ...]
    outputs: tuple[ExpectedOutput, ...]
    lists: Mapping[str, tuple[str, ...]]


class Row(Protocol):
    """A row of a statement."""

    def __getitem__(self, column: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """Return the names of the columns."""


class RenderingError(ValueError):
    """A job that cannot be run as it is; the text says why."""


def render(plan: TaskPlan, row: Row, *, outputs: str) -> Rendered:
    """Render a job of a task; `outputs` is the registry's project of datasets that name none. Raises RenderingError."""
    try:
        if row["kind"] == "build":
            return _render_build(plan, row, outputs)
        if row["kind"] == "merge":
            return _render_merge(plan, row, outputs)
        return _render_run(plan, row, outputs)
    except (PlaceholderError, NotEnough, ValueError) as error:
        raise RenderingError(str(error)) from error


def expected_outputs(plan: TaskPlan, row: Row, *, outputs: str) -> tuple[ExpectedOutput, ...]:
    """Return what a job of a task has to make. Raises RenderingError."""
    return render(plan, row, outputs=outputs).outputs


def records_of(row: Row) -> list[Record]:
    """Read a job's records, in the order it has them."""
    text = row["records"]
    if text is None:
        return []
    found = {fields[0]: Record(*fields) for fields in json.loads(text)}
    return [found[n] for n in (*row["inputs"], *row["others"]) if n in found]


def sources_of(row: Row) -> list[Source]:
    """Read what other jobs made for this one."""
    text = row["sources"]
    return [] if text is None else [Source(*fields) for fields in json.loads(text)]


# --- jobs over inputs -----------------------------------------------------------------------------------------------


def _render_run(plan: TaskPlan, row: Row, project: str) -> Rendered:
    streams = {stream.number: stream for stream in plan.streams}
    records = records_of(row)
    inputs: dict[str, list[str]] = {}
    datasets: dict[str, str] = {}
    files = []
    for record in records:
        stream = streams.get(record.stream_no)
        if stream is None:
            continue  # of a task without any input
        inputs.setdefault(stream.name, []).append(record.name)
        if stream.name not in datasets:
            datasets[stream.name] = record.dataset or ""
        files.append(_input(record, stream))
    libraries = sources_of(row)
    files += [_made(source, "LIB") for source in libraries]
    units = [Unit(n.number, n.size, n.events, n.first_event) for n in records[: len(row["inputs"])]]
    window = event_window(units, plan.rule)
    made: dict[str, str] = {}
    facts = JobFacts(
        task_id=row["task_id"],
        serial=row["serial"],
        attempt=row["attempt"],
        inputs={name: tuple(names) for name, names in inputs.items()},
        outputs=made,
        numbers=_numbers(plan, row["inputs"]),
        first_event=window.first,
        skip_events=window.skip,
        max_events=window.most,
        source_url=plan.source_url,
        library=libraries[0].name if libraries else "",
        datasets=datasets,
        offset=_offset(plan),
    )
    outputs = tuple(_outputs(plan, row, facts, project, ("output", "log")))
    made.update((output.stream, output.name) for output in outputs)
    return Rendered(plan.program, command_line(plan.items, facts), tuple(files), outputs, list_files(plan.items, facts))


def _outputs(plan: TaskPlan, row: Row, facts: JobFacts, project: str, kinds: Sequence[str]) -> Iterable[ExpectedOutput]:
    for stream in plan.streams:
        if stream.kind in kinds:
            dataset = stream.datasets[0]
            place = output_place(dataset, outputs=project, task_id=row["task_id"], serial=row["serial"])
            kind = "log" if stream.kind == "log" else "output"
            # a job is good without its log
            optional = stream.allow_no_output or kind == "log"
            name = output_name(stream.value, facts, stream)
            yield ExpectedOutput(name, stream.name, kind, dataset, place, optional)


def _numbers(plan: TaskPlan, inputs: Sequence[int]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for stream in plan.streams:
        if stream.kind in ("number", "random_seed"):
            first = inputs[0] if inputs else 1
            count = number_count(stream, plan.rule, first)
            numbers[stream.name] = number(stream, number_position(first, plan.rule), count)
    return numbers


def _offset(plan: TaskPlan) -> int:
    return next((stream.offset for stream in plan.streams if stream.kind == "output"), 0)


def _input(record: Record, stream: Stream) -> JobInput:
    return JobInput(
        record.name,
        "pseudo_input" if stream.kind == "pseudo_input" else "input",
        record.dataset or "",
        stream.name,
        record.number,
        record.size,
        record.checksum or "",
        record.scope or "",
        record.place or "",
        tuple(record.urls or ()),
        record.guid or "",
    )


def _made(source: Source, stream: str) -> JobInput:
    place = f"{source.project}/{source.asset}/{source.version}/{source.name}"
    return JobInput(
        source.name, "input", source.dataset, stream, size=source.size, checksum=source.checksum, registry=place
    )


def library_dataset(task_id: int) -> str:
    """Return the dataset of what a task's build job makes."""
    return f"lib.{task_id}"


# --- build and merge jobs -------------------------------------------------------------------------------------------


def _render_build(plan: TaskPlan, row: Row, project: str) -> Rendered:
    """A build job turns the sandbox into an archive. `${IN}` is the sandbox, `${OUT}` and `${LIB}` the archive."""
    spec = plan.build or {}
    task_id = row["task_id"]
    row = {**row, "serial": _FIRST_BUILD + row["attempt"]}  # its attempts have no numbers among the task's jobs
    serial = row["serial"]
    dataset = library_dataset(task_id)
    library = f"{dataset}.{row['attempt']:06d}.tgz"
    place = output_place(dataset, outputs=project, task_id=task_id, serial=serial)
    made = [ExpectedOutput(library, "LIB", "lib", dataset, place, False)]
    facts = JobFacts(
        task_id=task_id,
        serial=serial,
        attempt=row["attempt"],
        inputs={"IN": (as_text(spec.get("archiveName")) or "",)},
        outputs={"OUT": library, "OUTPUT0": library},
        source_url=plan.source_url,
        library=library,
    )
    made += _outputs(plan, row, facts, project, ("log",))
    text = (as_text(spec.get("jobParameters")) or "").replace("${OUT}", library)
    parameters = command_line((Item(value=text),), facts)
    return Rendered(as_text(spec.get("transPath")) or plan.program, parameters, (), tuple(made), {})


def _render_merge(plan: TaskPlan, row: Row, project: str) -> Rendered:
    """A merge job puts the outputs of several jobs together, stream by stream: `${TRN_OUTPUT0}` are what `${OUTPUT0}` is made of.

    Without a program the worker writes them one after the other, which it is told by an empty one.
    """
    spec = plan.merge or {}
    sources = sources_of(row)
    inputs: dict[str, list[str]] = {}
    for source in sources:
        inputs.setdefault(f"TRN_{source.stream}", []).append(source.name)
    made: dict[str, str] = {}
    facts = JobFacts(
        task_id=row["task_id"],
        serial=row["serial"],
        attempt=row["attempt"],
        inputs={name: tuple(names) for name, names in inputs.items()}
        | {"IN": tuple(name for names in inputs.values() for name in names)},
        outputs=made,
        source_url=plan.source_url,
        offset=_offset(plan),
    )
    outputs = tuple(
        output
        for output in _outputs(plan, row, facts, project, ("output", "log"))
        if output.type == "log" or f"TRN_{output.stream}" in inputs
    )
    made.update((output.stream, output.name) for output in outputs)
    text = as_text(spec.get("jobParameters")) or ""
    files = tuple(_made(source, f"TRN_{source.stream}") for source in sources)
    parameters = command_line((Item(value=text),), facts) if text else ""
    return Rendered(as_text(spec.get("transPath")) or "", parameters, files, outputs, {})
