"""`drayman rse`: storage elements, the replicas in them, and how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from drayman.cli.output import Failure, json_option, print_fields, print_json, print_table, printable
from drayman.cli.replica_list import read_replicas
from drayman.cli.rse_sync import sync
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client import DispatchClient, DraymanError, Replica, Rse

#: Replicas that are sent in one call.
_BATCH = 10_000


@click.group()
def rse() -> None:
    """Storage elements and the replicas in them. Changes are for administrators."""


def _rse_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--description", help="For people."),
        click.option("--enable/--disable", "is_enabled", default=None, help="Whether it takes part at all."),
        click.option("--up/--down", "is_available", default=None, help="Whether it is up."),
        click.option("--tape/--disk", "is_tape", default=None, help="Whether files must be staged first."),
        click.option("--pin-url", metavar="URL", help="Where stage requests go."),
        click.option("--poll-url", metavar="URL", help="Where the state of files is asked for."),
        click.option("--remove-prefix", metavar="PATH", help="Removed from the path of a URL."),
        click.option("--add-prefix", metavar="PATH", help="Then added."),
        click.option("--pin-prefix", metavar="PATH", help="Prefix for stage requests."),
        click.option("--preference", type=click.IntRange(-(2**31), 2**31 - 1), help="Stored and shown."),
        click.option("--type", type=click.Choice(["native", "wlcg"]), help="Kind of stage interface."),
        click.option(
            "--max-running",
            type=click.IntRange(0, 2**31 - 1),
            help="At most so many files that are read from it are reserved at a time; 0 = no limit.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@rse.command("list")
@json_option
@calling
async def list_rses(as_json: bool) -> None:
    """List all storage elements."""
    async with DispatchClient() as dispatch:
        rses = await dispatch.rses()
    if as_json:
        print_json(plain(rses))
        return
    rows = [
        (each.name, "up" if each.is_available else "down", each.is_enabled, each.is_tape, each.description)
        for each in rses
    ]
    print_table(("rse", "status", "enabled", "tape", "description"), rows)


@rse.command()
@click.argument("name")
@json_option
@calling
async def show(name: str, as_json: bool) -> None:
    """Show the storage element NAME."""
    async with DispatchClient() as dispatch:
        _show(await dispatch.get_rse(name), as_json=as_json)


@rse.command()
@click.argument("name")
@_rse_options
@json_option
@calling
async def create(name: str, as_json: bool, **fields: Any) -> None:
    """Create the storage element NAME: enabled, up and on disk unless said otherwise."""
    async with DispatchClient() as dispatch:
        _show(await dispatch.create_rse(Rse(name, **_given(fields))), as_json=as_json)


@rse.command()
@click.argument("name")
@_rse_options
@json_option
@calling
async def update(name: str, as_json: bool, **fields: Any) -> None:
    """Change the storage element NAME; what is not given stays."""
    given = _given(fields)
    if not given:
        raise Misuse("nothing to change: see --help")
    async with DispatchClient() as dispatch:
        _show(await dispatch.update_rse(name, **given), as_json=as_json)


@rse.command()
@click.argument("name")
@json_option
@calling
async def delete(name: str, as_json: bool) -> None:
    """Remove the storage element NAME and its replicas."""
    async with DispatchClient() as dispatch:
        count = await dispatch.delete_rse(name)
    if as_json:
        print_json({"deleted": name, "replicas_deleted": count})
    else:
        click.echo(f"RSE {printable(name)} removed, with {count} replicas")


@rse.command()
@click.argument("name")
@json_option
@calling
async def up(name: str, as_json: bool) -> None:
    """Say that the storage element NAME is up: its files are handed out again at once."""
    await _set_available(name, available=True, as_json=as_json)


@rse.command()
@click.argument("name")
@json_option
@calling
async def down(name: str, as_json: bool) -> None:
    """Say that the storage element NAME is down: files that are only there wait."""
    await _set_available(name, available=False, as_json=as_json)


@rse.command("add-replicas")
@click.argument("source", metavar="FILE|-")
@json_option
@calling
async def add_replicas(source: str, as_json: bool) -> None:
    """Add replicas, or change those that exist, out of FILE (- is standard input), of any length.

    Either a JSON object a line, or CSV with a header. Fields: did, or namespace and name; rse; and url or urls (JSON: a list, CSV:
    separated by blanks), path, preference, available. What was sent before a line that is wrong stays. See also `drayman rse sync`.
    """
    written = 0
    async with DispatchClient() as dispatch:
        batch: list[Replica] = []
        try:
            async for replica in read_replicas(source):
                batch.append(replica)
                if len(batch) >= _BATCH:
                    written += (await dispatch.update_replicas(batch))[0]
                    batch = []
            written += (await dispatch.update_replicas(batch))[0]
        except DraymanError as error:
            error.message += _after(written)
            raise
        except Failure as error:
            raise Failure(error.message + _after(written)) from error
    if as_json:
        print_json({"replicas": written})
    else:
        click.echo(f"{written} replicas added or changed")


rse.add_command(sync)


@rse.group(invoke_without_command=True)
@json_option
@click.pass_context
def proximity(context: click.Context, as_json: bool) -> None:
    """How far storage elements are from CPU sites; without a command, list it.

    DEFAULT as SITE stands for sites without entries, as RSE for storage elements without one.
    """
    if context.invoked_subcommand is None:
        _list_proximity(as_json=as_json)


@proximity.command("list")
@click.argument("site", default="")
@json_option
def list_proximity(site: str, as_json: bool) -> None:
    """List the map, of SITE or of all."""
    _list_proximity(site, as_json=as_json)


@proximity.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("site")
@click.argument("rse_name", metavar="RSE")
@click.argument("distance", type=click.IntRange(-(2**31), 2**31 - 1), metavar="N")
@json_option
@calling
async def set_proximity(site: str, rse_name: str, distance: int, as_json: bool) -> None:
    """Set the distance from SITE to RSE: smaller is nearer."""
    async with DispatchClient() as dispatch:
        await dispatch.set_proximity(site, rse_name, distance)
    if as_json:
        print_json({"cpu_site": site, "rse": rse_name, "proximity": distance})
    else:
        click.echo(f"{printable(site)} to {printable(rse_name)}: {distance}")


@proximity.command("remove")
@click.argument("site")
@click.argument("rse_name", metavar="RSE")
@json_option
@calling
async def remove_proximity(site: str, rse_name: str, as_json: bool) -> None:
    """Remove the entry of SITE and RSE."""
    async with DispatchClient() as dispatch:
        await dispatch.set_proximity(site, rse_name, None)
    if as_json:
        print_json({"cpu_site": site, "rse": rse_name, "proximity": None})
    else:
        click.echo(f"{printable(site)} to {printable(rse_name)}: removed")


@calling
async def _list_proximity(site: str = "", *, as_json: bool) -> None:
    async with DispatchClient() as dispatch:
        entries = await dispatch.proximities(site)
    if as_json:
        print_json([{"cpu_site": each[0], "rse": each[1], "proximity": each[2]} for each in entries])
    else:
        print_table(("cpu site", "rse", "proximity"), entries)


async def _set_available(name: str, *, available: bool, as_json: bool) -> None:
    async with DispatchClient() as dispatch:
        changed = await dispatch.update_rse(name, is_available=available)
    if as_json:
        print_json(plain(changed))
    else:
        click.echo(f"RSE {printable(changed.name)} is {'up' if changed.is_available else 'down'}")


def _after(written: int) -> str:
    return f"; {written} replicas before are in" if written else ""


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _show(each: Rse, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(each))
        return
    titles = {"name": "rse", "is_enabled": "enabled", "is_available": "up", "is_tape": "tape"}
    record = plain(each)
    print_fields(
        (titles.get(name, name.replace("_", " ")), "-" if value in (None, "") else value)
        for name, value in record.items()
    )
