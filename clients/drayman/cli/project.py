"""`drayman project`: lists of files to be worked on."""

from __future__ import annotations

import json
from typing import Any

import click

from drayman.cli.explain import explain_project
from drayman.cli.file import list_files
from drayman.cli.file_sources import FileSources, takes_files
from drayman.cli.history import project_history
from drayman.cli.output import json_option, print_fields, print_json
from drayman.cli.project_table import print_projects
from drayman.cli.search import search
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
from drayman.cli.watch import watch_project
from drayman.client import AuthClient, DispatchClient, File, Project, Reason

_PROJECT_STATES = click.Choice(["active", "done", "failed", "cancelled", "abandoned"])
_PROJECT_STATES_OR_ANY = click.Choice([*_PROJECT_STATES.choices, "any"])
_RESTARTABLE = ("done", "failed", "reserved")


@click.group()
def project() -> None:
    """Lists of files to be worked on."""


@project.command()
@takes_files
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
@click.option("--max-attempts", type=click.IntRange(1), help="A file that fails so often has failed for good.")
@click.option("--max-running", type=click.IntRange(1), help="At most so many files are reserved at a time.")
@click.option(
    "--open", "open_list", is_flag=True, help="More files will be added: do not end before `project add --close`."
)
@json_option
@calling
async def create(
    sources: FileSources,
    virtual: bool,
    given: dict[str, Any] | None,
    worker_timeout: float | None,
    idle_timeout: float | None,
    users: tuple[str, ...],
    roles: tuple[str, ...],
    query: str | None,
    max_attempts: int | None,
    max_running: int | None,
    open_list: bool,
    as_json: bool,
) -> None:
    """Create a project of the files in FILE_LIST (- is standard input) and print its id.

    A line is namespace:name, to the letter, or a JSON object with "namespace", "name" and "attributes". A list may be of any length; if
    anything is wrong with it, there is no project. A DURATION is a number of seconds, or a number with s, m, h or d.
    """
    files, found_by = sources.open(needed=not open_list)
    async with DispatchClient() as dispatch:
        created = await dispatch.create_project(
            files,
            attributes=(given or {}) | ({"virtual": True} if virtual else {}),
            query=found_by if query is None else query,
            worker_timeout=worker_timeout,
            idle_timeout=idle_timeout,
            users=users,
            roles=roles,
            max_attempts=max_attempts,
            max_running=max_running,
            open=open_list,
        )
    _print_id(created, as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@takes_files
@click.option(
    "--skip-existing", is_flag=True, help="Leave out files that the project has, instead of refusing the list."
)
@click.option(
    "--open/--close", "open_list", default=None, help="Say that more files will, or will not, be added later."
)
@json_option
@calling
async def add(
    project_id: int, sources: FileSources, skip_existing: bool, open_list: bool | None, as_json: bool
) -> None:
    """Add the files in FILE_LIST (- is standard input) to project ID, given as for `drayman project create`.

    All of them are added or none. A project that was done, failed or abandoned goes on. Without files, --open and --close only say whether
    the project ends with its last file.
    """
    files, _ = sources.open(needed=open_list is None)
    async with DispatchClient() as dispatch:
        grown, added, skipped = await dispatch.add_files(project_id, files, skip_existing=skip_existing, open=open_list)
    if as_json:
        print_json({"added": added, "skipped": skipped, "project": plain(grown)})
    else:
        left_out = f", {skipped} were there" if skipped else ""
        click.echo(f"{added} files added{left_out}, project {project_id} is {grown.state}")


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--attributes", "given", type=attributes, metavar=ATTRIBUTES, help="Laid over the project's attributes.")
@click.option("--file-attributes", type=attributes, metavar=ATTRIBUTES, help="Laid over those of every file.")
@click.option("--worker-timeout", type=seconds_or_none, metavar=DURATION, help="Default: the original's.")
@click.option("--idle-timeout", type=seconds_or_none, metavar=DURATION, help="Default: the original's.")
@click.pass_context
@json_option
@calling
async def copy(
    context: click.Context,
    project_id: int,
    given: dict[str, Any] | None,
    file_attributes: dict[str, Any] | None,
    as_json: bool,
    **timeouts: float | None,
) -> None:
    """Make a project of one's own with the files of project ID and print its id."""
    # `none` is a value: what was not given is told from it by where it comes from
    changes = {name: value for name, value in timeouts.items() if _was_given(context, name)}
    async with DispatchClient() as dispatch:
        copied = await dispatch.copy_project(
            project_id, project_attributes=given, file_attributes=file_attributes, **changes
        )
    _print_id(copied, as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--attributes", "only_attributes", is_flag=True, help="Only its attributes.")
@json_option
@calling
async def show(project_id: int, only_attributes: bool, as_json: bool) -> None:
    """Show project ID; `drayman project files` has its files."""
    async with DispatchClient() as dispatch:
        found = await dispatch.get_project(project_id)
    if only_attributes:
        if as_json:
            print_json(found.attributes)
        else:
            print_fields((name, _attribute_text(value)) for name, value in found.attributes.items())
    elif as_json:
        print_json(plain(found))
    else:
        print_fields(_fields(found))


project.add_command(list_files, "files")
project.add_command(watch_project)
project.add_command(project_history)
project.add_command(explain_project)
project.add_command(search)


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
        await print_projects(projects, as_json=as_json)


@project.command()
@click.argument("project_id", type=int, metavar="ID")
@click.option("--code", default="", help="A short code for the reason.")
@click.option("--message", default="", help="The reason in words; shown to workers.")
@json_option
@calling
async def cancel(project_id: int, code: str, message: str, as_json: bool) -> None:
    """Stop handing out the files of project ID; workers may report what they hold."""
    async with DispatchClient() as dispatch:
        _print_state(await dispatch.cancel_project(project_id, code=code, message=message), as_json=as_json)


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


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _attribute_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
        *([("reason", _why(found.reason))] if found.reason else []),
        ("files", counts.total),
        ("initial", counts.initial),
        ("reserved", counts.reserved),
        ("done", counts.done),
        ("failed", counts.failed),
        ("virtual", found.virtual),
        ("worker time-out", duration_text(found.worker_timeout)),
        ("idle time-out", duration_text(found.idle_timeout)),
        ("max. attempts", found.max_attempts or "none"),
        ("max. running", found.max_running or "none"),
        ("open", found.open),
        ("users", ", ".join(found.users) or "-"),
        ("roles", ", ".join(found.roles) or "-"),
        ("query", found.query if found.query is not None else "-"),
        ("attributes", json_text(found.attributes)),
    ]


def _why(reason: Reason) -> str:
    return " ".join(part for part in (reason.code, reason.message, f"(by {reason.username})") if part)
