"""Command lines and names of files: what `${...}` stands for (reference §4.3). Pure.

Templates are understood once and then filled in for each job. What stands for nothing stays as it is, such as a shell's `${HOME}`; but a
`${IN...}`, a `${SEQNUMBER}` and anything in a file's name that stands for nothing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from drayman.server.task.formulas import FormulaError, Number
from drayman.server.task.formulas import parse as parse_formula
from drayman.server.task.plan import Item, JobFacts, Stream

CommandLine = Callable[[JobFacts], str]
#: Text that is always the same, or what to ask the facts for; the number is the offset of serial numbers.
Part = Callable[[JobFacts, int], str]

_LONGEST_NAME = 255
_SERIAL_DIGITS = 6

_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_TASK = "$JEDITASKID"
_TERM = r"[A-Za-z_][A-Za-z0-9_]*(?:\[[^\[\]]*\])?"
_INPUTS = re.compile(rf"({_TERM}(?:,{_TERM})*)((?:/[A-Z]+)*)")
_FORMULA = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)/M\[(.*)\]", re.DOTALL)
_ONE_TERM = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[([^\[\]]*)\])?")
_BOUNDS = re.compile(r"(?P<index>-?[0-9]{1,9})|(?P<a>-?[0-9]{1,9})?:(?P<b>-?[0-9]{1,9})?(?::(?P<c>-?[0-9]{1,9})?)?")
_SERIAL = re.compile(r"SN(?:/P|:(.*))?", re.DOTALL)
_FORMAT = re.compile(r"0?[1-9]?[0-9]?d")
_IN = re.compile(r"IN[0-9]*")
_MISSPELT = re.compile(r"(?:IN[0-9]*|SEQNUMBER)(?![A-Za-z0-9_])")
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
_DECORATIONS = frozenset("LATFES")
# a name in a command line must not become another command, whoever chose it
_UNSAFE = re.compile("[\x00-\x1f\x7f\"'`$\\\\;|&<>]")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f/\\\\\ud800-\udfff]")

#: Placeholders of scalar facts; an empty text = nothing to stand for.
_SCALARS: dict[str, Callable[[JobFacts], str]] = {
    "FIRSTEVENT": lambda facts: str(facts.first_event),
    "SKIPEVENTS": lambda facts: str(facts.skip_events),
    "MAXEVENTS": lambda facts: str(facts.max_events),
    "SURL": lambda facts: facts.source_url,
    "LIB": lambda facts: facts.library,
    "ATTEMPTNR": lambda facts: str(facts.attempt),
}


class PlaceholderError(ValueError):
    """A placeholder that cannot be understood, or has to stand for something and does not; the text says which."""


def command_line(items: Sequence[Item], facts: JobFacts) -> str:
    """Return the command line of a job. Raises PlaceholderError."""
    return compile_items(tuple(items))(facts)


@lru_cache(maxsize=1024)
def compile_items(items: tuple[Item, ...]) -> CommandLine:
    """Understand the items of a command line, and return what makes it of a job's facts.

    Raises PlaceholderError, as does what it returns.
    """
    shown = [item for item in items if not item.hidden]
    last = len(shown) - 1
    parts = _parts("".join([item.value + " " * (item.padding and place < last) for place, item in enumerate(shown)]))

    def render(facts: JobFacts) -> str:
        return "".join([part if isinstance(part, str) else part(facts, facts.offset) for part in parts])

    return render


def output_name(template: str, facts: JobFacts, stream: Stream) -> str:
    """Return the name of a job's output or log file. Raises PlaceholderError, also for what cannot name a file.

    Names of different serial numbers differ: where the template has none, `.<serial>` is added from the second job on.
    """
    parts, numbered = _name_parts(template)
    name = "".join([part if isinstance(part, str) else part(facts, stream.offset) for part in parts])
    if not numbered and facts.serial > 1:
        name += f".{facts.serial:0{_SERIAL_DIGITS}d}"
    if "${" in name:
        raise PlaceholderError(f"the name {name[:_LONGEST_NAME]!a} has a placeholder that stands for nothing")
    if not name or name.startswith("..") or name == "." or _UNFIT.search(name) or _UNSAFE.search(name):
        raise PlaceholderError(
            f"{name[:_LONGEST_NAME]!a} cannot name a file that a job makes: no slashes, no quotes, no control"
            " characters, none of $ ; | & < >, and not '..' at its beginning"
        )
    if len(name.encode()) > _LONGEST_NAME:
        raise PlaceholderError(f"{name[:_LONGEST_NAME]!a}... is too long for a name: at most {_LONGEST_NAME} bytes")
    return name


@lru_cache(maxsize=4096)
def _name_parts(template: str) -> tuple[tuple[str | Part, ...], bool]:
    """Understand the template of a name; and tell whether a serial number is in it."""
    numbered = any(_SERIAL.fullmatch(found) for found in _PLACEHOLDER.findall(template))
    return _parts(template, name=True), numbered


def list_file_name(dataset: str) -> str:
    """Return the name of the file in which a worker finds the inputs of a dataset, for `${IN/F}`."""
    return "tmpin_" + _flat(dataset)


def list_files(items: Iterable[Item], facts: JobFacts) -> dict[str, tuple[str, ...]]:
    """Return the files that a job's command line wants to find its inputs in: the names of the inputs, by the file's name."""
    files: dict[str, tuple[str, ...]] = {}
    for item in items:
        if item.hidden or "/" not in item.value:
            continue
        for found in _PLACEHOLDER.findall(item.value):
            match = _INPUTS.fullmatch(found)
            if match and "F" in match[2]:
                terms = _terms(match[1])
                if all(term.stream in facts.inputs for term in terms):
                    files[_list_file(terms, facts)] = tuple(_names(terms, facts))
    return files


def compact(names: Sequence[str]) -> str:
    """Write several names as one: `head[1,2,4]tail` where they differ in one group of digits only, else as a comma list."""
    if len(names) == 1:
        return names[0]
    return _compact(names) or ",".join(names)


def _compact(names: Sequence[str]) -> str | None:
    if not names:
        return None
    # common to the least and the greatest is common to all
    least, greatest = min(names), max(names)
    head = least[: _in_common(least, greatest)].rstrip("0123456789")
    backwards = [name[::-1] for name in names]
    least, greatest = min(backwards), max(backwards)
    tail = least[: _in_common(least, greatest)].rstrip("0123456789")[::-1]
    start, end = len(head), len(tail)
    if any(sign in text for text in (head, tail) for sign in "[],"):
        return None
    numbers = []
    for name in names:
        number = name[start : len(name) - end]
        if not (number.isascii() and number.isdigit()) or len(name) < start + end:
            return None
        numbers.append(number)
    return f"{head}[{','.join(numbers)}]{tail}"


def _in_common(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


@dataclass(frozen=True, slots=True)
class _Term:
    """A stream's inputs, or some of them."""

    stream: str
    cut: slice | None
    index: int | None


