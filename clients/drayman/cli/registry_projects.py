"""`drayman registry project`, `asset` and `version`: what there is, made and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import click

from drayman.cli import registry_address as address
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option, print_fields, print_json, printable
from drayman.cli.progress import late_bar
from drayman.cli.session import calling
from drayman.cli.values import local_time, plain
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Version

_FORCE = click.option("--force", is_flag=True, help="Also if others link to its files, which then lead nowhere.")


@click.group()
def project() -> None:
    """Projects of the registry. Changes are for administrators."""


@project.command("list")
@json_option
@calling
async def list_projects(as_json: bool) -> None:
    """List all projects, one a line."""
    async with RegistryClient() as client:
        await _print_names(client.projects(), as_json=as_json)


@project.command("show")
@click.argument("name", metavar="PROJECT")
@json_option
@calling
async def show_project(name: str, as_json: bool) -> None:
    """Show a project."""
    async with RegistryClient() as client:
        found = await client.get_project(name)
    if as_json:
        print_json(plain(found))
        return
    print_fields(
        [
            ("project", found.project),
            ("usage", f"{found.usage} of {found.limit} bytes"),
            ("owners", ", ".join(found.permissions.owners)),
            ("uploaders", ", ".join(each.id for each in found.permissions.uploaders)),
            ("anybody creates assets", bool(found.permissions.global_write)),
        ]
    )


@project.command("create")
@click.argument("name", metavar="PROJECT")
@click.option("--owner", "owners", multiple=True, metavar="USER", help="Repeatable; default: yourself.")
@click.option("--global-write", is_flag=True, help="Anybody may create new assets.")
@json_option
@calling
async def create_project(name: str, owners: tuple[str, ...], global_write: bool, as_json: bool) -> None:
    """Create a project."""
    async with RegistryClient() as client:
        await client.create_project(name, owners=owners or None, global_write=global_write or None)
        if as_json:
            print_json(plain(await client.get_project(name)))
        else:
            click.echo(f"project {printable(name)} created")


@project.command("delete")
@click.argument("name", metavar="PROJECT")
@_FORCE
@json_option
@calling
async def delete_project(name: str, force: bool, as_json: bool) -> None:
    """Remove a project with all it holds; see also `drayman registry reroute`."""
    async with RegistryClient() as client, late_bar(f"removing {name}"):
        deleted = await client.delete_project(name, force=force)
    _print_deleted("project", name, deleted=deleted, as_json=as_json)


@click.group()
def asset() -> None:
    """Assets of a project."""


@asset.command("list")
@click.argument("project_name", metavar="PROJECT")
@json_option
@calling
async def list_assets(project_name: str, as_json: bool) -> None:
    """List the assets of a project, one a line."""
    async with RegistryClient() as client:
        await _print_names(client.assets(project_name), as_json=as_json)


@asset.command("delete")
@click.argument("name", metavar=address.ASSET)
@_FORCE
@json_option
@calling
async def delete_asset(name: str, force: bool, as_json: bool) -> None:
    """Remove an asset with its versions. For administrators."""
    where = address.asset(name)
    async with RegistryClient() as client, late_bar(f"removing {name}"):
        deleted = await client.delete_asset(*where, force=force)
    _print_deleted("asset", name, deleted=deleted, as_json=as_json)


@click.group()
def version() -> None:
    """Versions of an asset."""


@version.command("list")
@click.argument("asset_name", metavar=address.ASSET)
@json_option
@calling
async def list_versions(asset_name: str, as_json: bool) -> None:
    """List the versions of an asset; those on probation too."""
    where = address.asset(asset_name)
    async with RegistryClient() as client:
        found = client.versions(*where)
        if as_json:
            await print_json_array(found, plain)
        else:
            await print_rows(("uploaded", "by", "state", "files", "bytes", "version"), found, _row)


@version.command("show")
@click.argument("name", metavar=address.VERSION)
@json_option
@calling
async def show_version(name: str, as_json: bool) -> None:
    """Show a version."""
    where = address.version(name)
    async with RegistryClient() as client:
        found = await client.get_version(*where)
    if as_json:
        print_json(plain(found))
        return
    print_fields(
        [
            ("version", name),
            ("state", _state(found)),
            ("uploaded by", found.upload_user),
            ("began", local_time(found.upload_start)),
            ("complete", local_time(found.upload_finish)),
            ("files", found.entries),
            ("usage", found.usage),
        ]
    )


@version.command("delete")
@click.argument("name", metavar=address.VERSION)
@_FORCE
@json_option
@calling
async def delete_version(name: str, force: bool, as_json: bool) -> None:
    """Remove a version. For administrators."""
    where = address.version(name)
    async with RegistryClient() as client, late_bar(f"removing {name}"):
        deleted = await client.delete_version(*where, force=force)
    _print_deleted("version", name, deleted=deleted, as_json=as_json)


async def _print_names(names: AsyncIterator[str], *, as_json: bool) -> None:
    if as_json:
        await print_json_array(names, str)
    else:
        async for name in names:
            click.echo(printable(name))


def _print_deleted(what: str, name: str, *, deleted: bool, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "deleted": deleted})
    else:
        click.echo(f"{what} {printable(name)} {'removed' if deleted else 'is not there'}")


def _state(version: Version) -> str:
    return "on probation" if version.on_probation else "latest" if version.latest else "-"


def _row(version: Version) -> tuple[Any, ...]:
    return (
        local_time(version.upload_finish),
        version.upload_user,
        _state(version),
        version.entries,
        version.usage,
        version.version,
    )
