"""What a service has of a registry, path by path: the content of versions, and the documents beside it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Entry
from drayman.pygobbler import documents
from drayman.pygobbler.errors import RegistryError


def said(entry: Entry) -> str:
    """What the service says of the content of a file: another text for another content."""
    return f"{entry.size} {entry.sha256 or entry.md5}"


def said_of(document: dict[str, Any]) -> str:
    """The same of a document. Not of its bytes: to lay it out takes far longer."""
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def is_document(path: str) -> bool:
    """Whether a path is one of the registry's own documents."""
    return path.rpartition("/")[2].startswith("..")


class AbsentError(RegistryError):
    """There is no such file."""


def absent(path: str) -> AbsentError:
    """Return the error for what is not there."""
    return AbsentError(404, f"{path!r}: there is no such file")


async def document(client: RegistryClient, path: str) -> dict[str, Any]:
    """Make the document at a path of the registry. Raises RegistryError or DraymanError if there is none."""
    *above, name = path.split("/")
    if len(above) >= 3:
        made = await _of_version(client, path, above, name)
    elif len(above) == 2:
        made = await _of_asset(client, path, above[0], above[1], name)
    elif len(above) == 1:
        made = await _of_project(client, path, above[0], name)
    else:
        raise absent(path)
    return made


async def _of_version(client: RegistryClient, path: str, above: list[str], name: str) -> dict[str, Any]:
    project, asset, version, *folders = above
    if name == documents.SUMMARY and not folders:
        return documents.summary(await client.get_version(project, asset, version))
    if name == documents.MANIFEST and not folders:
        return documents.manifest([entry async for entry in client.entries(project, asset, version)])
    if name == documents.LINKS:
        prefix = "".join(f"{folder}/" for folder in folders)
        entries = [entry async for entry in client.entries(project, asset, version, prefix=prefix)]
        links = documents.links(entries).get(prefix + name)
        if links is not None:
            return links
    raise absent(path)


async def _of_asset(client: RegistryClient, path: str, project: str, asset: str, name: str) -> dict[str, Any]:
    if name == documents.LATEST:
        latest = await client.latest(project, asset)
        if latest is not None:
            return {"version": latest.version}
    if name == documents.PERMISSIONS:
        found = await client.permissions(project, asset)
        if found.owners or found.uploaders:
            return documents.permissions(found)
    raise absent(path)


async def _of_project(client: RegistryClient, path: str, project: str, name: str) -> dict[str, Any]:
    if name not in (documents.PERMISSIONS, documents.USAGE, documents.QUOTA):
        raise absent(path)
    found = await client.get_project(project)
    if name == documents.PERMISSIONS:
        return documents.permissions(found.permissions)
    return {"total": found.usage} if name == documents.USAGE else documents.quota(found.quota)
