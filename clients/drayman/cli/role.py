"""`drayman role`: sets of users."""

from __future__ import annotations

import click

from drayman.cli.output import json_option, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client import AuthClient, Role


@click.group()
def role() -> None:
    """Sets of users who may work on the same projects. Changes are for administrators."""


@role.command()
@click.argument("name")
@click.argument("members", nargs=-1, metavar="[USERNAME]...")
@json_option
@calling
async def add(name: str, members: tuple[str, ...], as_json: bool) -> None:
    """Add the role NAME with these members."""
    async with AuthClient() as auth:
        _print(await auth.create_role(name, members), "added", as_json=as_json)


@role.command("list")
@json_option
@calling
async def list_roles(as_json: bool) -> None:
    """List all roles with their members."""
    async with AuthClient() as auth:
        roles = await auth.roles()
    if as_json:
        print_json(plain(roles))
    else:
        print_table(("role", "members"), [(each.name, ", ".join(each.members)) for each in roles])


@role.command()
@click.argument("name")
@click.option("--add", "added", multiple=True, metavar="USERNAME", help="Add a member.")
@click.option("--remove", "removed", multiple=True, metavar="USERNAME", help="Remove a member.")
@json_option
@calling
async def update(name: str, added: tuple[str, ...], removed: tuple[str, ...], as_json: bool) -> None:
    """Add members to the role NAME and remove others."""
    if not added and not removed:
        raise Misuse("nothing to change: give --add or --remove")
    async with AuthClient() as auth:
        _print(await auth.update_role(name, add=added, remove=removed), "changed", as_json=as_json)


@role.command()
@click.argument("name")
@json_option
@calling
async def delete(name: str, as_json: bool) -> None:
    """Remove the role NAME; its members stay."""
    async with AuthClient() as auth:
        await auth.delete_role(name)
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"role {printable(name)} removed")


def _print(changed: Role, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(changed))
    else:
        members = printable(", ".join(changed.members)) or "no members"
        click.echo(f"role {printable(changed.name)} {what}: {members}")
