"""The files of a new project: a list of lines, a JSON list, or what a query finds in MetaCat."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from drayman.cli.file_entry import file_array
from drayman.cli.metacat import QueryError, query_files
from drayman.client.files import File
from drayman.ddisp.endings import Misuse, Refusal
from drayman.ddisp.values import attribute_words


def listed(source: str) -> list[File]:
    """Read a list with `namespace:name [name=value ...]` a line; `-` is standard input. Raises OSError, and Refusal that names the line."""
    files: list[File] = []
    for number, line in enumerate(_bytes(source).split(b"\n"), 1):
        try:
            words = line.decode("utf-8-sig" if number == 1 else "utf-8").split(None, 1)
            if words:
                files.append(File.of(words[0], attribute_words(*words[1:])))
        except ValueError as error:
            problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise Refusal(f"line {number}: {problem}") from error
    return files


def json_listed(source: str) -> list[File]:
    """Read a JSON list of `"namespace:name"` and `{"namespace", "name", "attributes"}`; `-` is standard input. Raises OSError, Refusal."""
    try:
        return file_array(_bytes(source).decode("utf-8-sig"))
    except ValueError as error:
        raise Refusal(f"the file list: {'not UTF-8' if isinstance(error, UnicodeDecodeError) else error}") from error


def query_in(source: str) -> str:
    """Read the query in a file; `-` is standard input. Raises OSError, and Misuse for an empty one."""
    try:
        query = _bytes(source).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Refusal("the query is not UTF-8") from error
    if not query:
        raise Misuse("the query is empty")
    return query


def queried(query: str, fields: Sequence[str]) -> list[File]:
    """Ask MetaCat. Raises Refusal."""
    try:
        return query_files(query, fields)
    except QueryError as error:
        raise Refusal(str(error)) from error


def _bytes(source: str) -> bytes:
    if source != "-":
        return Path(source).read_bytes()
    if sys.stdin is None:  # closed by whoever started us
        raise Refusal("standard input is closed")
    return sys.stdin.buffer.read()
