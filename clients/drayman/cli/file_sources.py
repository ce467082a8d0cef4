"""Where a command takes a project's files from: names, a list, a query. One set of options for all that take files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import click

from drayman.cli.file_list import FileList
from drayman.cli.metacat import QueryError, query_files
from drayman.cli.output import Failure
from drayman.cli.session import Misuse
from drayman.cli.values import ATTRIBUTES, attributes
from drayman.client import File

_OPTIONS = (
    click.argument("file_list", required=False, metavar="[FILE_LIST|-]"),
    click.option("--file", "dids", multiple=True, metavar="NAMESPACE:NAME", help="A file, before those of the list."),
    click.option(
        "--list-format",
        type=click.Choice(["lines", "json"]),
        default="lines",
        show_default=True,
        help="Whether FILE_LIST has a file a line or is one JSON array.",
    ),
    click.option("--mql", metavar="QUERY", help="Files that MetaCat finds; METACAT_SERVER_URL says where it is."),
    click.option(
        "--mql-file", metavar="FILE", type=click.File(encoding="utf-8"), help="The same, with the query in FILE."
    ),
    click.option("--metadata", "fields", multiple=True, metavar="FIELD", help="Copy it from MetaCat to the files."),
    click.option(
        "--file-attributes", type=attributes, metavar=ATTRIBUTES, help="Attributes of every file, under its own ones."
    ),
)


@dataclass(frozen=True, slots=True)
class FileSources:
    """What was given on the command line."""

    file_list: str | None
    dids: tuple[str, ...]
    list_format: str
    mql: str | None
    mql_file: TextIO | None
    fields: tuple[str, ...]
    file_attributes: dict[str, Any] | None

    def open(self, *, needed: bool = True) -> tuple[FileList | list[File], str | None]:
        """Return the files, and the query that found them. Raises Misuse if they are needed and not given, Failure if the query fails."""
        if self.mql is not None and self.mql_file is not None:
            raise Misuse("--mql and --mql-file exclude each other")
        if self.file_list is None and not self.dids and self.mql is None and self.mql_file is None:
            if not needed:
                return [], None
            raise Misuse("no files: give a FILE_LIST, - for standard input, --file, or --mql")
        query = self.mql_file.read().strip() if self.mql_file is not None else self.mql
        try:
            found = query_files(query, self.fields) if query is not None else []
        except QueryError as error:
            raise Failure(str(error)) from error
        array = self.list_format == "json"
        return FileList(self.dids, self.file_list, array=array, found=found, attributes=self.file_attributes), query


def takes_files(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where files come from; it is called with `sources`."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in FileSources.__slots__}
        return command(*args, sources=FileSources(**given), **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
