"""`drayman registry probation`: versions that wait for approval."""

from __future__ import annotations

from typing import Any

import click

from drayman.cli import registry_address as address
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import json_option, print_json, printable
from drayman.cli.session import calling
from drayman.cli.values import local_time, plain
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Version


@click.group()
def probation() -> None:
    """Versions that wait for approval."""


@probation.command("list")
@click.argument("project_name", metavar="[PROJECT]", default="")
@json_option
@calling
async def list_waiting(project_name: str, as_json: bool) -> None:
    """List versions that wait, oldest first: of a project, for its owners, or all, for administrators."""
    async with RegistryClient() as client:
        waiting = client.probation(project_name)
        if as_json:
            await print_json_array(waiting, plain)
        else:
            await print_rows(("uploaded", "by", "bytes", "version"), waiting, _row)


@probation.command()
@click.argument("version_name", metavar=address.VERSION)
@click.option("--spoof", metavar="USER", default="", help="Act as this user, if the deployment lets you.")
@json_option
@calling
async def approve(version_name: str, spoof: str, as_json: bool) -> None:
    """Approve a version. For owners of the project and administrators."""
    where = address.version(version_name)
    async with RegistryClient() as client:
        approved = await client.approve_probation(*where, spoof=spoof)
    if as_json:
        print_json(plain(approved))
    else:
        click.echo(f"{printable(version_name)} approved{', the latest now' if approved.latest else ''}")


@probation.command()
@click.argument("version_name", metavar=address.VERSION)
@click.option("--force", is_flag=True, help="Also if its content is damaged.")
@click.option("--spoof", metavar="USER", default="", help="Act as this user, if the deployment lets you.")
@json_option
@calling
async def reject(version_name: str, force: bool, spoof: str, as_json: bool) -> None:
    """Reject a version: it is removed. For owners of the project, who uploaded it, and administrators."""
    where = address.version(version_name)
    async with RegistryClient() as client:
        await client.reject_probation(*where, force=force, spoof=spoof)
    if as_json:
        print_json({"rejected": version_name})
    else:
        click.echo(f"{printable(version_name)} rejected and removed")


def _row(version: Version) -> tuple[Any, ...]:
    where = f"{version.project}/{version.asset}/{version.version}"
    return local_time(version.upload_finish), version.upload_user, version.usage, where
