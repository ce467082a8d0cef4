"""`drayman audit`: what happened to users, roles, identities, keys and sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import json_text, plain, seconds
from drayman.client.audit import AuditClient, AuditEvent

_TITLES = ("time", "action", "by", "about", "result", "method", "from", "more")
_MOMENT = "TIME|DURATION"
_UNITS = tuple("smhd")


def moment(text: str) -> datetime:
    """Read a time, `2024-05-31` or `2024-05-31T12:00:00+02:00` (local without offset), or so long ago: `30m`, `2h`, `7d`."""
    text = text.strip()
    try:
        if text[:1].isdigit() and text.lower().endswith(_UNITS):
            return datetime.now(UTC) - timedelta(seconds=seconds(text))
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Misuse(
            f"{printable(text)!r} is no time: expected 2024-05-31, 2024-05-31T12:00, or 2h ago as 2h"
        ) from error


@click.command("audit")
@click.option("--user", metavar="NAME", default="", help="Only what this user did, or what concerns them.")
@click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="ACTION",
    help="Only these, such as LOGIN or USER_DELETED; repeatable.",
)
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option("--since", type=moment, metavar=_MOMENT, help="Only from then on.")
@click.option("--until", type=moment, metavar=_MOMENT, help="Only before then.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many; default: 1000, with --follow no end.")
@click.option("-f", "--follow", is_flag=True, help="Oldest first, then what happens from now on.")
@json_option
@calling
async def audit(
    user: str,
    actions: tuple[str, ...],
    refused: bool,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the audit log, newest first: every login, good or bad, and every change of users, roles, identities and keys.

    For administrators. With --follow it begins at --since or now and does not end; with --json it prints one JSON object a line then.
    """
    if follow and until is not None:
        raise Misuse("--follow and --until exclude each other")
    async with AuditClient() as client:
        events = client.events(
            username=user,
            actions=[action.upper() for action in actions],
            refused_only=refused,
            since=since,
            until=until,
            limit=limit or 0,
            follow=follow,
        )
        if follow:
            await _print_lines(events, as_json=as_json)
        elif as_json:
            await print_json_array(events, plain)
        else:
            await print_rows(_TITLES, events, _row)


async def _print_lines(events: AsyncGenerator[AuditEvent, None], *, as_json: bool) -> None:
    async with aclosing(events):
        async for event in events:
            if as_json:
                click.echo(json.dumps(plain(event), ensure_ascii=False))
            else:
                click.echo("  ".join(printable(str(cell)) if cell else "-" for cell in _row(event)))


def _row(event: AuditEvent) -> tuple[Any, ...]:
    return (
        event.time.astimezone().isoformat(timespec="milliseconds"),
        event.action,
        event.actor,
        event.subject,
        f"refused: {event.reason}" if event.refused else "done",
        event.method,
        event.peer,
        json_text(event.detail) if event.detail else "",
    )
