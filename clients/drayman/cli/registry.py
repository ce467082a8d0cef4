"""`drayman registry`: versioned files, who may upload them, and what they use."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any

import click

from drayman.cli import registry_address as address
from drayman.cli.audit import moment
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.progress import late_bar
from drayman.cli.registry_permissions import permissions
from drayman.cli.registry_probation import probation
from drayman.cli.registry_projects import asset, project, version
from drayman.cli.registry_transfer import download, upload
from drayman.cli.session import Misuse, calling
from drayman.cli.values import local_time, plain
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Adopted, Change, Entry, FileAddress, Rerouted


@click.group()
def registry() -> None:
    """Versioned files: projects hold assets, assets hold versions, versions hold files and never change."""


for _command in (project, asset, version, permissions, probation, upload, download):
    registry.add_command(_command)


@registry.command()
@json_option
@calling
async def info(as_json: bool) -> None:
    """Tell where the registry is."""
    async with RegistryClient() as client:
        found = await client.info()
    if as_json:
        print_json(plain(found))
    else:
        wait = f"{found.probation_days} days" if found.probation_days else "no limit"
        print_fields([("registry", found.registry), ("staging", found.staging or "-"), ("probation", wait)])


@registry.command("ls")
@click.argument("file", metavar=address.FILE)
@click.option("-l", "--long", "long_form", is_flag=True, help="With sizes, hashes and links.")
@json_option
@calling
async def list_files(file: str, long_form: bool, as_json: bool) -> None:
    """List the files of a version whose paths begin with PATH; empty directories end in `/`."""
    where = address.file(file)
    async with RegistryClient() as client:
        entries = client.entries(*where[:3], prefix=where[3])
        if as_json:
            await print_json_array(entries, _entry_record)
        elif long_form:
            await print_rows(("size", "md5", "link", "path"), entries, _entry_row)
        else:
            async for entry in entries:
                click.echo(printable(_shown_path(entry)))


@registry.command()
@click.argument("version_name", metavar=address.VERSION)
@calling
async def manifest(version_name: str) -> None:
    """Print the manifest of a version as JSON, as the registry's folder has it."""
    where = address.version(version_name)
    async with RegistryClient() as client:
        found = [entry async for entry in client.entries(*where)]
    print_json({entry.path: _manifest_record(entry) for entry in found})


@registry.command()
@click.argument("asset_name", metavar=address.ASSET)
@click.option("--refresh", is_flag=True, help="Find it again first. For administrators.")
@json_option
@calling
async def latest(asset_name: str, refresh: bool, as_json: bool) -> None:
    """Show the latest approved version of an asset."""
    where = address.asset(asset_name)
    async with RegistryClient() as client:
        if refresh:
            await client.refresh_latest(*where)
        found = await client.latest(*where)
    if as_json:
        print_json(plain(found))
    elif found is None:
        raise Failure(f"no version of {printable(asset_name)} is approved")
    else:
        click.echo(printable(found.version))


@registry.command()
@click.argument("project_name", metavar="PROJECT")
@click.option("--refresh", is_flag=True, help="Add it up again first. For administrators.")
@json_option
@calling
async def usage(project_name: str, refresh: bool, as_json: bool) -> None:
    """Show how many bytes a project uses, and how many it may."""
    async with RegistryClient() as client:
        if refresh:
            async with late_bar(f"adding up {project_name}"):
                await client.refresh_usage(project_name)
        found = await client.get_project(project_name)
    if as_json:
        print_json({"project": project_name, "usage": found.usage, "limit": found.limit})
    else:
        click.echo(f"{found.usage} of {found.limit} bytes")


@registry.command()
@click.argument("project_name", metavar="PROJECT")
@click.option("--baseline", type=click.IntRange(0, 2**63 - 1), metavar="BYTES", help="What it may have at the start.")
@click.option(
    "--growth-rate", type=click.IntRange(0, 2**63 - 1), metavar="BYTES", help="What it may have more each year."
)
@click.option("--year", type=click.IntRange(1, 9999), help="The first year.")
@json_option
@calling
async def quota(
    project_name: str, baseline: int | None, growth_rate: int | None, year: int | None, as_json: bool
) -> None:
    """Show what a project may grow to, or change it. Changes are for administrators."""
    async with RegistryClient() as client:
        if (baseline, growth_rate, year) != (None, None, None):
            found, limit = await client.set_quota(project_name, baseline=baseline, growth_rate=growth_rate, year=year)
        else:
            read = await client.get_project(project_name)
            found, limit = read.quota, read.limit
    if as_json:
        print_json({"project": project_name, **plain(found), "limit": limit})
    else:
        print_fields(
            [
                ("baseline", found.baseline),
                ("growth rate", found.growth_rate),
                ("year", found.year),
                ("limit now", limit),
            ]
        )


@registry.command()
@click.option("--project", "project_name", metavar="PROJECT", default="", help="Only of this project.")
@click.option("--since", type=moment, metavar="TIME|DURATION", help="Only from then on.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Only after the change with this id."
)
@click.option("-f", "--follow", is_flag=True, help="And what changes from now on.")
@json_option
@calling
async def log(project_name: str, since: datetime | None, after: int, follow: bool, as_json: bool) -> None:
    """Show what changed, oldest first: versions added and removed, assets and projects removed.

    With --follow it does not end; with --json it prints one JSON object a line then.
    """
    async with RegistryClient() as client:
        changes = client.changes(after=after, since=since, project=project_name, follow=follow)
        if follow:
            await _print_lines(changes, as_json=as_json)
        elif as_json:
            await print_json_array(changes, plain)
        else:
            await print_rows(("id", "time", "change", "latest", "what"), changes, _change_row)


