"""`ddisp version`."""

from __future__ import annotations

from importlib import metadata

from drayman.ddisp.client import Client
from drayman.ddisp.command import Command, Options
from drayman.ddisp.output import print_block


def _version(client: Client, _options: Options, _operands: list[str]) -> None:
    fields = [
        ("Server URL", client.ServerURL),
        ("Server version", client.version()),
        ("Client version", metadata.version("drayman")),
    ]
    print_block(fields, width=15)


VERSION = Command(_version, "print the versions of server and client")
