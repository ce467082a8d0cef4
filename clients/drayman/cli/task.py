"""`drayman task`: submit tasks, look at them, tell them what to do."""

from __future__ import annotations

import sys
from typing import Any

import click

from drayman.cli.audit import moment
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.session import calling
from drayman.cli.task_table import TITLES, row
from drayman.cli.task_watch import follow
from drayman.cli.values import ATTRIBUTES, DURATION, attributes, local_time, plain, seconds
from drayman.client.task_values import CommandAnswer, TaskInput
from drayman.client.tasks import TaskClient

#: What a submission may be answered without being a failure: new, and run again with what is new.
_ACCEPTED = (0, 3)


@click.group()
def task() -> None:
    """Tasks: programs that run over collections of inputs, split into jobs."""


@task.command()
@click.argument("parameters", type=attributes, metavar=ATTRIBUTES)
@click.option("--parent", type=int, default=0, metavar="ID", help="Begin when this task is over.")
@click.option("--follow", "following", is_flag=True, help="Show how it goes on, until it is over.")
@json_option
@calling
async def submit(parameters: dict[str, Any], parent: int, following: bool, as_json: bool) -> None:
    """Submit a task; its parameters are PanDA's taskParams, one JSON object. `drayman run` makes them for you.

    Exit code 0 if it was accepted; with --follow, if it was done.
    """
    async with TaskClient() as client:
        answer = await client.submit(parameters, parent=parent)
        if as_json and not following:
            print_json(plain(answer))
        elif not as_json:
            click.echo(printable(answer.message), err=answer.code not in _ACCEPTED)
        if answer.code not in _ACCEPTED:
            sys.exit(1)
        if following and (await follow(client, answer.task_id, as_json=as_json)).state != "done":
            sys.exit(1)


