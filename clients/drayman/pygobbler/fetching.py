"""What a registry says of its projects and versions. From the folder where it is mounted, else from the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from drayman.client.errors import NotFoundError
from drayman.client.registry import RegistryClient
from drayman.pygobbler import documents
from drayman.pygobbler.cache import Cache
from drayman.pygobbler.connections import CONNECTIONS
from drayman.pygobbler.copying import Fetch
from drayman.pygobbler.listings import is_local
from drayman.pygobbler.stored import read_document


def fetch_manifest(
    project: str,
    asset: str,
    version: str,
    registry: str,
    url: str,
    cache: str | os.PathLike[str] | None = None,
    force_remote: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Read the manifest of a version: path -> dict of `size`, `md5sum` and, of links, `link`.

    From the service it is kept below `cache` and served from there as long as it is what the service has, unless `overwrite`.
    """
    if is_local(registry, force_remote):
        return read_document(Path(registry, project, asset, version, documents.MANIFEST))
    return _fetch(project, asset, version, documents.MANIFEST, url, cache, overwrite)


def fetch_summary(
    project: str,
    asset: str,
    version: str,
    registry: str,
    url: str,
    cache: str | os.PathLike[str] | None = None,
    force_remote: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Read the summary of a version: a dict of `upload_user_id`, `upload_start`, `upload_finish` and, true if it waits, `on_probation`.

    Kept as that of `fetch_manifest`.
    """
    if is_local(registry, force_remote):
        return read_document(Path(registry, project, asset, version, documents.SUMMARY))
    return _fetch(project, asset, version, documents.SUMMARY, url, cache, overwrite)


def fetch_latest(project: str, asset: str, registry: str, url: str, force_remote: bool = False) -> str | None:
    """Read the name of the latest approved version of an asset; None if there is none."""
    if is_local(registry, force_remote):
        try:
            found: str = read_document(Path(registry, project, asset, documents.LATEST))["version"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    async def ask(client: RegistryClient) -> str | None:
        try:
            latest = await client.latest(project, asset)
        except NotFoundError:
            return None
        return latest.version if latest is not None else None

    return CONNECTIONS.run(url, ask)


def fetch_usage(project: str, registry: str, url: str, force_remote: bool = False) -> int:
    """Read how many bytes a project uses."""
    if is_local(registry, force_remote):
        total: int = read_document(Path(registry, project, documents.USAGE))["total"]
        return total

    async def ask(client: RegistryClient) -> int:
        return (await client.get_project(project)).usage

    return CONNECTIONS.run(url, ask)


def _fetch(
    project: str, asset: str, version: str, name: str, url: str, cache: str | os.PathLike[str] | None, overwrite: bool
) -> dict[str, Any]:
    path = f"{project}/{asset}/{version}/{name}"
    kept = Cache(url, cache)
    CONNECTIONS.run(url, lambda client: Fetch(client, kept, overwrite).file(path))
    return read_document(kept.path(path))
