"""`drayman role`: sets of users."""

from __future__ import annotations

import click

from drayman.cli.output import Failure, json_option, print_fields, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client.users import Role, UserClient


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
    async with UserClient() as users:
        _print(await users.create_role(name, members), "added", as_json=as_json)


@role.command("list")
@json_option
@calling
async def list_roles(as_json: bool) -> None:
    """List all roles with their members."""
    async with UserClient() as users:
        roles = await users.roles()
    if as_json:
        print_json(plain(roles))
    else:
        print_table(("role", "members"), [(each.name, ", ".join(each.members)) for each in roles])


@role.command()
@click.argument("name")
@json_option
@calling
async def show(name: str, as_json: bool) -> None:
    """Show the role NAME."""
    found = await _found(name)
    if as_json:
        print_json(plain(found))
    else:
        print_fields([("role", found.name), ("members", ", ".join(found.members))])


@role.group()
def members() -> None:
    """Who has a role."""


@members.command("add")
@click.argument("name")
@click.argument("usernames", nargs=-1, required=True, metavar="USERNAME...")
@json_option
@calling
async def add_members(name: str, usernames: tuple[str, ...], as_json: bool) -> None:
    """Add users to the role NAME."""
    async with UserClient() as users:
        _print(await users.update_role(name, add=usernames), "changed", as_json=as_json)


@members.command("remove")
@click.argument("name")
@click.argument("usernames", nargs=-1, required=True, metavar="USERNAME...")
@json_option
@calling
async def remove_members(name: str, usernames: tuple[str, ...], as_json: bool) -> None:
    """Take users out of the role NAME."""
    async with UserClient() as users:
        _print(await users.update_role(name, remove=usernames), "changed", as_json=as_json)


@members.command("list")
@click.argument("name")
@json_option
@calling
async def list_members(name: str, as_json: bool) -> None:
    """List the members of the role NAME, one a line."""
    found = await _found(name)
    if as_json:
        print_json(list(found.members))
    else:
        for member in found.members:
            click.echo(printable(member))


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
    async with UserClient() as users:
        _print(await users.update_role(name, add=added, remove=removed), "changed", as_json=as_json)


@role.command()
@click.argument("name")
@json_option
@calling
async def delete(name: str, as_json: bool) -> None:
    """Remove the role NAME; its members stay."""
    async with UserClient() as users:
        await users.delete_role(name)
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"role {printable(name)} removed")


async def _found(name: str) -> Role:
    async with UserClient() as users:
        for each in await users.roles():
            if each.name == name:
                return each
    raise Failure(f"role {printable(name)} not found (ROLE_NOT_FOUND)")


def _print(changed: Role, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(changed))
    else:
        members = printable(", ".join(changed.members)) or "no members"
        click.echo(f"role {printable(changed.name)} {what}: {members}")
