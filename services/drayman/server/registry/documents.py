"""The JSON documents beside the content, which readers of a mounted registry go by. Pure.

They are written byte for byte as Gobbler writes them, and whatever Gobbler has written is read. Readers check shapes only: paths and
addresses of a foreign registry may be anything (see `Entry.check`). Readers raise Misshapen, a ValueError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drayman.server.registry import names, shape, times
from drayman.server.registry.addresses import FileAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.permissions import Permissions, from_json, to_json
from drayman.server.registry.quota import Quota
from drayman.server.registry.shape import Misshapen

#: Names of the documents of a version, ...
MANIFEST = "..manifest"
SUMMARY = "..summary"
#: (one in each directory with links)
LINKS = "..links"
#: ... of an asset, ...
LATEST = "..latest"
#: ... of a project and of an asset, ...
PERMISSIONS = "..permissions"
#: ... of a project, ...
USAGE = "..usage"
QUOTA = "..quota"
#: ... and the folder of the log, in the registry's root.
LOGS = "..logs"

_MD5 = re.compile("[0-9a-fA-F]{32}")
_LOG_NUMBERS = 900_000
# Go writes these so, for documents within HTML and JavaScript
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
# a manifest can have very many strings
_quoted = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a complete version."""

    upload_user: str
    upload_start: datetime
    upload_finish: datetime
    on_probation: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads."""

    target: FileAddress
    #: the file that holds the content, if the target is a link itself
    ancestor: FileAddress | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Something that changed; None = it is not about one."""

    #: `add-version`, `delete-version`, `delete-asset`, `delete-project` or `reindex-version`
    type: str
    project: str
    asset: str | None = None
    version: str | None = None
    #: whether the version was the latest then
    latest: bool | None = None


def manifest(entries: Iterable[Entry]) -> bytes:
    """Write `..manifest` of a version, from all its entries."""
    return _map((entry.path, _manifest_entry(entry)) for entry in sorted(entries, key=_path))


def links(entries: Iterable[Entry]) -> dict[str, bytes]:
    """Write every `..links` of a version, from all its entries: path of the document within the version -> document."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for entry in sorted(entries, key=_path):
        if entry.target is not None:
            folder, slash, name = entry.path.rpartition("/")
            link = _link(entry.target, entry.ancestor, " " * 4)
            folders.setdefault(f"{folder}{slash}{LINKS}", []).append((name, link))
    return {path: _map(members) for path, members in folders.items()}


def summary(value: Summary) -> bytes:
    """Write `..summary` of a version."""
    members: dict[str, Any] = {
        "upload_user_id": value.upload_user,
        "upload_start": times.text(value.upload_start),
        "upload_finish": times.text(value.upload_finish),
    }
    if value.on_probation:
        members["on_probation"] = True
    return _document(members)


def latest(version: str) -> bytes:
    """Write `..latest` of an asset."""
    return _document({"version": version})


def permissions(value: Permissions) -> bytes:
    """Write `..permissions` of a project or an asset."""
    return _document(to_json(value))


def usage(total: int) -> bytes:
    """Write `..usage` of a project, in bytes."""
    return _document({"total": total})


def quota(value: Quota) -> bytes:
    """Write `..quota` of a project."""
    return _document({"baseline": value.baseline, "growth_rate": value.growth_rate, "year": value.year})


def log_entry(entry: LogEntry) -> bytes:
    """Write an entry of the log."""
    members = {
        "asset": entry.asset,
        "latest": entry.latest,
        "project": entry.project,
        "type": entry.type,
        "version": entry.version,
    }
    return _document({name: value for name, value in members.items() if value is not None})


def log_name(at: datetime, change_id: int) -> str:
    """Path of a log entry from the registry's root; the same change has the same one, however often it is written."""
    return f"{LOGS}/{times.text(at)}_{100_000 + change_id % _LOG_NUMBERS}"


def read_manifest(document: bytes) -> list[Entry]:
    """Read `..manifest`: the entries by path. Without SHA-256: it has none."""
    value = shape.load(document)
    # a manifest of nothing
    members = shape.mapping({} if value is None else value, "a manifest")
    return [_read_manifest_entry(path, members[path]) for path in sorted(members)]


def read_links(document: bytes) -> dict[str, Link]:
    """Read a `..links`: name of a file within the document's directory -> where it leads."""
    value = shape.load(document)
    members = shape.mapping({} if value is None else value, "a list of links")
    return {name: _read_link(name, members[name]) for name in sorted(members)}


