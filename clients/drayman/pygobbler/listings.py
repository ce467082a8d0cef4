"""What a registry has: projects, assets, versions, files. From the folder where it is mounted, else from the service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Entry
from drayman.pygobbler import documents
from drayman.pygobbler.connections import CONNECTIONS

_Item = TypeVar("_Item")

#: What the service of the mirrored interface answers if what is to be listed is not there.
MISSING = 500


def is_local(registry: str, force_remote: bool) -> bool:
    """Whether a registry is read from its folder. Raises TypeError for None."""
    return os.path.exists(registry) and not force_remote  # noqa: PTH110 - what is no path shall be a TypeError


def list_projects(registry: str, url: str, force_remote: bool = False) -> list[str]:
    """List the names of all projects, sorted. `registry` is the folder of the registry, if it is mounted; else `url` is asked."""
    if is_local(registry, force_remote):
        return _folders(registry)
    return CONNECTIONS.run(url, lambda client: _collected(client.projects()), missing=MISSING)


def list_assets(project: str, registry: str, url: str, force_remote: bool = False) -> list[str]:
    """List the names of a project's assets, sorted. Raises FileNotFoundError, or RegistryError if the service is asked."""
    if is_local(registry, force_remote):
        return _folders(os.path.join(registry, project))
    return CONNECTIONS.run(url, lambda client: _collected(client.assets(project)), missing=MISSING)


def list_versions(project: str, asset: str, registry: str, url: str, force_remote: bool = False) -> list[str]:
    """List the names of an asset's versions, sorted; those on probation too. Raises FileNotFoundError, or RegistryError."""
    if is_local(registry, force_remote):
        return _folders(os.path.join(registry, project, asset))

    async def ask(client: RegistryClient) -> list[str]:
        return [version.version async for version in client.versions(project, asset)]

    return CONNECTIONS.run(url, ask, missing=MISSING)


def list_files(
    project: str,
    asset: str,
    version: str,
    registry: str,
    url: str,
    prefix: str | None = None,
    include_dotdot: bool = True,
    force_remote: bool = False,
) -> list[str]:
    """List the paths of a version that begin with `prefix`, sorted: files, and empty directories with a `/` at the end.

    `include_dotdot` also lists the registry's own documents. A version that is not there has no files in a mounted registry, and is a
    RegistryError if the service is asked.
    """
    prefix = prefix or ""
    if is_local(registry, force_remote):
        root = os.path.join(registry, project, asset, version)
        found = _stored(root, prefix.rpartition("/")[0])
    else:
        # of a whole directory: its links are told by a document of their own
        above = prefix[: prefix.rfind("/") + 1]

        async def ask(client: RegistryClient) -> list[Entry]:
            return await _collected(client.entries(project, asset, version, prefix=above))

        found = _told(CONNECTIONS.run(url, ask, missing=MISSING))
    # an empty directory is not in itself
    return sorted(
        path
        for path in found
        if path.startswith(prefix)
        and (path != prefix or not path.endswith("/"))
        and (include_dotdot or not any(part.startswith("..") for part in path.split("/")))
    )


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("..") and entry.is_dir())


def _stored(root: str, below: str) -> Iterator[str]:
    """Paths of a folder, from the root: files, links of any kind, and directories that are empty. Nothing if it is not there."""
    waiting = [below]
    while waiting:
        here = waiting.pop()
        before = f"{here}/" if here else ""
        try:
            entries = os.scandir(os.path.join(root, here))
        except (FileNotFoundError, NotADirectoryError):
            continue
        empty = True
        with entries:
            for entry in entries:
                empty = False
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(before + entry.name)
                else:
                    yield before + entry.name
        if empty and here:
            yield before


def _told(entries: list[Entry]) -> Iterator[str]:
    """Paths of a version, with its documents."""
    yield from (documents.MANIFEST, documents.SUMMARY)
    yield from documents.links(entries)
    for entry in entries:
        yield f"{entry.path}/" if entry.empty_directory else entry.path


async def _collected(items: AsyncIterator[_Item]) -> list[_Item]:
    return [item async for item in items]
