"""`drayman project`: lists of files to be worked on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from drayman.cli.file_list import FileList
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option, print_fields, print_json
from drayman.cli.session import Misuse, calling
from drayman.cli.values import (
    ATTRIBUTES,
    DURATION,
    attribute_pair,
    attributes,
    duration_text,
    json_text,
    local_time,
    plain,
    seconds_or_none,
)
from drayman.client import AuthClient, DispatchClient, File, Handle, Project

_PROJECT_STATES = click.Choice(["active", "done", "failed", "cancelled", "abandoned"])
_PROJECT_STATES_OR_ANY = click.Choice([*_PROJECT_STATES.choices, "any"])
_HANDLE_STATES = click.Choice(["initial", "reserved", "done", "failed"])
_RESTARTABLE = ("done", "failed", "reserved")


@click.group()
def project() -> None:
    """Lists of files to be worked on."""


@project.command()
@click.argument("file_list", required=False, metavar="[FILE_LIST|-]")
@click.option("--file", "dids", multiple=True, metavar="NAMESPACE:NAME", help="A file, before those of the list.")
@click.option("--virtual", is_flag=True, help="Its files need no replicas.")
@click.option("--attributes", "given", type=attributes, metavar=ATTRIBUTES, help="Attributes: a JSON object.")
@click.option(
    "--worker-timeout",
    type=seconds_or_none,
    metavar=DURATION,
    default="12h",
    show_default=True,
    help="A file is taken back from a worker after so long; none = never.",
)
@click.option(
    "--idle-timeout",
    type=seconds_or_none,
    metavar=DURATION,
    default="72h",
    show_default=True,
    help="The project is abandoned if nothing happens for so long; none = never.",
)
@click.option("--user", "users", multiple=True, metavar="USERNAME", help="Somebody else who may work on it.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role whose members may work on it.")
@click.option("--query", metavar="TEXT", help="Where the list comes from; kept as it is.")
@json_option
@calling
async def create(
    file_list: str | None,
    dids: tuple[str, ...],
    virtual: bool,
    given: dict[str, Any] | None,
    worker_timeout: float | None,
    idle_timeout: float | None,
    users: tuple[str, ...],
    roles: tuple[str, ...],
    query: str | None,
    as_json: bool,
) -> None:
    """Create a project of the files in FILE_LIST (- is standard input) and print its id.

    A line is namespace:name, to the letter, or a JSON object with "namespace", "name" and "attributes". A list may be of any length; if
    anything is wrong with it, there is no project. A DURATION is a number of seconds, or a number with s, m, h or d.
    """
    if file_list is None and not dids:
        raise Misuse("no files: give a FILE_LIST, - for standard input, or --file")
    files = FileList(dids, file_list)
    async with DispatchClient() as dispatch:
        created = await dispatch.create_project(
            files,
            attributes=(given or {}) | ({"virtual": True} if virtual else {}),
            query=query,
            worker_timeout=worker_timeout,
            idle_timeout=idle_timeout,
            users=users,
            roles=roles,
        )
    _print_id(created, as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--attributes", "given", type=attributes, metavar=ATTRIBUTES, help="Laid over the project's attributes.")
@click.option("--file-attributes", type=attributes, metavar=ATTRIBUTES, help="Laid over those of every file.")
@json_option
@calling
async def copy(
    project_id: int, given: dict[str, Any] | None, file_attributes: dict[str, Any] | None, as_json: bool
) -> None:
    """Make a project of one's own with the files of project ID and print its id."""
    async with DispatchClient() as dispatch:
        copied = await dispatch.copy_project(project_id, project_attributes=given, file_attributes=file_attributes)
    _print_id(copied, as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@json_option
@calling
async def show(project_id: int, as_json: bool) -> None:
    """Show project ID; `drayman project files` has its files."""
    async with DispatchClient() as dispatch:
        found = await dispatch.get_project(project_id)
    if as_json:
        print_json(plain(found))
    else:
        print_fields(_fields(found))


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--state", type=_HANDLE_STATES, help="Only those in this state.")
@click.option("--not-state", type=_HANDLE_STATES, help="Not those in this state.")
@click.option("--replicas", is_flag=True, help="With their replicas.")
@click.option("--limit", type=click.IntRange(1), help="End after so many.")
@json_option
@calling
async def files(
    project_id: int, state: str | None, not_state: str | None, replicas: bool, limit: int | None, as_json: bool
) -> None:
    """List the files of project ID, in the order in which they were given."""
    async with DispatchClient() as dispatch:
        handles = dispatch.handles(
            project_id, state=state, not_state=not_state, with_replicas=replicas, limit=limit or 0
        )
        if as_json:
            await print_json_array(handles, lambda handle: _record(handle, replicas=replicas))
            return
        titles = ("handle", "state", "attempts", "reserved", "worker", "file")
        await print_rows(titles, handles, _row, _replica_lines)


@project.command("list")
@click.option("--owner", metavar="USERNAME", help="Only those of this user; default: one's own.")
@click.option("--all", "everybody", is_flag=True, help="Those of everybody.")
@click.option("--state", type=_PROJECT_STATES_OR_ANY, default="any", show_default=True, help="Only those in it.")
@click.option("--not-state", type=_PROJECT_STATES, help="Not those in this state.")
@click.option(
    "--attribute",
    "pairs",
    type=attribute_pair,
    multiple=True,
    metavar="NAME=VALUE",
    help="Only those that have it; the value is JSON, or text if it is none.",
)
@json_option
@calling
async def list_projects(
    owner: str | None,
    everybody: bool,
    state: str,
    not_state: str | None,
    pairs: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """List projects by ascending id."""
    if everybody and owner is not None:
        raise Misuse("--owner and --all exclude each other")
    if not everybody and owner is None:
        async with AuthClient() as auth:
            owner = (await auth.auth_info()).username
    async with DispatchClient() as dispatch:
        projects = dispatch.projects(
            owner=owner or "",
            state=None if state == "any" else state,
            not_state=not_state,
            attributes=dict(pairs),
        )
        if as_json:
            await print_json_array(projects, plain)
            return
        titles = ("id", "state", "done", "failed", "reserved", "total", "created", "owner")
        await print_rows(titles, projects, _summary)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@json_option
@calling
async def cancel(project_id: int, as_json: bool) -> None:
    """Stop handing out the files of project ID; workers may report what they hold."""
    async with DispatchClient() as dispatch:
        _print_state(await dispatch.cancel_project(project_id), as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@json_option
@calling
async def activate(project_id: int, as_json: bool) -> None:
    """Let project ID hand out files again."""
    async with DispatchClient() as dispatch:
        _print_state(await dispatch.activate_project(project_id), as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@json_option
@calling
async def delete(project_id: int, as_json: bool) -> None:
    """Remove project ID and its history for good."""
    async with DispatchClient() as dispatch:
        await dispatch.delete_project(project_id)
    if as_json:
        print_json({"deleted": project_id})
    else:
        click.echo(f"project {project_id} removed")


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--done", "states", flag_value="done", multiple=True, help="Files that are done.")
@click.option("--failed", "states", flag_value="failed", multiple=True, help="Files that were given up.")
@click.option("--reserved", "states", flag_value="reserved", multiple=True, help="Files that workers hold.")
@click.option("--all", "everything", is_flag=True, help="All of these.")
@click.argument("dids", nargs=-1, metavar="[NAMESPACE:NAME]...")
@json_option
@calling
async def restart(
    project_id: int, states: tuple[str, ...], everything: bool, dids: tuple[str, ...], as_json: bool
) -> None:
    """Have files of project ID worked on again: those in some states, or those named."""
    if everything:
        states = _RESTARTABLE
    if bool(states) == bool(dids):
        raise Misuse("give states (--done, --failed, --reserved, --all) or names of files, one of the two")
    named = [File.of(did) for did in dids]
    async with DispatchClient() as dispatch:
        for file in named:  # the service ignores names that it does not know; whoever typed one wants to hear of it
            await dispatch.get_handle(project_id, file.namespace, file.name)
        changed, count = await dispatch.restart_handles(project_id, states=states, files=named)
    if as_json:
        print_json({"restarted": count, "project": plain(changed)})
    else:
        click.echo(f"{count} files restarted, project {changed.project_id} is {changed.state}")


def _print_id(made: Project, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(made))
    else:
        click.echo(made.project_id)


def _print_state(changed: Project, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(changed))
    else:
        click.echo(f"project {changed.project_id} is {changed.state}")


def _fields(found: Project) -> list[tuple[str, Any]]:
    counts = found.counts
    return [
        ("project", found.project_id),
        ("owner", found.owner),
        ("state", found.state),
        ("created", local_time(found.created)),
        ("ended", local_time(found.ended) or "-"),
        ("files", counts.total),
        ("initial", counts.initial),
        ("reserved", counts.reserved),
        ("done", counts.done),
        ("failed", counts.failed),
        ("virtual", found.virtual),
        ("worker time-out", duration_text(found.worker_timeout)),
        ("idle time-out", duration_text(found.idle_timeout)),
        ("users", ", ".join(found.users) or "-"),
        ("roles", ", ".join(found.roles) or "-"),
        ("query", found.query if found.query is not None else "-"),
        ("attributes", json_text(found.attributes)),
    ]


def _summary(found: Project) -> tuple[Any, ...]:
    counts = found.counts
    numbers = (counts.done, counts.failed, counts.reserved, counts.total)
    return found.project_id, found.state, *numbers, local_time(found.created), found.owner


def _row(handle: Handle) -> tuple[Any, ...]:
    since = local_time(handle.reserved_since)
    return handle.handle_id, handle.state, handle.attempts, since, handle.worker_id, handle.did


def _replica_lines(handle: Handle) -> Iterator[str]:
    for replica in handle.replicas:
        reach = "available" if replica.available and replica.rse_available else "not available"
        yield f"{replica.rse}: {reach} {' '.join(replica.urls) or replica.path or ''}".rstrip()


def _record(handle: Handle, *, replicas: bool) -> dict[str, Any]:
    record: dict[str, Any] = plain(handle)
    del record["project_attributes"]  # those of the project, which a list does not repeat
    if not replicas:
        del record["replicas"]
    return record
