"""`drayman login`, `logout`, `whoami`: who one is."""

from __future__ import annotations

import os

import click

from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.passwords import read_password
from drayman.cli.session import Misuse, calling, deployment_url
from drayman.cli.values import local_time, plain
from drayman.client import AuthClient
from drayman.client.token_library import TokenLibrary


@click.command()
@click.argument("username")
@click.option(
    "--method",
    type=click.Choice(["password", "token", "x509"]),
    default="password",
    show_default=True,
    help="How to say who one is.",
)
@click.option("--bearer", metavar="TOKEN|FILE", help="For --method token: a SciToken or WLCG token.")
@click.option("--cert", metavar="FILE", help="For --method x509: the certificate or proxy.")
@click.option("--key", metavar="FILE", help="For --method x509: the key, if it is not with the certificate.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--print-token", is_flag=True, help="Print the token too, alone.")
@json_option
@calling
async def login(
    username: str,
    method: str,
    bearer: str | None,
    cert: str | None,
    key: str | None,
    password_stdin: bool,
    print_token: bool,
    as_json: bool,
) -> None:
    """Log in as USERNAME and keep the token for DRAYMAN_URL.

    The password does not travel. The token is kept in .token_library in the home folder, for this account only.
    """
    if method != "password":
        raise Failure(f"login by {method} is not offered by {printable(deployment_url())}; --method password is")
    if (bearer, cert, key) != (None, None, None):
        raise Misuse("--bearer goes with --method token, --cert and --key with --method x509")
    password = read_password(from_stdin=password_stdin)
    url = deployment_url()
    async with AuthClient() as auth:
        session = await auth.login(username, password)
    try:
        TokenLibrary().put(url, session.token)
    except OSError as error:
        if not print_token:
            raise Failure(f"cannot keep the token: {error}") from error
        click.echo(f"drayman: the token is not kept: {error}", err=True)
    if as_json:
        record = {"username": session.username, "url": url, "expires": plain(session.expires)}
        print_json(record | ({"token": session.token} if print_token else {}))
    elif print_token:
        click.echo(session.token)
    else:
        name = printable(session.username)
        click.echo(f"{name} is logged in at {printable(url)} until {local_time(session.expires)}")
    if os.environ.get("DRAYMAN_TOKEN"):
        click.echo("drayman: DRAYMAN_TOKEN is set and goes before this login", err=True)


@click.command()
@json_option
@calling
async def logout(as_json: bool) -> None:
    """Forget the token that is kept for DRAYMAN_URL."""
    url = deployment_url()
    library = TokenLibrary()
    kept = library.get(url) is not None
    library.remove(url)
    if as_json:
        print_json({"url": url, "forgotten": kept})
    else:
        click.echo(f"{'logged out of' if kept else 'no token was kept for'} {printable(url)}")
    if os.environ.get("DRAYMAN_TOKEN"):
        click.echo("drayman: DRAYMAN_TOKEN is still set", err=True)


@click.command()
@json_option
@calling
async def whoami(as_json: bool) -> None:
    """Tell who the services take one for."""
    url = deployment_url()
    async with AuthClient() as auth:
        info = await auth.auth_info()
    if as_json:
        print_json({"url": url, **plain(info)})
        return
    print_fields(
        [
            ("user", info.username),
            ("administrator", info.admin),
            ("roles", ", ".join(info.roles)),
            ("expires", local_time(info.expires)),
            ("at", url),
        ]
    )