@registry.command()
@click.argument("version_name", metavar=address.VERSION)
@json_option
@calling
async def validate(version_name: str, as_json: bool) -> None:
    """Compare what is stored of a version, byte by byte, with what is known of it. For administrators.

    Prints each difference, and ends with 1 if there is one.
    """
    where = address.version(version_name)
    async with RegistryClient() as client, late_bar(f"validating {version_name}"):
        differences = await client.validate_version(*where)
    if as_json:
        print_json(plain(differences))
    elif differences:
        for each in differences:
            click.echo(f"{printable(each.path)}: {printable(each.text)}")
    else:
        click.echo("all is well")
    if differences:
        click.get_current_context().exit(1)


@registry.command()
@click.argument("version_name", metavar=address.VERSION)
@json_option
@calling
async def reindex(version_name: str, as_json: bool) -> None:
    """Rebuild the manifest and the links of a version from what is stored. For administrators."""
    where = address.version(version_name)
    async with RegistryClient() as client, late_bar(f"reindexing {version_name}"):
        found = await client.reindex_version(*where)
    if as_json:
        print_json(plain(found))
    else:
        click.echo(f"{found.entries} entries, {found.usage} bytes")


@registry.command()
@click.argument("to_delete", nargs=-1, required=True, metavar=f"{address.ANY}...")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
@calling
async def reroute(to_delete: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Make links independent of what is about to be deleted. Deletes nothing. For administrators."""
    doomed = [address.doomed(text) for text in to_delete]
    async with RegistryClient() as client, late_bar("rerouting links"):
        changes = await client.reroute_links(doomed, dry_run=dry_run)
    if as_json:
        print_json(plain(changes))
    else:
        await print_rows(("copy", "bytes", "was", "link"), _each(changes), _rerouted_row)


@registry.command()
@click.argument("path", required=False)
@click.option("--verify", is_flag=True, help="Hash every file again and compare it with its manifest.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken over, and change nothing.")
@json_option
@calling
async def adopt(path: str | None, verify: bool, dry_run: bool, as_json: bool) -> None:
    """Take over the Gobbler registry in the service's folder, in place. For administrators.

    PATH is that folder, to be sure: the service is told by DRAYMAN_REGISTRY. Nothing is moved or rewritten; what is broken is told and left
    as it is, and ends the command with 1. A run that was broken off goes on with the next one.
    """
    reports: list[Adopted] = []
    async with RegistryClient() as client:
        if path is not None:
            folder = (await client.info()).registry
            if os.path.realpath(path) != os.path.realpath(folder):
                raise Misuse(
                    f"the service's folder is {printable(folder)}: start it with DRAYMAN_REGISTRY={printable(path)}"
                )
        async with (
            late_bar("adopting") as bar,
            aclosing(_closable(client.adopt(verify=verify, dry_run=dry_run))) as found,
        ):
            async for each in found:
                reports.append(each)
                bar.tell(len(reports), title=each.path)
                if not as_json:
                    for problem in each.problems:
                        click.echo(f"{printable(each.path)}: {printable(problem)}")
    broken = any(each.problems for each in reports)
    if as_json:
        print_json(plain(reports))
    else:
        done = sum(each.adopted for each in reports)
        click.echo(f"{done} projects, assets and versions {'would be taken over' if dry_run else 'taken over'}")
    if broken:
        click.get_current_context().exit(1)


async def _print_lines(changes: AsyncIterator[Change], *, as_json: bool) -> None:
    async with aclosing(_closable(changes)) as lines:
        async for change in lines:
            if as_json:
                click.echo(json.dumps(plain(change), ensure_ascii=False))
            else:
                click.echo("  ".join(printable(str(cell)) for cell in _change_row(change)))


async def _closable(items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    async for item in items:
        yield item


async def _each(items: list[Rerouted]) -> AsyncIterator[Rerouted]:
    for item in items:
        yield item


def _change_row(change: Change) -> tuple[Any, ...]:
    what = "/".join(filter(None, (change.project, change.asset, change.version)))
    return change.change_id, local_time(change.time), change.type, "latest" if change.latest else "-", what


def _rerouted_row(each: Rerouted) -> tuple[Any, ...]:
    return each.copy, each.usage, each.source, each.path


def _shown_path(entry: Entry) -> str:
    return f"{entry.path}/" if entry.empty_directory else entry.path


def _entry_row(entry: Entry) -> tuple[Any, ...]:
    return entry.size, entry.md5, entry.link.target.key if entry.link is not None else "", _shown_path(entry)


def _entry_record(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = plain(entry)
    return record


def _manifest_record(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = {"size": entry.size, "md5sum": entry.md5}
    if entry.link is not None:
        record["link"] = _address_record(entry.link.target)
        if entry.link.ancestor is not None:
            record["link"]["ancestor"] = _address_record(entry.link.ancestor)
    return record


def _address_record(at: FileAddress) -> dict[str, Any]:
    return {"project": at.project, "asset": at.asset, "version": at.version, "path": at.path}