def _parts(text: str, *, name: bool = False) -> tuple[str | Part, ...]:
    """Understand a template: texts, and what makes them of a job's facts."""
    parts: list[str | Part] = []
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        made = _part(match[1], match[0], name=name)
        if made is not None:
            _add_text(parts, text[end : match.start()], name=name)
            parts.append(made)
            end = match.end()
    _add_text(parts, text[end:], name=name)
    return tuple(parts)


def _add_text(parts: list[str | Part], text: str, *, name: bool) -> None:
    """Add what stands between placeholders; in names, the task's id has a form of its own."""
    for number, piece in enumerate(text.split(_TASK) if name else [text]):
        if number:
            parts.append(_task_id)
        if piece:
            parts.append(piece)


def _task_id(facts: JobFacts, _: int) -> str:
    return str(facts.task_id)


def _part(inside: str, literal: str, *, name: bool) -> Part | None:
    """Understand one placeholder. None = it is none of ours."""
    if scalar := _SCALARS.get(inside):
        return lambda facts, _: scalar(facts) or literal
    if serial := _SERIAL.fullmatch(inside):
        return _serial(inside, serial[1], name=name)
    if name and (of_name := _OF_NAMES.get(inside)):
        return of_name
    if formula := _FORMULA.fullmatch(inside):
        return _computed(formula[1], formula[2], literal)
    if inputs := _INPUTS.fullmatch(inside):
        return _named(inputs[1], inputs[2], literal)
    if _MISSPELT.match(inside):
        raise PlaceholderError(f"{literal[:_LONGEST_NAME]!a} is not understood")
    return None


