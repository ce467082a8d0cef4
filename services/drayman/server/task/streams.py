"""Items of `jobParameters`, and the streams they declare (reference §4.2).

A stream of inputs is called as its placeholder is (`${IN2/T}` declares IN2), or else IN, IN2, … as is free; outputs are OUTPUT0, OUTPUT1, …
and logs LOG0, …. The template of an output's name is what follows the last `=` of its value, or its last word; on the command line stands
`${OUTPUT0}` instead. A `pseudo_input` with ${SEQNUMBER} or ${RNDMSEED}, and one that is not the first, is a number stream, as `number` is.

Stored and without effect: `consolidate`, `destination`, `token` and `mergeOnly`. `tmpl_output` is an output like others. `eventRatio`
counts as `ratio`, rounded up: records of a secondary stream are counted in files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from drayman.server.task.parameter_values import Problems, Reader, as_text
from drayman.server.task.plan import Item, Stream, StreamKind
from drayman.server.task.splitting import MOST_FILES_OF_A_JOB, MOST_RECORDS

#: The most items that jobParameters or log may have, and the most streams they may declare.
MAX_ITEMS = 10_000
MAX_STREAMS = 1000

_PLACEHOLDER = re.compile(r"\$\{([^}/\[]+)")
_PLACEHOLDERS = re.compile(r"\$\{[^}]*\}?")
_KINDS: Mapping[str, StreamKind] = {
    "input": "input",
    "output": "output",
    "tmpl_output": "output",
    "log": "log",
    "tmpl_log": "log",
    "pseudo_input": "pseudo_input",
    "number": "number",
    "random_seed": "random_seed",
}
_NUMBERS: Mapping[str, StreamKind] = {"SEQNUMBER": "number", "RNDMSEED": "random_seed"}
#: Values of the job, or of its outputs: no stream of inputs is called so.
_OTHERS = frozenset(
    {"SN", "FIRSTEVENT", "SKIPEVENTS", "MAXEVENTS", "SURL", "LIB", "ATTEMPTNR", "MIDDLENAME", "JEDITASKID", *_NUMBERS}
)
_MADE = re.compile(r"(OUTPUT|LOG)\d+")
_IN = re.compile(r"IN\d*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(
    job_parameters: object,
    log: object,
    *,
    no_input: bool = False,
    listed: bool = False,
    added: Mapping[str, tuple[str, ...]] | None = None,
    problems: Problems | None = None,
) -> tuple[tuple[Item, ...], tuple[Stream, ...]]:
    """Return the items and streams that `jobParameters` and `log` declare.

    With `no_input` there is no primary collection: streams of inputs are secondary. With `listed` the primary stream is a list of names:
    it is the first stream of inputs, or an IN that no item declares. `added` are further datasets of the streams (`dsForIN`).
    Raises ParameterError for what is wrong, unless `problems` collects it.
    """
    found = Problems() if problems is None else problems
    declarations = _Declarations(no_input=no_input, listed=listed, added=added or {}, problems=found)
    if isinstance(job_parameters, list) and len(job_parameters) > MAX_ITEMS:
        found.wrong("jobParameters", job_parameters, f"a list of at most {MAX_ITEMS} items")
    elif isinstance(job_parameters, list):
        for index, item in enumerate(job_parameters):
            declarations.item(item, f"jobParameters[{index}]", default="")
    else:
        found.wrong("jobParameters", job_parameters, "a list of items with type and value")
    if log not in (None, False, "", {}):
        for index, item in enumerate(log[: MAX_STREAMS + 1] if isinstance(log, list) else [log]):
            declarations.item(item, f"log[{index}]" if isinstance(log, list) else "log", default="log")
    streams = declarations.streams()
    _declared({stream.name for stream in streams}, declarations.items, found)
    if problems is None:
        found.raise_any()
    return tuple(declarations.items), streams


def _declared(names: set[str], items: Iterable[Item], problems: Problems) -> None:
    """Note inputs and numbers on the command line that no stream gives."""
    for item in items:
        for name in () if item.hidden else _placeholders(item.value):
            if (_IN.fullmatch(name) or name == "SEQNUMBER") and name not in names:
                problems.add(f"jobParameters use ${{{name}}}, and no item declares a stream {name}")


def _placeholders(value: str) -> Iterable[str]:
    for match in _PLACEHOLDER.finditer(value):
        yield from (name.strip() for name in match[1].split(","))


class _Declarations:
    """Items and streams as they are read, in order."""

    def __init__(
        self, *, no_input: bool, listed: bool, added: Mapping[str, tuple[str, ...]], problems: Problems
    ) -> None:
        self.items: list[Item] = []
        self._streams: list[Stream] = []
        self._logs: list[Stream] = []
        self._no_input = no_input
        self._listed = listed
        self._added = added
        self._problems = problems

    def streams(self) -> tuple[Stream, ...]:
        """Return all streams, numbered: those of the logs last."""
        streams = [*self._streams, *self._logs]
        if self._listed and not any(stream.primary for stream in streams):
            if any(stream.name == "IN" for stream in streams):
                self._problems.add("with pfnList, ${IN} stands for its names: no other stream can be called IN")
            streams.insert(0, Stream(number=0, name="IN", kind="pseudo_input", primary=True))
        return tuple(replace(stream, number=number) for number, stream in enumerate(streams, start=1))

    def item(self, item: object, where: str, *, default: str) -> None:
        """Read one item."""
        if not isinstance(item, Mapping):
            self._problems.wrong(where, item, "an object with type and value")
            return
        value = as_text(item.get("value"))
        if value is None:
            if item.get("value") is None:
                self._problems.add(f"{where} has no value: the text of the command line, or the template of a name")
            else:
                self._problems.wrong(f"{where}.value", item["value"], "a text")
            return
        reader = Reader(item, self._problems, f"{where}.")
        declared = reader.text("param_type", default).strip().lower()
        form = reader.text("type", "template" if declared else "constant").strip().lower()
        hidden, padding = reader.truth("hidden"), reader.truth("padding", default=True)
        if form == "constant" and not default:
            self.items.append(Item(value=value, hidden=hidden, padding=padding))
            return
        if form not in ("template", "constant"):
            reader.wrong("type", "constant or template")
            return
        kind = _KINDS.get(declared)
        if kind is None:
            if declared:
                reader.wrong("param_type", f"one of {', '.join(_KINDS)}")
            else:
                self._problems.add(f"{where} is a template without param_type: one of {', '.join(_KINDS)}")
            return
        if len(self._streams) + len(self._logs) >= MAX_STREAMS:
            self._problems.add(f"jobParameters and log declare more than {MAX_STREAMS} streams")
        elif kind in ("output", "log"):
            self._made(reader, kind, value, hidden=hidden, padding=padding, on_command_line=not default)
        else:
            self._read(reader, kind, value, hidden=hidden, padding=padding)

    def _made(
        self, reader: Reader, kind: StreamKind, value: str, *, hidden: bool, padding: bool, on_command_line: bool
    ) -> None:
        """Read an output or a log."""
        streams = self._logs if kind == "log" else self._streams
        name = f"{kind.upper()}{sum(stream.kind == kind for stream in streams)}"
        words = value.replace("'", " ").replace('"', " ").split("=")[-1].split()
        template = words[-1] if words else ""
        if not _PLACEHOLDERS.sub("", template) or "/" in _PLACEHOLDERS.sub("", template):
            reader.wrong("value", "a template of a file name, such as out.${SN}.root")
        elif any(
            template == stream.value for stream in (*self._streams, *self._logs) if stream.kind in ("output", "log")
        ):
            self._problems.add(
                f"{reader.named('value')} names the file {template} again: every output needs a name of its own"
            )
        if on_command_line:
            replaced = f"${{{name}}}".join(value.rsplit(template, 1)) if template else value
            self.items.append(Item(value=replaced, stream=name, hidden=hidden, padding=padding))
        datasets = reader.words("dataset")
        if not datasets:
            self._missing(reader, "dataset", "the name of the collection that it goes to")
        elif len(datasets) > 1:
            reader.wrong("dataset", "one name")
        streams.append(
            Stream(
                number=0,
                name=name,
                kind=kind,
                value=template,
                datasets=datasets[:1],
                container=reader.text("container").strip(),
                offset=reader.whole("offset"),
                allow_no_output=reader.truth("allowNoOutput"),
                transient=reader.truth("transient"),
            )
        )

    def _read(self, reader: Reader, kind: StreamKind, value: str, *, hidden: bool, padding: bool) -> None:
        """Read a stream of inputs or of numbers."""
        name = self._read_name(kind, value)
        if kind == "pseudo_input" and name in _NUMBERS:
            kind = _NUMBERS[name]
        elif kind == "number":
            kind = _NUMBERS.get(name, kind)
        if name in _OTHERS and name not in _NUMBERS:  # a number that every job has anyway, such as ${FIRSTEVENT}
            self.items.append(Item(value=value, hidden=hidden, padding=padding))
            return
        self.items.append(Item(value=value, stream=name, hidden=hidden, padding=padding))
        if any(stream.name == name for stream in self._streams):
            self._problems.add(
                f"{reader.named('value')} declares the stream {name} again: use another placeholder, such as ${{IN2}}"
            )
            return
        primary = self._is_primary(kind)
        if primary and self._listed:
            kind = "pseudo_input"
        elif kind == "pseudo_input" and not primary:
            kind = "number"
        datasets = reader.words("dataset")
        if kind == "input":
            datasets += tuple(extra for extra in self._added.get(name, ()) if extra not in datasets)
            if not datasets:
                self._missing(reader, "dataset", "the name of a collection, or several with commas")
        self._streams.append(
            Stream(
                number=0,
                name=name,
                kind=kind,
                primary=primary,
                value=value,
                datasets=datasets,
                container=reader.text("container").strip(),
                offset=reader.whole("offset"),
                include=reader.words("include"),
                exclude=reader.words("exclude"),
                files=reader.names("files"),
                expand=reader.truth("expand"),
                files_per_job=reader.whole("nFilesPerJob", most=MOST_FILES_OF_A_JOB),
                ratio=reader.whole("ratio", most=1000) or math.ceil(reader.number("eventRatio", most=1000)),
                n_files=reader.whole("nFiles"),
                reusable=reader.truth("reusable"),
                random=reader.truth("random"),
                num_records=reader.whole("num_records", most=MOST_RECORDS),
            )
        )

    def _read_name(self, kind: StreamKind, value: str) -> str:
        """Return the name of a stream that is read: that of its placeholder."""
        taken = {stream.name for stream in self._streams}
        named = [name for name in _placeholders(value) if _NAME.fullmatch(name)]
        numbers = next((name for name in named if name in _NUMBERS), "")
        inputs = [name for name in named if name not in _OTHERS and not _MADE.fullmatch(name)]
        inputs.sort(key=lambda name: _IN.fullmatch(name) is None)  # ${HOME} is more likely the shell's
        if kind == "random_seed":
            return "RNDMSEED"
        if kind == "number":
            return numbers or next(iter(named), "SEQNUMBER")
        if kind == "pseudo_input" and numbers and not inputs:
            return numbers
        if inputs:
            return next((name for name in inputs if name not in taken), inputs[0])
        if kind == "pseudo_input" and named:
            return named[0]
        free = ("IN", *(f"IN{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in free if name not in taken)

    def _is_primary(self, kind: StreamKind) -> bool:
        """Return whether a stream that comes next is the primary one: the first of inputs, unless there is to be no input collection."""
        if kind not in ("input", "pseudo_input") or any(stream.primary for stream in self._streams):
            return False
        return self._listed or not self._no_input or kind == "pseudo_input"

    def _missing(self, reader: Reader, key: str, accepted: str) -> None:
        if not reader.has(key) or reader.words(key) == ():
            self._problems.add(f"{reader.named(key)} is missing: {accepted}")
