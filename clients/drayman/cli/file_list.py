"""The files of a new project, as they are given on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drayman.cli.file_entry import file_array, file_object
from drayman.cli.json_values import json_object
from drayman.cli.lines import numbered_lines
from drayman.cli.output import Failure, printable
from drayman.client import File


class FileList:
    """Files named one by one, then those of a list, then those found. To be read once, with `async for`."""

    def __init__(
        self,
        dids: Sequence[str],
        source: str | None,
        *,
        array: bool = False,
        found: Iterable[File] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """`source` is a file, `-` for standard input: lines, or one JSON array. `attributes` are laid under each file's own.

        Raises Failure for a DID without a colon.
        """
        self._files = [_file(did, "--file") for did in dids]
        self._source = source
        self._array = array
        self._found = found
        self._attributes = attributes or {}

    def __aiter__(self) -> AsyncIterator[File]:
        """Start reading."""
        return self._read()

    async def _read(self) -> AsyncIterator[File]:
        empty = True
        async for file in self._all():
            empty = False
            yield replace(file, attributes={**self._attributes, **file.attributes}) if self._attributes else file
        _refuse_empty(empty=empty)

    async def _all(self) -> AsyncIterator[File]:
        for file in self._files:
            yield file
        if self._source is not None:
            async for file in _array(self._source) if self._array else _lines(self._source):
                yield file
        for file in self._found:
            yield file


async def _lines(source: str) -> AsyncIterator[File]:
    async for number, line in numbered_lines(source):
        if line.strip():
            yield _entry(line, f"line {number}")


async def _array(source: str) -> AsyncIterator[File]:
    text = "\n".join([line async for _, line in numbered_lines(source)])
    try:
        files = file_array(text)
    except ValueError as error:
        raise Failure(printable(str(error))) from error
    for number, file in enumerate(files, 1):
        _check(file.namespace + file.name, f"entry {number}")
        yield file


def _refuse_empty(*, empty: bool) -> None:
    # a project without files is almost always a search that found nothing
    if empty:
        raise Failure("the list has no files")


def _entry(line: str, place: str) -> File:
    """Read `namespace:name`, taken to the letter, or a JSON object."""
    if not line.startswith("{"):
        return _file(line, place)
    try:
        file = file_object(json_object(line))
    except ValueError as error:
        raise Failure(f"{place}: {printable(str(error))}") from error
    _check(file.namespace + file.name, place)
    return file


def _file(did: str, place: str) -> File:
    _check(did, place)
    try:
        return File.of(did)
    except ValueError as error:
        raise Failure(f"{place}: {printable(did)!r} is no namespace:name") from error


def _check(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(f"{place}: {printable(text)!r} is not UTF-8") from error
