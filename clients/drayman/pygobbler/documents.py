"""The JSON documents of a registry, made from what the service says: as the files beside the content have them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from drayman.client.registry_values import Entry, FileAddress, Permissions, Quota, Version

MANIFEST = "..manifest"
SUMMARY = "..summary"
LINKS = "..links"
LATEST = "..latest"
PERMISSIONS = "..permissions"
USAGE = "..usage"
QUOTA = "..quota"

# as the files have them
_ESCAPES = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def manifest(entries: Iterable[Entry]) -> dict[str, Any]:
    """Make `..manifest` of a version."""
    return {entry.path: _manifest_entry(entry) for entry in entries}


def links(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """Make every `..links` of a version: path of the document within the version -> document."""
    folders: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.link is not None:
            folder, slash, name = entry.path.rpartition("/")
            folders.setdefault(f"{folder}{slash}{LINKS}", {})[name] = _manifest_entry(entry)["link"]
    return folders


def summary(version: Version) -> dict[str, Any]:
    """Make `..summary` of a version."""
    made: dict[str, Any] = {
        "upload_user_id": version.upload_user,
        "upload_start": _time(version.upload_start),
        "upload_finish": _time(version.upload_finish),
    }
    if version.on_probation:
        made["on_probation"] = True
    return made


def permissions(value: Permissions) -> dict[str, Any]:
    """Make `..permissions` of a project or an asset."""
    made: dict[str, Any] = {"owners": list(value.owners), "uploaders": []}
    for uploader in value.uploaders:
        members: dict[str, Any] = {"id": uploader.id}
        for name in ("asset", "version", "until", "trusted"):
            if (said := getattr(uploader, name)) not in ("", None):
                members[name] = said
        made["uploaders"].append(members)
    if value.global_write is not None:
        made["global_write"] = value.global_write
    return made


def quota(value: Quota) -> dict[str, int]:
    """Make `..quota` of a project."""
    return {"baseline": value.baseline, "growth_rate": value.growth_rate, "year": value.year}


def encode(document: dict[str, Any]) -> bytes:
    """Write a document as the registry's files are written."""
    return json.dumps(document, indent=4, ensure_ascii=False).translate(_ESCAPES).encode()


def _manifest_entry(entry: Entry) -> dict[str, Any]:
    made: dict[str, Any] = {"size": entry.size, "md5sum": entry.md5}
    if entry.link is not None:
        made["link"] = _address(entry.link.target)
        if entry.link.ancestor is not None:
            made["link"]["ancestor"] = _address(entry.link.ancestor)
    return made


def _address(address: FileAddress) -> dict[str, Any]:
    return {
        "project": address.project,
        "asset": address.asset,
        "version": address.version,
        "path": address.path,
    }


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
