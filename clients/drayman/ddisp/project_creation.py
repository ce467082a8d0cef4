"""`ddisp project create` and `copy`."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from typing import Any

from drayman.client.files import File
from drayman.ddisp import file_sources
from drayman.ddisp.client import Client
from drayman.ddisp.command import Command, Option, Options
from drayman.ddisp.endings import Answer, Misuse, Refusal
from drayman.ddisp.output import print_json, print_line
from drayman.ddisp.values import attributes, names, one_of, project_id, timeout

_FORMATS = ("json", "pprint", "id")
_ATTRIBUTES = (
    Option("A", "<attributes>", 'attributes of the project: "name=value ...", or @<file> with a JSON object'),
    Option("a", "<attributes>", "attributes of every file, in the same way"),
)
_PRINTED = Option("p", "<format>", "print the new project as json or pprint; default: its id")


def _create(client: Client, options: Options, words: list[str]) -> None:
    printed = one_of(options.get("p", "id"), _FORMATS, "p")
    given: dict[str, Any] = {
        "common_attributes": attributes(options.get("a", "")),
        "project_attributes": attributes(options.get("A", "")),
        "worker_timeout": timeout(options.get("w", "12h")),
        "idle_timeout": timeout(options.get("t", "72h")),
        "users": names(options.get("u", "")),
        "roles": names(options.get("r", "")),
    }
    files, query = _files(options, words)
    if not files:
        raise Refusal("Empty file list")
    dicts = ({"namespace": file.namespace, "name": file.name, "attributes": file.attributes} for file in files)
    _print(client.create_project(dicts, query=query, **given), printed)


def _files(options: Options, words: list[str]) -> tuple[list[File], str | None]:
    if bool(words) + ("l" in options) + ("j" in options) + ("q" in options) != 1:
        raise Misuse("exactly one of -l, -j, -q and the words of a query must say which files")
    if "l" in options:
        return file_sources.listed(options["l"]), None
    if "j" in options:
        return file_sources.json_listed(options["j"]), None
    query = file_sources.query_in(options["q"]) if "q" in options else " ".join(words)
    return file_sources.queried(query, names(options.get("c", ""))), query


def _copy(client: Client, options: Options, operands: list[str]) -> None:
    number = project_id(operands[0])
    printed = one_of(options.get("p", "id"), _FORMATS, "p")
    copied = client.copy_project(
        number,
        common_attributes=attributes(options.get("a", "")),
        project_attributes=attributes(options.get("A", "")),
        worker_timeout=timeout(options["w"]) if "w" in options else None,
        idle_timeout=timeout(options["t"]) if "t" in options else None,
    )
    if copied is None:
        raise Answer(f"Project {number} not found")
    _print(copied, printed)


def _print(project: Mapping[str, Any], printed: str) -> None:
    if printed == "json":
        print_json(project)
    elif printed == "pprint":
        print_line(pprint.pformat(project))
    else:
        print_line(project["project_id"])


CREATE = Command(
    _create,
    "create a project and print its id",
    "[query words]",
    (0, None),
    (
        Option("l", "<file>|-", "files: namespace:name [name=value ...] a line; - is standard input"),
        Option("j", "<file>|-", "files: a JSON list of DIDs, or of objects with namespace, name and attributes"),
        Option("q", "<file>|-", "files: what MetaCat finds by the query in a file"),
        Option("c", "<name>[,...]", "fields to copy from MetaCat into the files' attributes"),
        *_ATTRIBUTES,
        Option("w", "<time-out>", "a file is taken back after so long: seconds, with s, m, h or d; none; default 12h"),
        Option("t", "<time-out>", "the project is abandoned if nothing happens for so long; default 72h"),
        Option("u", "<user>[,...]", "others who may work on it"),
        Option("r", "<role>[,...]", "roles whose members may work on it"),
        _PRINTED,
    ),
)
COPY = Command(
    _copy,
    "make a project of one's own with the files of another",
    "<project id>",
    (1, 1),
    (
        *_ATTRIBUTES,
        Option("w", "<time-out>", "worker time-out; default: the original's"),
        Option("t", "<time-out>", "idle time-out; default: the original's"),
        _PRINTED,
    ),
)
