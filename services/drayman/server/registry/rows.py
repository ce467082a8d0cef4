"""Rows of the registry's tables as records, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drayman.server.platform.errors import Refusal
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.permissions import Permissions, from_json, uploader_to_json
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Asset, Project, Version

#: Columns of registry.entry, in the order in which `entry_values` gives them.
ENTRY_COLUMNS = (
    "version_id",
    "path",
    "size",
    "md5",
    "sha256",
    *(f"{what}_{part}" for what in ("target", "ancestor") for part in ("project", "asset", "version", "path")),
)

_Row = Any  # asyncpg.Record: by name
_NOWHERE = (None, None, None, None)


def project_of(row: _Row | None, name: str) -> Project:
    """Read a project. Refuses with REGISTRY_PROJECT_NOT_FOUND if there is no row."""
    if row is None:
        raise project_missing(name)
    return Project(
        row["project_id"],
        row["name"],
        permissions(row["owners"], row["uploaders"], row["global_write"]),
        Quota(row["baseline"], row["growth_rate"], row["quota_year"]),
        row["usage"],
    )


def asset_of(row: _Row, project: str, latest: str | None) -> Asset:
    """Read an asset."""
    own = None if row["owners"] is None else permissions(row["owners"], row["uploaders"], None)
    return Asset(row["asset_id"], row["project_id"], project, row["name"], own, latest)


def version_of(row: _Row) -> Version:
    """Read a published version."""
    return Version(
        row["version_id"],
        row["project_id"],
        row["asset_id"],
        VersionAddress(row["project"], row["asset"], row["version"]),
        row["upload_user"],
        row["upload_start"],
        row["upload_finish"],
        row["on_probation"],
        row["latest"],
        row["usage"],
        row["entries"],
    )


def entry_of(row: _Row) -> Entry:
    """Read an entry."""
    target = ancestor = None
    if row["target_project"] is not None:
        target = FileAddress(row["target_project"], row["target_asset"], row["target_version"], row["target_path"])
        if row["ancestor_project"] is not None:
            ancestor = FileAddress(
                row["ancestor_project"], row["ancestor_asset"], row["ancestor_version"], row["ancestor_path"]
            )
    return Entry(row["path"], row["size"], row["md5"], row["sha256"], target, ancestor)


def entry_values(version_id: int, entry: Entry) -> tuple[object, ...]:
    """Values of `ENTRY_COLUMNS`."""
    return (
        version_id,
        entry.path,
        entry.size,
        entry.md5,
        entry.sha256,
        *address_values(entry.target),
        *address_values(entry.ancestor),
    )


def entry_columns(entries: Sequence[Entry]) -> list[list[object]]:
    """Values of `ENTRY_COLUMNS` after the first, column by column; those of links are empty if there are none."""
    columns: list[list[object]] = [
        [getattr(entry, name) for entry in entries] for name in ("path", "size", "md5", "sha256")
    ]
    for end in ("target", "ancestor"):
        files: list[FileAddress | None] = [getattr(entry, end) for entry in entries]
        values = [address_values(file) for file in files] if any(files) else ()
        columns += [[value[part] for value in values] for part in range(len(_NOWHERE))]
    return columns


def address_values(file: FileAddress | None) -> tuple[str | None, ...]:
    """Values of the four columns of an address."""
    return _NOWHERE if file is None else (file.project, file.asset, file.version, file.path)


def permission_values(permissions: Permissions) -> tuple[list[str], str]:
    """Values of `owners` and `uploaders`."""
    return list(permissions.owners), json.dumps([uploader_to_json(uploader) for uploader in permissions.uploaders])


def project_missing(name: str) -> Refusal:
    """Say that there is no such project."""
    return Refusal("REGISTRY_PROJECT_NOT_FOUND", f"there is no project {name!r}", metadata={"project": name})


def asset_missing(project: str, name: str) -> Refusal:
    """Say that there is no such asset."""
    return Refusal(
        "ASSET_NOT_FOUND", f"project {project!r} has no asset {name!r}", metadata={"project": project, "asset": name}
    )


def version_missing(address: VersionAddress) -> Refusal:
    """Say that there is no such version."""
    return Refusal(
        "VERSION_NOT_FOUND",
        f"asset {address.asset!r} of project {address.project!r} has no version {address.version!r}",
        metadata={"project": address.project, "asset": address.asset, "version": address.version},
    )


def found_version(row: _Row | None, address: VersionAddress) -> Version:
    """Read a version from a row that has NULL for what is missing. Refuses with what is not found."""
    if row is None:
        raise project_missing(address.project)
    if row["asset_id"] is None:
        raise asset_missing(address.project, address.asset)
    if row["version_id"] is None:
        raise version_missing(address)
    return version_of(row)


def storable(*names: str) -> bool:
    """Whether the database can take these texts: what it cannot take is not in it."""
    return not any("\x00" in name for name in names)


def permissions(owners: Sequence[str], uploaders: str, global_write: bool | None) -> Permissions:
    """Read permissions from the values of their columns."""
    return from_json({"owners": list(owners), "uploaders": json.loads(uploaders), "global_write": global_write})
