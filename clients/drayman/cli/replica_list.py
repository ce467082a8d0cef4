"""Lists of replicas: JSON lines, or CSV with a header."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Mapping
from typing import Any

from drayman.cli.lines import numbered_lines
from drayman.cli.output import Failure, printable
from drayman.cli.values import json_object
from drayman.client import Replica

_FIELDS = ("namespace", "name", "rse", "url", "urls", "path", "preference", "available")
#: More than any replica needs: a quote that is never closed must not take in the rest of the file.
_LONGEST_CELLS = 1 << 16
_YES = ("true", "yes", "1")
_NO = ("false", "no", "0")


async def read_replicas(source: str) -> AsyncIterator[Replica]:
    """Yield the replicas of a file, `-` for standard input. Raises OSError, and Failure that names the line."""
    lines = numbered_lines(source)
    header: list[str] | None = None
    json_lines = False
    async for number, line in lines:
        if not line.strip():
            continue
        place = f"line {number}"
        if json_lines or (header is None and line.startswith("{")):
            json_lines = True
            try:
                record = json_object(line)
            except ValueError as error:
                raise Failure(f"{place}: {printable(str(error))}") from error
            _known(record, place)
            yield _replica(record, place)
            continue
        cells = await _cells(line, lines, place)
        if header is None:
            header = [cell.strip().lower() for cell in cells]
            _known(dict.fromkeys(header), place)
        elif len(cells) != len(header):
            raise Failure(f"{place}: {len(cells)} columns, the header has {len(header)}")
        else:
            yield _replica(_typed(dict(zip(header, cells, strict=True)), place), place)


async def _cells(line: str, lines: AsyncIterator[tuple[int, str]], place: str) -> list[str]:
    # a quoted cell may go over lines; a quote in it is doubled
    while line.count('"') % 2:
        following = await anext(lines, None)
        if following is None or len(line) > _LONGEST_CELLS:
            raise Failure(f"{place}: a quote is not closed")
        line += f"\n{following[1]}"
    try:
        return next(csv.reader(line.splitlines(keepends=True) if "\n" in line else [line], strict=True))
    except csv.Error as error:
        raise Failure(f"{place}: {error}") from error


def _known(record: Mapping[str, Any], place: str) -> None:
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise Failure(f"{place}: unknown field {printable(unknown)!r}: expected some of {', '.join(_FIELDS)}")
    missing = next((name for name in _FIELDS[:3] if name not in record), None)
    if missing is not None:
        raise Failure(f"{place}: the field {missing} is missing")


def _typed(cells: Mapping[str, str], place: str) -> dict[str, Any]:
    """Give the texts of a CSV line their types; an empty one means the default, but for names."""
    record: dict[str, Any] = {name: text for name, text in cells.items() if text or name in _FIELDS[:3]}
    try:
        if "preference" in record:
            record["preference"] = int(record["preference"])
    except ValueError as error:
        raise Failure(f"{place}: the preference {printable(cells['preference'])!r} is no number") from error
    if "available" in record:
        word = record["available"].strip().lower()
        if word not in (*_YES, *_NO):
            raise Failure(f"{place}: available is {printable(word)!r}: expected true or false")
        record["available"] = word in _YES
    if "urls" in record:
        record["urls"] = record["urls"].split()
    return record


def _replica(record: Mapping[str, Any], place: str) -> Replica:
    urls = record.get("urls") or ([record["url"]] if record.get("url") else [])
    texts = [record["namespace"], record["name"], record["rse"], record.get("path") or ""]
    preference, available = record.get("preference", 0), record.get("available", True)
    if not isinstance(urls, list) or not all(isinstance(text, str) for text in [*texts, *urls]):
        raise Failure(f"{place}: names, path and URLs must be texts")
    if type(preference) is not int or not -(2**31) <= preference < 2**31 or not isinstance(available, bool):
        raise Failure(f"{place}: the preference must be a 32-bit number, available true or false")
    try:
        "".join([*texts, *urls]).encode()
    except UnicodeEncodeError as error:
        raise Failure(f"{place}: not UTF-8") from error
    return Replica(
        record["namespace"],
        record["name"],
        record["rse"],
        urls=tuple(urls),
        path=record.get("path"),
        preference=preference,
        available=available,
    )
