"""Lists of replicas: JSON lines, or CSV with a header."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from drayman.cli.json_values import json_object
from drayman.cli.lines import numbered_lines
from drayman.cli.output import Failure, printable
from drayman.client import File, Replica

Format = Literal["csv", "jsonl"]

_FIELDS = ("did", "namespace", "name", "rse", "url", "urls", "path", "preference", "available")
_TEXTS = ("did", "namespace", "name", "rse", "path", "url")
#: An empty cell means the default, but for these.
_NAMES = ("did", "namespace", "name")
#: More than any replica needs: a quote that is never closed must not take in the rest of the file.
_LONGEST_CELLS = 1 << 16
_YES = ("true", "yes", "1")
_NO = ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no replica. `problem` says what is wrong or was expected."""

    number: int
    problem: str


async def read_replicas(source: str) -> AsyncIterator[Replica]:
    """Yield the replicas of a file, `-` for standard input. Raises OSError, and Failure that names the line."""
    async for _, found in numbered_replicas(source):
        if isinstance(found, BadLine):
            raise Failure(f"line {found.number}: {found.problem}")
        yield found


async def numbered_replicas(
    source: str, *, form: Format | None = None, rse: str | None = None
) -> AsyncIterator[tuple[int, Replica | BadLine]]:
    """Yield line numbers and replicas of a file, `-` for standard input, or what is wrong with the line; the list goes on after it.

    `form` None = the first character tells. With `rse` the list is that RSE's: its lines need not name it, and must name no other.
    Raises OSError, and Failure that names the line where nothing after it can be read: a bad header, an open quote, no UTF-8.
    """
    lines = numbered_lines(source)
    header: list[str] | None = None
    async for number, line in lines:
        if not line.strip():
            continue
        if form is None:
            form = "jsonl" if line.startswith("{") else "csv"
        cells = [] if form == "jsonl" else await _cells(line, lines, number)
        if form == "csv" and header is None:
            header = _header(cells, number, rse)
            continue
        try:
            record = json_object(line) if header is None else _typed(header, cells)
            yield number, _replica(record, rse)
        except ValueError as error:
            yield number, BadLine(number, printable(str(error)))


async def _cells(line: str, lines: AsyncIterator[tuple[int, str]], number: int) -> list[str]:
    # a quoted cell may go over lines; a quote in it is doubled
    while line.count('"') % 2:
        following = await anext(lines, None)
        if following is None or len(line) > _LONGEST_CELLS:
            raise Failure(f"line {number}: a quote is not closed")
        line += f"\n{following[1]}"
    try:
        return next(csv.reader(line.splitlines(keepends=True) if "\n" in line else [line], strict=True))
    except csv.Error as error:
        raise Failure(f"line {number}: {error}") from error


def _header(cells: list[str], number: int, rse: str | None) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    try:
        _check_fields(dict.fromkeys(names), rse)
    except ValueError as error:
        raise Failure(f"line {number}: {printable(str(error))}") from error
    if len(set(names)) < len(names):
        raise Failure(f"line {number}: the header names a field twice")
    return names


def _check_fields(record: Mapping[str, Any], rse: str | None) -> None:
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise ValueError(f"unknown field {unknown!r}: expected some of {', '.join(_FIELDS)}")
    needed = ["did"] if "did" in record else ["namespace", "name"]
    missing = next((name for name in [*needed, *([] if rse else ["rse"])] if name not in record), None)
    if missing is not None:
        raise ValueError(f"the field {missing} is missing")
    if "did" in record and ("namespace" in record or "name" in record):
        raise ValueError("expected either did or namespace and name")


def _typed(header: list[str], cells: list[str]) -> dict[str, Any]:
    """Give the texts of a CSV line their types. Raises ValueError."""
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} columns, the header has {len(header)}")
    record: dict[str, Any] = {
        name: text for name, text in zip(header, cells, strict=True) if text or name in (*_NAMES, "rse")
    }
    if "preference" in record:
        try:
            record["preference"] = int(record["preference"])
        except ValueError:
            raise ValueError(f"the preference {record['preference']!r} is no number") from None
    if "available" in record:
        word = record["available"].strip().lower()
        if word not in (*_YES, *_NO):
            raise ValueError(f"available is {word!r}: expected true or false")
        record["available"] = word in _YES
    if "urls" in record:
        record["urls"] = record["urls"].split()
    return record


def _replica(record: Mapping[str, Any], rse: str | None) -> Replica:
    _check_fields(record, rse)
    urls = record.get("urls") or ([record["url"]] if record.get("url") else [])
    texts = [record[name] for name in _TEXTS if record.get(name) is not None]
    if not isinstance(urls, list) or not all(isinstance(text, str) for text in [*texts, *urls]):
        raise ValueError("names, path and URLs must be texts")
    preference, available = record.get("preference", 0), record.get("available", True)
    if type(preference) is not int or not -(2**31) <= preference < 2**31 or not isinstance(available, bool):
        raise ValueError("the preference must be a 32-bit number, available true or false")
    try:
        everything = "".join([*texts, *urls])
        everything.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not UTF-8") from error
    if "\x00" in everything:
        raise ValueError("NUL in a text")
    file = File.of(record["did"]) if "did" in record else File(record["namespace"], record["name"])
    if not file.name:
        raise ValueError("the name is empty")
    return Replica(
        file.namespace,
        file.name,
        _rse(record.get("rse") or "", rse),
        urls=tuple(urls),
        path=record.get("path"),
        preference=preference,
        available=available,
    )


def _rse(given: str, only: str | None) -> str:
    if only is not None and given not in ("", only):
        raise ValueError(f"RSE {given!r}: expected {only!r}, whose list this is")
    if not given and only is None:
        raise ValueError("the RSE is empty")
    return given or only or ""
