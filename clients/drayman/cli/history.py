"""`drayman project history` and `drayman file history`: what happened."""

from __future__ import annotations

from typing import Any

import click

from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option
from drayman.cli.session import Misuse, calling
from drayman.cli.values import json_text, plain
from drayman.client import DispatchClient, File, HandleEvent, ProjectEvent, Reason

_PROJECT_EVENTS = ("create", "copied", "add", "activate", "restart", "cancel", "abandon", "release")
_HANDLE_EVENTS = ("create", "reserve", "done", "failed", "released", "worker_timeout", "reset")
_HANDLE_TITLES = ("time", "handle", "attempt", "event", "state", "file", "why")


@click.command("history")
@click.argument("project_id", type=int, metavar="ID")
@click.option("--event", type=click.Choice(_PROJECT_EVENTS), help="Only these events.")
@click.option("--files", is_flag=True, help="What happened to its files instead, of which there may be millions.")
@click.option("--file-event", type=click.Choice(_HANDLE_EVENTS), help="Only these events of its files.")
@click.option("--reason", metavar="CODE", help="Only events of its files that have this code as their reason.")
@json_option
@calling
async def project_history(
    project_id: int, event: str | None, files: bool, file_event: str | None, reason: str | None, as_json: bool
) -> None:
    """Show what happened to project ID, oldest first: who made, cancelled and restarted it, and how it ended."""
    if files or file_event or reason:
        if event is not None:
            raise Misuse("--event is about the project: --file-event is about its files")
        async with DispatchClient() as dispatch:
            found = dispatch.handle_events(project_id, event=file_event or "", reason_code=reason or "")
            if as_json:
                await print_json_array(found, plain)
            else:
                await print_rows(_HANDLE_TITLES, found, _handle_row)
        return
    async with DispatchClient() as dispatch:
        events = (each async for each in dispatch.project_events(project_id) if event in (None, each.event))
        if as_json:
            await print_json_array(events, plain)
        else:
            await print_rows(("time", "event", "state", "user", "more"), events, _project_row)


@click.command("history")
@click.argument("project_id", type=int, metavar="ID")
@click.argument("did", metavar="NAMESPACE:NAME")
@click.option("--event", type=click.Choice(_HANDLE_EVENTS), help="Only these events.")
@json_option
@calling
async def file_history(project_id: int, did: str, event: str | None, as_json: bool) -> None:
    """Show what happened to a file of project ID, oldest first: who had it, and what became of it."""
    named = File.of(did)
    async with DispatchClient() as dispatch:
        events = dispatch.handle_events(project_id, file=named, event=event or "")
        if as_json:
            await print_json_array(events, plain)
        else:
            await print_rows(("time", "attempt", "event", "state", "why"), events, _file_row)


def _project_row(event: ProjectEvent) -> tuple[Any, ...]:
    return _time(event), event.event, event.state, event.username, json_text(event.data) if event.data else ""


def _handle_row(event: HandleEvent) -> tuple[Any, ...]:
    return _time(event), event.handle_id, event.attempt, event.event, event.state, event.did, _why(event.reason)


def _file_row(event: HandleEvent) -> tuple[Any, ...]:
    return _time(event), event.attempt, event.event, event.state, _why(event.reason)


def _time(event: ProjectEvent | HandleEvent) -> str:
    # events follow one another within a second
    return event.time.astimezone().isoformat(timespec="milliseconds")


def _why(reason: Reason | None) -> str:
    """Say who, where and why in one line."""
    if reason is None:
        return ""
    place = f" at {reason.site}" if reason.site else ""
    return ": ".join(text for text in (reason.worker_id + place, reason.code, reason.message) if text.strip())
