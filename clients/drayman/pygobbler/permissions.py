"""Who may do what with a project or an asset."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drayman.client.registry import RegistryClient
from drayman.client.registry_values import uploader_message
from drayman.pygobbler import documents
from drayman.pygobbler.connections import CONNECTIONS
from drayman.pygobbler.errors import RegistryError
from drayman.pygobbler.listings import is_local
from drayman.pygobbler.stored import read_document


def fetch_permissions(
    project: str, registry: str, url: str, asset: str | None = None, force_remote: bool = False
) -> dict[str, Any]:
    """Read who may do what: a dict of `owners`, `uploaders` and, of a project, maybe `global_write`.

    An asset without permissions of its own has two empty lists.
    """
    if is_local(registry, force_remote):
        path = Path(registry, project, asset or "", documents.PERMISSIONS)
        try:
            found = read_document(path)
        except FileNotFoundError:
            if asset is None:
                raise
            found = {}
        return found | {name: found.get(name) or [] for name in ("owners", "uploaders")}

    async def ask(client: RegistryClient) -> dict[str, Any]:
        return documents.permissions(await client.permissions(project, asset or ""))

    return CONNECTIONS.run(url, ask)


def set_permissions(
    project: str,
    registry: str,
    staging: str,
    url: str,
    asset: str | None = None,
    owners: Sequence[str] | None = None,
    uploaders: Sequence[Mapping[str, Any]] | None = None,
    global_write: bool | None = None,
    append: bool = True,
    spoof: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any] | None:
    """Change who may do what with a project, or with an asset, in one step; None stays. For owners and administrators.

    `owners` are names; `uploaders` dicts with `id`, and maybe `asset`, `version`, `until` (a text in RFC 3339, or a datetime) and
    `trusted`. They are added to what is there, whatever others add at the same time, or, without `append`, replace it. `global_write` is
    of projects only. With `dry_run` nothing changes, and what the lists would be is returned.

    Raises RegistryError; FileNotFoundError if something is to be added to a project that the mounted registry does not have.
    """
    sent = None if uploaders is None else sendable(uploaders)
    if asset is not None:
        global_write = None
    if dry_run:
        return _outcome(project, registry, url, asset, owners, sent, global_write, append)
    if append and asset is None and is_local(registry, force_remote=False):
        path = Path(registry, project, documents.PERMISSIONS)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    async def change(client: RegistryClient) -> None:
        await client.set_permissions(
            project,
            asset or "",
            owners=None if append else owners,
            add_owners=(owners or ()) if append else (),
            uploaders=None if append else sent,
            add_uploaders=(sent or ()) if append else (),
            global_write=global_write,
            spoof=spoof or "",
        )

    CONNECTIONS.run(url, change)
    return None


def sendable(uploaders: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return uploaders with times as texts. Raises RegistryError where something in one cannot be sent."""
    found = []
    for given in uploaders:
        uploader = dict(given)
        until = uploader.get("until")
        if isinstance(until, datetime):
            uploader["until"] = (until if until.tzinfo else until.astimezone()).isoformat().replace("+00:00", "Z")
        try:
            uploader_message(uploader)
        except ValueError as error:
            raise RegistryError(400, str(error)) from error
        found.append(uploader)
    return found


def _outcome(
    project: str,
    registry: str,
    url: str,
    asset: str | None,
    owners: Sequence[str] | None,
    uploaders: list[dict[str, Any]] | None,
    global_write: bool | None,
    append: bool,
) -> dict[str, Any]:
    """What the lists would be, those that would change."""
    now: dict[str, Any] = {"owners": [], "uploaders": []}
    if append and (owners is not None or uploaders is not None):
        now = fetch_permissions(project, registry, url, asset)
    then: dict[str, Any] = {}
    if owners is not None:
        then["owners"] = [*now["owners"], *(name for name in owners if name not in now["owners"])]
    if uploaders is not None:
        then["uploaders"] = [*now["uploaders"], *uploaders]
    if global_write is not None:
        then["global_write"] = global_write
    return then
