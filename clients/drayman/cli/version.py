"""`drayman version`: who speaks with whom."""

from __future__ import annotations

from importlib import metadata

import click

from drayman.cli.output import json_option, print_fields, print_json
from drayman.cli.session import calling, deployment_url
from drayman.client.system import SystemClient


@click.command()
@json_option
@calling
async def version(as_json: bool) -> None:
    """Print the versions of the server and of this command."""
    async with SystemClient() as system:
        server = await system.version()
    known = {"url": deployment_url(), "server": server, "client": metadata.version("drayman")}
    if as_json:
        print_json(known)
    else:
        print_fields(known.items())