@task.command("list")
@click.option("--owner", default="", metavar="NAME", help="Only this user's; default: everybody's.")
@click.option("--state", "states", multiple=True, help="Only in this state; repeatable.")
@click.option("--name", default="", help="Only of this name; * stands for anything.")
@click.option("--parent", type=int, default=0, metavar="ID", help="Only children of this task.")
@click.option("--since", type=moment, metavar="TIME|DURATION", help="Only what changed since then.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@json_option
@calling
async def list_tasks(
    owner: str, states: tuple[str, ...], name: str, parent: int, since: Any, limit: int, as_json: bool
) -> None:
    """List tasks, newest first."""
    async with TaskClient() as client:
        tasks = client.tasks(owner=owner, states=states, name=name, parent=parent, changed_since=since, limit=limit)
        if as_json:
            await print_json_array(tasks, plain)
        else:
            await print_rows(TITLES, tasks, row)


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@json_option
@calling
async def show(task_id: int, as_json: bool) -> None:
    """Show a task: where it stands, what it reads and makes."""
    async with TaskClient() as client:
        details = await client.details(task_id, jobs=False)
    if as_json:
        print_json(plain(details))
        return
    found = details.task
    counts = found.counts
    print_fields(
        [
            ("task", found.task_id),
            ("name", found.name),
            ("owner", found.owner),
            ("state", found.state + (f" (was {found.old_state})" if found.old_state else "")),
            ("error", found.error),
            ("parent", found.parent_task_id or ""),
            ("attempt", found.attempt),
            ("priority", found.current_priority),
            ("submitted", local_time(found.create_time)),
            ("started", local_time(found.start_time)),
            ("ended", local_time(found.end_time)),
            ("inputs", f"{counts.inputs_finished} done, {counts.inputs_failed} failed of {counts.inputs}"),
            ("jobs", f"{counts.jobs_live} live, {counts.jobs_finished} finished, {counts.jobs_failed} failed"),
            ("live jobs", ", ".join(f"{count} {state}" for state, count in details.live_jobs.items())),
            ("command", found.command_line),
            *[(dataset.stream, _dataset(dataset)) for dataset in details.datasets],
        ]
    )


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@click.option("--effective", is_flag=True, help="As they are now, rather than as first submitted.")
@calling
async def parameters(task_id: int, effective: bool) -> None:
    """Print the parameters of a task, as JSON."""
    async with TaskClient() as client:
        print_json(await client.parameters(task_id, effective=effective))


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@click.option("--state", "states", multiple=True, help="Only in this state; repeatable.")
@json_option
@calling
async def inputs(task_id: int, states: tuple[str, ...], as_json: bool) -> None:
    """List the records of a task's inputs."""
    async with TaskClient() as client:
        records = client.inputs(task_id, states)
        if as_json:
            await print_json_array(records, plain)
        else:
            await print_rows(("number", "stream", "state", "attempts", "job", "name"), records, _input_row)


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@click.option("--interval", type=seconds, metavar=DURATION, default="1s", show_default=True)
@json_option
@calling
async def watch(task_id: int, interval: float, as_json: bool) -> None:
    """Watch a task until it is over. Exit code 0 if it is done."""
    async with TaskClient() as client:
        if (await follow(client, task_id, interval=interval, as_json=as_json)).state != "done":
            sys.exit(1)


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@calling
async def metadata(task_id: int) -> None:
    """Print what finished jobs left in userJobMetadata.json: one JSON object by job."""
    async with TaskClient() as client:
        print_json({str(job_id): value async for job_id, value in client.metadata(task_id)})


@task.command()
@click.argument("task_id", type=int, metavar="ID")
@click.option("--dry-run", is_flag=True, help="Tell what is missing, and change nothing.")
@json_option
@calling
async def recover(task_id: int, dry_run: bool, as_json: bool) -> None:
    """Compare a task's outputs with the registry, and run again what is missing."""
    async with TaskClient() as client:
        found = await client.recover(task_id, dry_run=dry_run)
    if as_json:
        print_json(plain(found))
    elif found.accepted:
        click.echo(printable(found.message))
        for name in found.lost:
            click.echo(f"  {printable(name)}")
    if not found.accepted:
        raise Failure(found.message)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def kill(task_ids: tuple[int, ...], as_json: bool) -> None:
    """Kill tasks: their jobs are cancelled, they end aborted."""
    await _command(task_ids, "kill", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@click.option("--soft", is_flag=True, help="Let jobs that run end.")
@json_option
@calling
async def finish(task_ids: tuple[int, ...], soft: bool, as_json: bool) -> None:
    """Close tasks on what was processed."""
    await _command(task_ids, "finish_soft" if soft else "finish", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def pause(task_ids: tuple[int, ...], as_json: bool) -> None:
    """Hold tasks: no more jobs are handed out, those that run go on."""
    await _command(task_ids, "pause", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def resume(task_ids: tuple[int, ...], as_json: bool) -> None:
    """Let tasks go on."""
    await _command(task_ids, "resume", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@click.option("--set", "new", type=attributes, metavar=ATTRIBUTES, help="New parameters, such as nFilesPerJob.")
@click.option("--live", is_flag=True, help="Of a task that runs: try again what failed.")
@click.option("--sole", is_flag=True, help="Leave its children alone.")
@json_option
@calling
async def retry(task_ids: tuple[int, ...], new: dict[str, Any] | None, live: bool, sole: bool, as_json: bool) -> None:
    """Try again what was given up; with --set, with other parameters and what is new in the inputs."""
    await _command(task_ids, "retry", as_json=as_json, parameters=new, retry_live=live, sole=sole)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def reload(task_ids: tuple[int, ...], as_json: bool) -> None:
    """Read the lists of the inputs again: what is new is processed too."""
    await _command(task_ids, "reload_input", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def reactivate(task_ids: tuple[int, ...], as_json: bool) -> None:
    """Begin from the beginning."""
    await _command(task_ids, "reactivate", as_json=as_json)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@click.option("--by", type=click.IntRange(min=0), default=3, show_default=True, help="So many attempts more.")
@json_option
@calling
async def attempts(task_ids: tuple[int, ...], by: int, as_json: bool) -> None:
    """Allow more attempts at what is not processed yet."""
    await _command(task_ids, "increase_attempts", as_json=as_json, increase=by)


@task.command()
@click.argument("task_ids", type=int, nargs=-1, required=True, metavar="ID...")
@json_option
@calling
async def avalanche(task_ids: tuple[int, ...], as_json: bool) -> None:
    """End the scouting now: make all jobs."""
    await _command(task_ids, "avalanche", as_json=as_json)


async def _command(task_ids: tuple[int, ...], command: str, *, as_json: bool, **options: Any) -> None:
    answers: list[tuple[int, CommandAnswer]] = []
    async with TaskClient() as client:
        for task_id in task_ids:
            answer = await client.command(task_id, command, **options)
            answers.append((task_id, answer))
            if not as_json:
                click.echo(f"task {task_id}: {printable(answer.message)}", err=answer.code != 0)
    if as_json:
        print_json([{"task_id": task_id} | plain(answer) for task_id, answer in answers])
    if any(answer.code for _, answer in answers):
        sys.exit(1)


def _dataset(dataset: Any) -> str:
    done = f"{dataset.files_finished} of {dataset.files}" if dataset.kind == "input" else str(dataset.files)
    place = f", in {dataset.registry}" if dataset.registry else ""
    return f"{dataset.name or '-'} ({dataset.kind}): {done} files{place}"


def _input_row(record: TaskInput) -> tuple[Any, ...]:
    window = f" [{record.first_event}+{record.events}]" if record.first_event or record.events else ""
    return (
        record.number,
        record.stream,
        record.state,
        f"{record.attempts}/{record.max_attempts}",
        record.job_id or None,
        record.name + window,
    )
