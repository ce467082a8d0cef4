"""`drayman key`: the keys that sign session tokens."""

from __future__ import annotations

import click

from drayman.cli.output import json_option, print_json
from drayman.cli.session import calling
from drayman.client import AuthClient


@click.group()
def key() -> None:
    """The keys that sign session tokens."""


@key.command()
@json_option
@calling
async def rotate(as_json: bool) -> None:
    """Sign new tokens with a new key. Tokens that are out stay good until they expire. For administrators."""
    async with AuthClient() as auth:
        key_id = await auth.rotate_signing_key()
    if as_json:
        print_json({"key_id": key_id})
    else:
        click.echo(f"tokens are signed with {key_id} from now on")
