"""`drayman registry permissions`: who may do what with a project or an asset."""

from __future__ import annotations

from typing import Any

import click

from drayman.cli import registry_address as address
from drayman.cli.json_values import json_object
from drayman.cli.output import json_option, print_fields, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Permissions, uploader_message

_WHERE = "PROJECT[/ASSET]"


@click.group()
def permissions() -> None:
    """Who may do what with a project, or with an asset."""


@permissions.command()
@click.argument("name", metavar=_WHERE)
@json_option
@calling
async def show(name: str, as_json: bool) -> None:
    """Show owners and uploaders."""
    where = _where(name)
    async with RegistryClient() as client:
        _print(await client.permissions(*where), as_json=as_json)


@permissions.command("set")
@click.argument("name", metavar=_WHERE)
@click.option("--add-owner", "add_owners", multiple=True, metavar="USER", help="Repeatable.")
@click.option("--remove-owner", "remove_owners", multiple=True, metavar="USER", help="Repeatable.")
@click.option("--add-uploader", "add_uploaders", multiple=True, metavar="USER|JSON", help="Repeatable; see above.")
@click.option("--remove-uploader", "remove_uploaders", multiple=True, metavar="USER", help="Repeatable.")
@click.option("--global-write/--no-global-write", default=None, help="Whether anybody may create new assets.")
@click.option("--spoof", metavar="USER", default="", help="Act as this user, if the deployment lets you.")
@json_option
@calling
async def change(
    name: str,
    add_owners: tuple[str, ...],
    remove_owners: tuple[str, ...],
    add_uploaders: tuple[str, ...],
    remove_uploaders: tuple[str, ...],
    global_write: bool | None,
    spoof: str,
    as_json: bool,
) -> None:
    """Change owners and uploaders, in one step. For owners and administrators.

    An uploader is a name, or a JSON object with `id`, and maybe `asset`, `version`, `until` (RFC 3339) and `trusted`. The uploads of who is
    not trusted wait for approval.
    """
    where = _where(name)
    if not (add_owners or remove_owners or add_uploaders or remove_uploaders) and global_write is None:
        raise Misuse("nothing to change: see --help")
    if where[1] and global_write is not None:
        raise Misuse("--global-write is of projects")
    uploaders = [_uploader(text) for text in add_uploaders]
    async with RegistryClient() as client:
        changed = await client.set_permissions(
            *where,
            add_owners=add_owners,
            remove_owners=remove_owners,
            add_uploaders=uploaders,
            remove_uploaders=remove_uploaders,
            global_write=global_write,
            spoof=spoof,
        )
    _print(changed, as_json=as_json)


def _where(text: str) -> tuple[str, str]:
    return address.asset(text) if "/" in text else (text, "")


def _uploader(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {"id": text}
    try:
        found: dict[str, Any] = json_object(text)
        uploader_message(found)
    except ValueError as error:
        raise Misuse(f"uploader {printable(text)}: {printable(str(error))}") from error
    unknown = found.keys() - {"id", "asset", "version", "until", "trusted"}
    if unknown:
        raise Misuse(f"uploader {printable(text)}: {printable(', '.join(sorted(unknown)))} is not known")
    return found


def _print(found: Permissions, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(found))
        return
    print_fields([("owners", ", ".join(found.owners)), ("anybody creates assets", bool(found.global_write))])
    if found.uploaders:
        rows = [
            (each.id, each.asset or "all", each.version or "all", each.until or "-", bool(each.trusted))
            for each in found.uploaders
        ]
        print_table(("uploader", "asset", "version", "until", "trusted"), rows)
