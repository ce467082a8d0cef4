"""The files of a new project, as they are given on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from drayman.cli.lines import numbered_lines
from drayman.cli.output import Failure, printable
from drayman.cli.values import json_object
from drayman.client import File


class FileList:
    """Files named one by one, then those of a list. To be read once, with `async for`."""

    def __init__(self, dids: Sequence[str], source: str | None) -> None:
        """`source` is a file, `-` for standard input. Raises Failure for a DID without a colon."""
        self._files = [_file(did, "--file") for did in dids]
        self._source = source

    def __aiter__(self) -> AsyncIterator[File]:
        """Start reading."""
        return self._read()

    async def _read(self) -> AsyncIterator[File]:
        empty = True
        async for file in self._all():
            empty = False
            yield file
        _refuse_empty(empty=empty)

    async def _all(self) -> AsyncIterator[File]:
        for file in self._files:
            yield file
        if self._source is not None:
            async for number, line in numbered_lines(self._source):
                if line.strip():
                    yield _entry(line, f"line {number}")


def _refuse_empty(*, empty: bool) -> None:
    # a project without files is almost always a search that found nothing
    if empty:
        raise Failure("the list has no files")


def _entry(line: str, place: str) -> File:
    """Read `namespace:name`, taken to the letter, or a JSON object."""
    if not line.startswith("{"):
        return _file(line, place)
    try:
        record = json_object(line)
    except ValueError as error:
        raise Failure(f"{place}: {printable(str(error))}") from error
    namespace, name, attributes = record.get("namespace", ""), record.get("name"), record.get("attributes") or {}
    if not isinstance(namespace, str) or not isinstance(name, str) or not isinstance(attributes, dict):
        raise Failure(f'{place}: expected {{"namespace": text, "name": text, "attributes": object}}')
    _check(namespace + name, place)
    return File(namespace, name, attributes)


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
