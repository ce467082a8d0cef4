"""`drayman session`: who is logged in, and how to end it."""

from __future__ import annotations

import click

from drayman.cli.output import json_option, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import local_time, plain
from drayman.client import AuthClient


@click.group()
def session() -> None:
    """Logins that go on. Others' for administrators."""


@session.command("list")
@click.argument("user", required=False, default="")
@json_option
@calling
async def list_sessions(user: str, as_json: bool) -> None:
    """List the sessions of USER, or one's own, newest first."""
    async with AuthClient() as auth:
        found = await auth.sessions(user)
    if as_json:
        print_json(plain(found))
        return
    titles = ("session", "user", "by", "from", "client", "begun", "last renewed", "expires", "this one")
    print_table(
        titles,
        (
            (
                each.session_id,
                each.username,
                each.method,
                each.peer,
                each.client,
                local_time(each.created),
                local_time(each.refreshed),
                local_time(each.expires),
                each.current,
            )
            for each in found
        ),
    )


@session.command()
@click.argument("session_id", metavar="ID", required=False)
@click.option("--all", "everything", is_flag=True, help="End all of them, and with them every token made so far.")
@click.option("--user", default="", metavar="USER", help="Whose; default: one's own.")
@json_option
@calling
async def revoke(session_id: str | None, everything: bool, user: str, as_json: bool) -> None:
    """End session ID, or --all. All services refuse its tokens within seconds."""
    if (session_id is None) != everything:
        raise Misuse("give either the id of a session or --all")
    async with AuthClient() as auth:
        revoked = await auth.revoke_sessions(session_id, username=user)
    if as_json:
        print_json({"revoked": revoked})
    else:
        click.echo(f"{revoked} sessions {f'of {printable(user)} ' if user else ''}ended")