def _serial(inside: str, spec: str | None, *, name: bool) -> Part:
    if spec is None:
        if name or inside.endswith("/P"):
            return lambda facts, offset: f"{facts.serial + offset:06d}"
        return lambda facts, offset: str(facts.serial + offset)
    if not _FORMAT.fullmatch(spec):
        raise PlaceholderError(f"{spec[:_LONGEST_NAME]!a} is no format of a serial number: such as 09d")
    return lambda facts, offset: format(facts.serial + offset, spec)


def _middle_name(facts: JobFacts, _: int) -> str:
    """The first input's name without the number of an attempt and without its last suffix."""
    for names in facts.inputs.values():
        if names:
            plain = re.sub(r"\.[0-9]+$", "", names[0].rpartition("/")[2])
            return plain.rpartition(".")[0] or plain
    raise PlaceholderError("${MIDDLENAME} stands for nothing: the job has no input")


#: What stands for something in names only.
_OF_NAMES: dict[str, Part] = {"MIDDLENAME": _middle_name, "JEDITASKID": _task_id}


def _computed(stream: str, text: str, literal: str) -> Part:
    try:
        formula = parse_formula(text)
    except FormulaError as error:
        raise PlaceholderError(f"{literal[:_LONGEST_NAME]!a}: {error}") from None

    def part(facts: JobFacts, _: int) -> str:
        names = facts.inputs.get(stream)
        if names is None:
            return _left_over(stream, literal)
        if len(names) != 1:
            raise PlaceholderError(f"{literal!a} is for jobs with one input, this one has {len(names)}")
        match = _NUMBER.fullmatch(names[0])
        if not match:
            raise PlaceholderError(f"{literal!a} is for inputs that are named by numbers, not {names[0][:64]!a}")
        number: Number = float(names[0]) if match[1] else int(names[0])
        try:
            return str(formula(number))
        except FormulaError as error:
            raise PlaceholderError(f"{literal!a}: {error}") from None

    return part


def _named(terms_text: str, decorations_text: str, literal: str) -> Part | None:
    """Understand a placeholder that names streams: inputs mostly, but also outputs and numbers."""
    decorations = frozenset(decorations_text.replace("/", ""))
    ours = _must_stand(_first_term(terms_text))
    if not decorations <= _DECORATIONS:
        if ours:
            wrong = "".join(sorted(decorations - _DECORATIONS))
            raise PlaceholderError(f"{literal[:_LONGEST_NAME]!a} is not understood: there is no /{wrong}")
        return None
    try:
        terms = _terms(terms_text)
    except PlaceholderError:
        if ours:
            raise
        return None
    write = _writer(decorations, literal)
    if len(terms) == 1 and terms[0].cut is None and terms[0].index is None:
        return _whole(terms[0].stream, terms, write, literal, decorated=bool(decorations))

    def part(facts: JobFacts, _: int) -> str:
        inputs = facts.inputs
        for term in terms:
            if term.stream not in inputs:
                return _left_over(term.stream, literal)
        return write(_names(terms, facts), terms, facts)

    return part


_Writer = Callable[[Sequence[str], tuple[_Term, ...], JobFacts], str]


