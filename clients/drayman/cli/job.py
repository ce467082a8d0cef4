"""`drayman job`: look at jobs, kill them, see what they write."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import Any

import click

from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.session import calling
from drayman.cli.values import local_time, plain
from drayman.client.job_values import Job
from drayman.client.jobs import JobsClient

#: Fields of a job that say what went wrong.
_ERRORS = ("ErrorCode", "ErrorDiag", "transExitCode")


@click.group()
def job() -> None:
    """Jobs: attempts at a task's inputs, each on one worker."""


@job.command()
@click.argument("job_ids", type=int, nargs=-1, required=True, metavar="ID...")
@click.option("--files", is_flag=True, help="With their files.")
@json_option
@calling
async def show(job_ids: tuple[int, ...], files: bool, as_json: bool) -> None:
    """Show jobs. Exit code 1 if there is one that there is not."""
    async with JobsClient() as client:
        found = await client.get(job_ids, files=files)
    if as_json:
        print_json([plain(each) for each in found])
    else:
        for job_id, each in zip(job_ids, found, strict=True):
            if each is None:
                click.echo(f"there is no job {job_id}", err=True)
            else:
                _print(each)
    if None in found:
        sys.exit(1)


@job.command("list")
@click.option("--task", "task_id", type=int, default=0, metavar="ID", help="Of this task.")
@click.option("--owner", default="", metavar="NAME", help="Of this user.")
@click.option("--state", "states", multiple=True, help="Only in this state; repeatable.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many.")
@json_option
@calling
async def list_jobs(task_id: int, owner: str, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the jobs of a task or of a user, by id."""
    if not task_id and not owner:
        raise click.UsageError("say whose: --task ID or --owner NAME")
    async with JobsClient() as client:
        jobs = client.jobs(task_id, owner=owner, states=states, limit=limit)
        if as_json:
            await print_json_array(jobs, plain)
        else:
            await print_rows(("job", "task", "state", "attempt", "site", "worker", "since", "error"), jobs, _row)


@job.command()
@click.argument("job_ids", type=int, nargs=-1, required=True, metavar="ID...")
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@calling
async def kill(job_ids: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Kill jobs: what waits is cancelled now, what runs gets an order. Its task makes new ones: `drayman task kill` ends it.

    Exit code 1 if one of them could not be killed: unknown, over, somebody else's, or told so already.
    """
    async with JobsClient() as client:
        killed = await client.kill(job_ids, reason=reason)
    if as_json:
        print_json(dict(zip(map(str, job_ids), killed, strict=True)))
    else:
        for job_id, done in zip(job_ids, killed, strict=True):
            click.echo(f"job {job_id}: {'killed' if done else 'not killed: over, unknown, not yours, or told already'}")
    if not all(killed):
        sys.exit(1)


@job.command()
@click.argument("job_id", type=int, metavar="ID")
@click.option("--off", is_flag=True, help="End it.")
@click.option("-f", "--follow", is_flag=True, help="Show what the job writes, until it is over.")
@calling
async def debug(job_id: int, off: bool, follow: bool) -> None:
    """Let a job's worker send the tail of what it writes."""
    async with JobsClient() as client:
        found = (await client.get([job_id]))[0]
        if found is None:
            raise Failure(f"there is no job {job_id}")
        if off or not (follow and found.debug):
            await client.debug(job_id, not off)
        if not follow or off:
            click.echo(f"job {job_id}: debug mode {'off' if off else 'on'}")
            return
        shown = ""
        async with aclosing(client.output(job_id)) as tails:
            async for tail, _state in tails:
                click.echo(_news(shown, tail), nl=False)
                shown = tail


def _news(shown: str, tail: str) -> str:
    """Return what of a tail was not shown yet: it overlaps with the one before, unless very much was written."""
    if not shown:
        return tail
    for begin in range(len(shown)):
        if tail.startswith(shown[begin:]):
            return tail[len(shown) - begin :]
    return tail


def _print(found: Job) -> None:
    errors = {name: value for name, value in found.fields.items() if name.endswith(_ERRORS) and value}
    print_fields(
        [
            ("job", found.job_id),
            ("task", found.task_id or ""),
            ("state", found.state + (f" ({found.substate})" if found.substate else "")),
            ("order", found.order),
            ("attempt", found.attempt),
            ("retry of", found.parent_job_id or ""),
            ("owner", found.owner),
            ("runs", f"{found.program} {found.parameters}"),
            ("site", found.site),
            ("worker", f"{found.worker_id} {found.node}".strip()),
            ("made", local_time(found.create_time)),
            ("started", local_time(found.start_time)),
            ("ended", local_time(found.end_time)),
            *errors.items(),
            *[(file.type, f"{file.name} ({file.status})") for file in found.files],
        ]
    )
    if found.output_tail:
        click.echo(printable(found.output_tail))


def _row(found: Job) -> tuple[Any, ...]:
    error = next((value for name, value in found.fields.items() if name.endswith("ErrorDiag") and value), "")
    return (
        found.job_id,
        found.task_id or None,
        found.state,
        found.attempt,
        found.site,
        found.worker_id,
        local_time(found.state_time),
        error,
    )
