"""`drayman user`: who may log in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from drayman.cli.htdigest import read_secrets
from drayman.cli.lines import numbered_lines
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.passwords import read_password
from drayman.cli.session import Misuse, calling
from drayman.cli.values import DURATION, local_time, plain, seconds
from drayman.client import AlreadyExistsError, AuthClient, DraymanError, User
from drayman.client.auth import Secret


@click.group()
def user() -> None:
    """Who may log in. For administrators, except `show` and `password` for oneself."""


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
    async with AuthClient() as auth:
        added = await auth.create_user(
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
    async with AuthClient() as auth:
        if as_json:
            await print_json_array(auth.users(), plain)
            return
        titles = ("user", "administrator", "disabled", "created", "roles", "email", "full name")
        await print_rows(titles, auth.users(), _row)


@user.command()
@click.argument("name")
@json_option
@calling
async def show(name: str, as_json: bool) -> None:
    """Show the user NAME."""
    async with AuthClient() as auth:
        found = await auth.get_user(name)
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
    async with AuthClient() as auth:
        changed = await auth.update_user(name, admin=admin, disabled=disabled, full_name=full_name, email=email)
    _show(changed, as_json=as_json)


@user.command()
@click.argument("name")
@json_option
@calling
async def delete(name: str, as_json: bool) -> None:
    """Remove the user NAME; their projects stay."""
    async with AuthClient() as auth:
        await auth.delete_user(name)
    _say(f"user {printable(name)} removed", {"deleted": name}, as_json=as_json)


@user.command()
@click.argument("name", required=False)
@click.option("--password-stdin", is_flag=True, help="Read the new password from standard input.")
@json_option
@calling
async def password(name: str | None, password_stdin: bool, as_json: bool) -> None:
    """Change the password of NAME, by default one's own."""
    async with AuthClient() as auth:
        username = name or (await auth.auth_info()).username
        await auth.set_password(username, read_password(from_stdin=password_stdin, new=True))
    _say(f"password of {printable(username)} changed", {"changed": username}, as_json=as_json)


@user.command("import")
@click.argument("source", metavar="FILE|-")
@json_option
@calling
async def import_users(source: str, as_json: bool) -> None:
    """Add users with the passwords they have elsewhere: lines `username:realm:hash`, as in htdigest files.

    The hash is MD5 or SHA-256 by its length; a user may have a line of each. The passwords of users who exist are replaced. Nothing is
    changed if a line cannot be read.
    """
    found = await read_secrets(numbered_lines(source))
    if not found:
        raise Failure("no users to import")
    async with AuthClient() as auth:
        added, changed = await _import(auth, found)
    _say(f"{added} users added, {changed} changed", {"added": added, "changed": changed}, as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--lifetime", type=seconds, metavar=DURATION, help="How long it is valid; default: as after a login.")
@json_option
@calling
async def token(name: str, lifetime: float | None, as_json: bool) -> None:
    """Make a session token for the user NAME and print it."""
    async with AuthClient() as auth:
        session = await auth.issue_token(name, lifetime)
    _say(session.token, plain(session), as_json=as_json)


async def _import(auth: AuthClient, found: Mapping[str, Sequence[Secret]]) -> tuple[int, int]:
    added = changed = 0
    for username, secrets in found.items():
        try:
            try:
                await auth.create_user(username, secrets=secrets)
                added += 1
            except AlreadyExistsError:
                await auth.set_password(username, secrets=secrets)
                changed += 1
        except DraymanError as error:
            before = f"; {added} users added and {changed} changed before" if added or changed else ""
            error.message = f"user {username}: {error.message}{before}"
            raise
    return added, changed


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
        ]
    )


def _say(text: str, record: object, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        click.echo(text)
