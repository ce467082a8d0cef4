"""`drayman user`: who may log in."""

from __future__ import annotations

import click

from drayman.cli.identity import identity, identity_text, identity_title
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option, print_fields, print_json, printable
from drayman.cli.passwords import read_password
from drayman.cli.session import Misuse, calling
from drayman.cli.user_import import import_users
from drayman.cli.values import DURATION, local_time, plain, seconds
from drayman.client import AuthClient
from drayman.client.users import User, UserClient


@click.group()
def user() -> None:
    """Who may log in. For administrators, except `show` and `password` for oneself."""


user.add_command(identity)
user.add_command(import_users)


@user.command()
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--no-password", is_flag=True, help="No login by password; an administrator makes tokens.")
@click.option("--admin", is_flag=True, help="They administer the deployment.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Join a role.")
@click.option("--create-roles", is_flag=True, help="Create roles that are missing.")
@click.option("--full-name", default="", help="For people.")
@click.option("--email", default="", help="For people.")
@json_option
@calling
async def add(
    name: str,
    password_stdin: bool,
    no_password: bool,
    admin: bool,
    roles: tuple[str, ...],
    create_roles: bool,
    full_name: str,
    email: str,
    as_json: bool,
) -> None:
    """Add the user NAME; asks for the password."""
    if no_password and password_stdin:
        raise Misuse("--no-password and --password-stdin exclude each other")
    password = None if no_password else read_password(from_stdin=password_stdin, new=True)
    async with UserClient() as users:
        added = await users.create_user(
            name,
            password,
            admin=admin,
            roles=roles,
            create_roles=create_roles,
            full_name=full_name,
            email=email,
        )
    _say(f"user {printable(added.username)} added", plain(added), as_json=as_json)


@user.command("list")
@json_option
@calling
async def list_users(as_json: bool) -> None:
    """List all users."""
    async with UserClient() as users:
        if as_json:
            await print_json_array(users.users(), plain)
            return
        titles = ("user", "administrator", "disabled", "created", "roles", "email", "full name")
        await print_rows(titles, users.users(), _row)


@user.command()
@click.argument("name")
@json_option
@calling
async def show(name: str, as_json: bool) -> None:
    """Show the user NAME."""
    async with UserClient() as users:
        found = await users.get_user(name)
    _show(found, as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--admin/--no-admin", default=None, help="Whether they administer the deployment.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether they are kept from logging in.")
@click.option("--full-name", help="For people.")
@click.option("--email", help="For people.")
@json_option
@calling
async def update(
    name: str, admin: bool | None, disabled: bool | None, full_name: str | None, email: str | None, as_json: bool
) -> None:
    """Change the user NAME; what is not given stays."""
    if admin is None and disabled is None and full_name is None and email is None:
        raise Misuse("nothing to change: give --admin, --disable, --full-name or --email")
    async with UserClient() as users:
        changed = await users.update_user(name, admin=admin, disabled=disabled, full_name=full_name, email=email)
    _show(changed, as_json=as_json)


@user.command()
@click.argument("name")
@json_option
@calling
async def disable(name: str, as_json: bool) -> None:
    """Keep the user NAME from logging in, and end their sessions at once."""
    async with UserClient() as users:
        changed = await users.update_user(name, disabled=True)
    _say(f"user {printable(name)} disabled", plain(changed), as_json=as_json)


@user.command()
@click.argument("name")
@json_option
@calling
async def enable(name: str, as_json: bool) -> None:
    """Let the user NAME log in again."""
    async with UserClient() as users:
        changed = await users.update_user(name, disabled=False)
    _say(f"user {printable(name)} enabled", plain(changed), as_json=as_json)


@user.command()
@click.argument("name")
@json_option
@calling
async def delete(name: str, as_json: bool) -> None:
    """Remove the user NAME; their projects stay."""
    async with UserClient() as users:
        await users.delete_user(name)
    _say(f"user {printable(name)} removed", {"deleted": name}, as_json=as_json)


@user.command()
@click.argument("name", required=False)
@click.option("--password-stdin", is_flag=True, help="Read the new password from standard input.")
@json_option
@calling
async def password(name: str | None, password_stdin: bool, as_json: bool) -> None:
    """Change the password of NAME, by default one's own."""
    username = name or await _own_name()
    async with UserClient() as users:
        await users.set_password(username, read_password(from_stdin=password_stdin, new=True))
    _say(f"password of {printable(username)} changed", {"changed": username}, as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--lifetime", type=seconds, metavar=DURATION, help="How long it is valid; default: a week.")
@json_option
@calling
async def token(name: str, lifetime: float | None, as_json: bool) -> None:
    """Make a session token for the user NAME and print it."""
    async with UserClient() as users:
        session = await users.issue_token(name, lifetime)
    record = {"token": session.token, "username": session.username, "expires": plain(session.expires)}
    _say(session.token, record, as_json=as_json)


async def _own_name() -> str:
    async with AuthClient() as auth:
        return (await auth.auth_info()).username


def _row(each: User) -> tuple[object, ...]:
    created = local_time(each.created)
    return each.username, each.admin, each.disabled, created, ", ".join(each.roles), each.email, each.full_name


def _show(each: User, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(each))
        return
    print_fields(
        [
            ("user", each.username),
            ("administrator", each.admin),
            ("disabled", each.disabled),
            ("roles", ", ".join(each.roles)),
            ("full name", each.full_name),
            ("email", each.email),
            ("created", local_time(each.created)),
            *((identity_title(one), identity_text(one)) for one in each.identities),
        ]
    )


def _say(text: str, record: object, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        click.echo(text)
