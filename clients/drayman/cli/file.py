"""`drayman file`: the files of projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import click

from drayman.cli.history import file_history
from drayman.cli.listing import closed, print_json_array, print_rows
from drayman.cli.output import json_option, print_fields, print_json
from drayman.cli.session import calling
from drayman.cli.values import json_text, local_time, plain
from drayman.client import DispatchClient, File, Handle

_HANDLE_STATES = click.Choice(["initial", "reserved", "done", "failed"])


@click.group()
def file() -> None:
    """The files of projects."""


@file.command("list")
@click.argument("project_id", type=int, metavar="ID")
@click.option("--state", type=_HANDLE_STATES, help="Only those in this state.")
@click.option("--not-state", type=_HANDLE_STATES, help="Not those in this state.")
@click.option("--rse", metavar="RSE", help="Only those with a replica there.")
@click.option("--reason", metavar="CODE", help="Only those whose last reservation ended with this code.")
@click.option("--replicas", is_flag=True, help="With their replicas.")
@click.option("--limit", type=click.IntRange(1), help="End after so many.")
@json_option
@calling
async def list_files(
    project_id: int,
    state: str | None,
    not_state: str | None,
    rse: str | None,
    reason: str | None,
    replicas: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the files of project ID, in the order in which they were given."""
    async with DispatchClient() as dispatch:
        handles = dispatch.handles(
            project_id,
            state=state,
            not_state=not_state,
            with_replicas=replicas or rse is not None,
            limit=0 if rse is not None else limit or 0,
            reason_code=reason or "",
        )
        if rse is not None:
            handles = _at(handles, rse, limit)
        if as_json:
            await print_json_array(handles, lambda handle: record(handle, replicas=replicas))
            return
        titles = ("handle", "state", "attempts", "reserved", "worker", "file")
        await print_rows(titles, handles, _row, replica_lines if replicas else lambda _handle: ())


@file.command()
@click.argument("project_id", type=int, metavar="ID")
@click.argument("did", metavar="NAMESPACE:NAME")
@json_option
@calling
async def show(project_id: int, did: str, as_json: bool) -> None:
    """Show a file of project ID, with its replicas."""
    named = File.of(did)
    async with DispatchClient() as dispatch:
        handle = await dispatch.get_handle(project_id, named.namespace, named.name)
    if as_json:
        print_json(record(handle, replicas=True))
        return
    print_fields(
        [
            ("file", handle.did),
            ("project", handle.project_id),
            ("handle", handle.handle_id),
            ("state", handle.state),
            ("attempts", handle.attempts),
            ("worker", handle.worker_id or "-"),
            ("reserved", local_time(handle.reserved_since) or "-"),
            ("attributes", json_text(handle.attributes)),
            *(("replica", line) for line in replica_lines(handle)),
        ]
    )


file.add_command(file_history)


def record(handle: Handle, *, replicas: bool) -> dict[str, Any]:
    """Return what `--json` prints of a handle in a list."""
    shown: dict[str, Any] = plain(handle)
    del shown["project_attributes"]  # those of the project, which a list does not repeat
    if not replicas:
        del shown["replicas"]
    return shown


def replica_lines(handle: Handle) -> Iterator[str]:
    """Yield a line for each replica."""
    for replica in handle.replicas:
        reach = "available" if replica.available and replica.rse_available else "not available"
        yield f"{replica.rse}: {reach} {' '.join(replica.urls) or replica.path or ''}".rstrip()


async def _at(handles: AsyncIterator[Handle], rse: str, limit: int | None) -> AsyncIterator[Handle]:
    count = 0
    async with closed(handles):
        async for handle in handles:
            if any(replica.rse == rse for replica in handle.replicas):
                yield handle
                count += 1
                if count == limit:
                    return


def _row(handle: Handle) -> tuple[Any, ...]:
    since = local_time(handle.reserved_since)
    return handle.handle_id, handle.state, handle.attempts, since, handle.worker_id, handle.did