def _whole(stream: str, terms: tuple[_Term, ...], write: _Writer, literal: str, *, decorated: bool) -> Part:
    """What the commonest placeholder stands for: a stream's name and nothing else."""

    def part(facts: JobFacts, _: int) -> str:
        names = facts.inputs.get(stream)
        if names is not None:
            return write(names, terms, facts)
        if not decorated:
            if (name := facts.outputs.get(stream)) is not None:
                return name
            if (number := facts.numbers.get(stream)) is not None:
                return str(number)
        return _left_over(stream, literal)

    return part


def _left_over(stream: str, literal: str) -> str:
    """A placeholder without anything to stand for stays, if it may."""
    if _must_stand(stream):
        raise PlaceholderError(f"{literal[:_LONGEST_NAME]!a} stands for nothing: the task has no stream {stream}")
    return literal


def _must_stand(stream: str) -> bool:
    return bool(_IN.fullmatch(stream)) or stream == "SEQNUMBER"


def _writer(decorations: frozenset[str], literal: str) -> _Writer:
    """Return how names are written (the letters after the slash)."""
    if "F" in decorations:
        return lambda _, terms, facts: _list_file(terms, facts)
    if not decorations:
        return lambda names, _, __: compact(_safe(names, literal))
    separator = " " if "S" in decorations else ","
    quote = "'" if "A" in decorations else ""
    decode, as_list = "E" in decorations, "T" in decorations

    def write(names: Sequence[str], _: tuple[_Term, ...], __: JobFacts) -> str:
        if decode:
            names = [unquote(name) for name in names]
        names = _safe(names, literal)
        if as_list:
            return "['" + "', '".join(names) + "']" if names else "[]"
        return quote + f"{quote}{separator}{quote}".join(names) + quote if names else ""

    return write


def _safe(names: Sequence[str], literal: str) -> Sequence[str]:
    if _UNSAFE.search("".join(names)):
        name = next(name for name in names if _UNSAFE.search(name))
        raise PlaceholderError(
            f"the name {name[:64]!a} cannot be in a command line for {literal[:_LONGEST_NAME]!a}: it has a quote, a control"
            r" character or one of $ ` \ ; | & < >; /F gives names in a file"
        )
    return names


def _list_file(terms: tuple[_Term, ...], facts: JobFacts) -> str:
    return "tmpin_" + "_".join([_flat(facts.datasets.get(term.stream, term.stream)) for term in terms])


def _flat(dataset: str) -> str:
    return _UNSAFE.sub("_", dataset.strip("/").replace("/", "_"))


def _names(terms: tuple[_Term, ...], facts: JobFacts) -> list[str]:
    names: list[str] = []
    for term in terms:
        there = facts.inputs[term.stream]
        if term.cut is not None:
            names += there[term.cut]
        elif term.index is None:
            names += there
        elif -len(there) <= term.index < len(there):
            names.append(there[term.index])
        else:
            raise PlaceholderError(
                f"${{{term.stream}[{term.index}]}} stands for nothing: the job has {len(there)} inputs of it"
            )
    return names


def _first_term(text: str) -> str:
    match = _ONE_TERM.match(text)
    return match[1] if match else ""


@lru_cache(maxsize=4096)
def _terms(text: str) -> tuple[_Term, ...]:
    return tuple(_term(match[1], match[2]) for match in _ONE_TERM.finditer(text))


def _term(stream: str, bounds: str | None) -> _Term:
    if bounds is None:
        return _Term(stream, None, None)
    match = _BOUNDS.fullmatch(bounds.replace(" ", ""))
    if not match or (match["c"] and int(match["c"]) == 0):
        raise PlaceholderError(f"${{{stream}[{bounds[:64]}]}} is not understood: such as [0:2]")
    if match["index"] is not None:
        return _Term(stream, None, int(match["index"]))
    a, b, c = (int(bound) if bound else None for bound in (match["a"], match["b"], match["c"]))
    return _Term(stream, slice(a, b, c), None)