def read_summary(document: bytes) -> Summary:
    """Read `..summary`; times in UTC."""
    members = shape.mapping(shape.load(document), "a summary")
    user = shape.required(members, "upload_user_id", str)
    if not user:
        raise Misshapen("`upload_user_id` is empty: expected who uploaded")
    return Summary(
        upload_user=user,
        upload_start=_read_time(members, "upload_start"),
        upload_finish=_read_time(members, "upload_finish"),
        on_probation=bool(shape.optional(members, "on_probation", bool)),
    )


def read_latest(document: bytes) -> str:
    """Read `..latest`: the name of the version."""
    return shape.required(shape.mapping(shape.load(document), "what says the latest version"), "version", str)


def read_permissions(document: bytes) -> Permissions:
    """Read `..permissions`."""
    return from_json(shape.load(document))


def read_usage(document: bytes) -> int:
    """Read `..usage`, in bytes."""
    return shape.natural(shape.mapping(shape.load(document), "usage"), "total")


def read_quota(document: bytes) -> Quota:
    """Read `..quota`."""
    members = shape.mapping(shape.load(document), "a quota")
    return Quota(*(shape.natural(members, name) for name in ("baseline", "growth_rate", "year")))


def read_log_entry(document: bytes) -> LogEntry:
    """Read an entry of the log."""
    members = shape.mapping(shape.load(document), "an entry of the log")
    return LogEntry(
        type=shape.required(members, "type", str),
        project=shape.required(members, "project", str),
        asset=shape.optional(members, "asset", str),
        version=shape.optional(members, "version", str),
        latest=shape.optional(members, "latest", bool),
    )


def _path(entry: Entry) -> str:
    return entry.path


def _document(value: Any) -> bytes:
    return _encoded(json.dumps(value, indent=4, ensure_ascii=False))


def _map(members: Iterable[tuple[str, str]]) -> bytes:
    """An object of objects, which are written already."""
    lines = ",\n".join(f"    {_quoted(name)}: {value}" for name, value in members)
    return _encoded(f"{{\n{lines}\n}}" if lines else "{}")


def _encoded(text: str) -> bytes:
    # these can only be within strings
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode()


def _manifest_entry(entry: Entry) -> str:
    md5 = "" if entry.md5 is None else entry.md5.hex()
    text = f'{{\n        "size": {entry.size},\n        "md5sum": "{md5}"'
    if entry.target is not None:
        text += f',\n        "link": {_link(entry.target, entry.ancestor, " " * 8)}'
    return text + "\n    }"


def _link(target: FileAddress, ancestor: FileAddress | None, indent: str) -> str:
    text = "{\n" + _address(target, indent)
    if ancestor is not None:
        text += f',\n{indent}    "ancestor": {{\n{_address(ancestor, indent + "    ")}\n{indent}    }}'
    return f"{text}\n{indent}}}"


def _address(address: FileAddress, indent: str) -> str:
    return (
        f'{indent}    "project": {_quoted(address.project)},\n'
        f'{indent}    "asset": {_quoted(address.asset)},\n'
        f'{indent}    "version": {_quoted(address.version)},\n'
        f'{indent}    "path": {_quoted(address.path)}'
    )


def _read_manifest_entry(path: str, value: Any) -> Entry:
    try:
        members = shape.mapping(value, "an entry")
        size = shape.natural(members, "size")
        md5 = _read_md5(members)
    except Misshapen as error:
        raise Misshapen(f"{names.shown(path)}: {error}") from error
    if members.get("link") is None:
        return Entry(path=path, size=size, md5=md5)
    link = _read_link(path, members["link"])
    return Entry(path=path, size=size, md5=md5, target=link.target, ancestor=link.ancestor)


def _read_md5(members: Mapping[str, Any]) -> bytes | None:
    text = shape.required(members, "md5sum", str)
    if text and not _MD5.fullmatch(text):
        raise Misshapen(f"`md5sum` is 32 hex digits, not {names.shown(text)}")
    return bytes.fromhex(text) if text else None


def _read_link(path: str, value: Any) -> Link:
    try:
        members = shape.mapping(value, "a link")
        ancestor = members.get("ancestor")
        return Link(
            target=_read_address(members),
            ancestor=None if ancestor is None else _read_address(shape.mapping(ancestor, "an ancestor")),
        )
    except Misshapen as error:
        raise Misshapen(f"{names.shown(path)}: {error}") from error


def _read_address(members: Mapping[str, Any]) -> FileAddress:
    return FileAddress(*(shape.required(members, name, str) for name in ("project", "asset", "version", "path")))


def _read_time(members: Mapping[str, Any], name: str) -> datetime:
    try:
        return times.parse(shape.required(members, name, str))
    except Misshapen:
        raise
    except ValueError as error:
        raise Misshapen(f"`{name}`: {error}") from error
