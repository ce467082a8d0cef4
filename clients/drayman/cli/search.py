"""`drayman project search`: projects by a query."""

from __future__ import annotations

from typing import TextIO

import click

from drayman.cli.project_table import print_projects
from drayman.cli.session import Misuse, calling
from drayman.client import DispatchClient

_STATES = click.Choice(["active", "done", "failed", "cancelled", "abandoned", "all"])


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[QUERY]...")
@click.option(
    "-q", "--query-file", type=click.File(encoding="utf-8"), metavar="FILE|-", help="Read the query there instead."
)
@click.option("-s", "--state", type=_STATES, default="all", show_default=True, help="Only those in it.")
@click.option("-u", "--owner", metavar="USERNAME", default="", help="Only those of this user.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@calling
async def search(words: tuple[str, ...], query_file: TextIO | None, state: str, owner: str, as_json: bool) -> None:
    """List the projects that a QUERY finds, by ascending id.

    For example: drayman project search 'run in 100:200 and not version like "v1.%" and created > 2024-05-31'. The page "Searching
    projects" of the documentation has the language. Words of the query may be arguments of their own.
    """
    if bool(words) == (query_file is not None):
        raise Misuse("give a QUERY, or --query-file, one of the two")
    query = query_file.read() if query_file is not None else " ".join(words)
    async with DispatchClient() as dispatch:
        projects = dispatch.search_projects(query, owner=owner, state=None if state == "all" else state)
        await print_projects(projects, as_json=as_json)
