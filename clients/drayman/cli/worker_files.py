"""`drayman worker next`, `done`, `failed`, `list`, `id`: a worker that is a shell script."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import click

from drayman.cli.file import record
from drayman.cli.listing import print_rows
from drayman.cli.output import Failure, json_option, print_json, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import DURATION, local_time, seconds
from drayman.client import DispatchClient, DraymanError, File, Handle, ProjectEnded, Report
from drayman.client.files import Outcome
from drayman.data_dispatcher.worker_id import DEFAULT_FILE, found_id, made_up_id, write_id

#: Reports that go into one call.
_BATCH = 1000

_PROJECT = click.argument("project_id", type=int, metavar="ID")
_WORKER = click.option("--worker-id", help="Who works; default: the id of this folder, see `drayman worker id`.")
_FILES = click.argument("dids", nargs=-1, metavar="[NAMESPACE:NAME]...")
_ALL = click.option("--all", "everything", is_flag=True, help="All files that the worker holds.")


@click.command("id")
@click.argument("new_id", required=False, metavar="[NEW_ID]")
@click.option("--new", is_flag=True, help="Make one up.")
@json_option
@calling
async def worker_id(new_id: str | None, new: bool, as_json: bool) -> None:
    """Print the worker id of this folder; NEW_ID or --new set it first. It is kept in .data_dispatcher_worker_id."""
    if new and new_id is not None:
        raise Misuse("give NEW_ID or --new, one of the two")
    if new or new_id is not None:
        write_id(DEFAULT_FILE, new_id or made_up_id())
    found = _own_id(None)
    if as_json:
        print_json({"worker_id": found})
    else:
        click.echo(found)


@click.command("list")
@_PROJECT
@_WORKER
@json_option
@calling
async def list_held(project_id: int, worker_id: str | None, as_json: bool) -> None:
    """List the files of project ID that the worker holds."""
    async with DispatchClient() as dispatch:
        handles = await dispatch.reserved(project_id, _own_id(worker_id))
    if as_json:
        print_json([record(handle, replicas=False) for handle in handles])
        return
    titles = ("handle", "attempts", "reserved", "worker", "file")
    await print_rows(titles, _each(handles), _row)


@click.command("next")
@_PROJECT
@_WORKER
@click.option("--cpu-site", default="", help="CPU site, for the nearest replicas.")
@click.option("--timeout", type=seconds, metavar=DURATION, help="Do not wait longer; default: until the project ends.")
@click.option("--no-wait", is_flag=True, help="Do not wait.")
@json_option
@calling
async def next_file(
    project_id: int, worker_id: str | None, cpu_site: str, timeout: float | None, no_wait: bool, as_json: bool
) -> None:
    """Reserve a file of project ID and print its name.

    If there is none, print `timeout` (ask again) or `done` (the project has ended) and end with exit code 1.
    """
    if no_wait and timeout is not None:
        raise Misuse("--timeout and --no-wait exclude each other")
    async with DispatchClient() as dispatch:
        reply = await dispatch.next_file(
            project_id, _own_id(worker_id), cpu_site=cpu_site, timeout=0 if no_wait else timeout
        )
    if isinstance(reply, Handle):
        if as_json:
            print_json(record(reply, replicas=True) | {"project_attributes": reply.project_attributes})
        else:
            click.echo(reply.did)
        return
    state = "done" if isinstance(reply, ProjectEnded) else "timeout"
    if as_json:
        print_json({"state": state})
    else:
        click.echo(state)
    sys.exit(1)


@click.command()
@_PROJECT
@_FILES
@_ALL
@_WORKER
@json_option
@calling
async def done(project_id: int, dids: tuple[str, ...], everything: bool, worker_id: str | None, as_json: bool) -> None:
    """Say that files of project ID are done."""
    await _report(project_id, dids, "done", worker_id, everything=everything, as_json=as_json)


@click.command()
@_PROJECT
@_FILES
@_ALL
@click.option("--final", is_flag=True, help="For good: they are not tried again.")
@click.option("--message", default="", metavar="TEXT", help="Why.")
@_WORKER
@json_option
@calling
async def failed(
    project_id: int,
    dids: tuple[str, ...],
    everything: bool,
    final: bool,
    message: str,
    worker_id: str | None,
    as_json: bool,
) -> None:
    """Say that files of project ID could not be processed."""
    outcome: Outcome = "failed_final" if final else "failed_retry"
    await _report(project_id, dids, outcome, worker_id, message, everything=everything, as_json=as_json)


async def _report(
    project_id: int,
    dids: Sequence[str],
    outcome: Outcome,
    worker_id: str | None,
    message: str = "",
    *,
    everything: bool,
    as_json: bool,
) -> None:
    if everything == bool(dids):
        raise Misuse("give names of files, or --all, one of the two")
    worker, named = _own_id(worker_id), [File.of(did) for did in dids]
    async with DispatchClient() as dispatch:
        if everything:
            handles = await dispatch.reserved(project_id, worker)
        else:
            found = [await dispatch.get_handle(project_id, file.namespace, file.name) for file in named]
            # the service says whether it is this worker's
            handles = [replace(handle, worker_id=worker) for handle in found]
        reports = [Report(handle, outcome, message=message) for handle in handles]
        refusals: list[DraymanError | None] = []
        for begin in range(0, len(reports), _BATCH):
            refusals += await dispatch.report(reports[begin : begin + _BATCH])
    refused = [
        f"{handle.did}: {refusal.message} ({refusal.reason})"
        for handle, refusal in zip(handles, refusals, strict=True)
        if refusal is not None
    ]
    if refused:
        raise Failure(printable("; ".join(refused)))
    if as_json:
        print_json({"reported": len(handles)})


def _own_id(given: str | None) -> str:
    found = given if given is not None else found_id(DEFAULT_FILE)
    if not found:
        raise Failure("the worker id is empty")
    return found


async def _each(handles: Sequence[Handle]) -> AsyncIterator[Handle]:
    for handle in handles:
        yield handle


def _row(handle: Handle) -> tuple[Any, ...]:
    return handle.handle_id, handle.attempts, local_time(handle.reserved_since), handle.worker_id, handle.did


#: What goes into the group `drayman worker`.
COMMANDS = (worker_id, list_held, next_file, done, failed)
