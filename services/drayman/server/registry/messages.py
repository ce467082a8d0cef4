"""Messages of `drayman.registry.v1` from what the registry knows, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drayman.registry.v1 import registry_service_pb2 as pb
from drayman.registry.v1 import version_pb2
from drayman.server.platform.errors import invalid
from drayman.server.registry import names
from drayman.server.registry import permissions as rules
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.permissions import Permissions, Uploader
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Change, Version
from drayman.server.registry.rerouting import Reroute


def timestamp(at: datetime) -> Timestamp:
    """Write a moment."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


def moment(message: Timestamp, field: str) -> datetime:
    """Read a moment. Raises Refusal (INVALID_FIELD)."""
    try:
        read: datetime = message.ToDatetime(tzinfo=UTC)
        return read
    except (ValueError, OverflowError) as error:
        raise invalid(field, f"{field} is no time: {error}") from error


def name(field: str, text: str) -> str:
    """Return what can name a project, an asset or a version. Raises Refusal (INVALID_FIELD) with the path of the field."""
    try:
        names.check_name(text)
    except ValueError as error:
        raise invalid(field, f"{field}: {error}", value=names.shown(text)) from error
    return text


def address(request: Any) -> VersionAddress:
    """Read which version a request names. Raises Refusal (INVALID_FIELD)."""
    return VersionAddress(
        name("project", request.project), name("asset", request.asset), name("version", request.version)
    )


def version(stored: Version) -> version_pb2.Version:
    """Write a version."""
    return version_pb2.Version(
        project=stored.address.project,
        asset=stored.address.asset,
        version=stored.address.version,
        upload_user=stored.upload_user,
        upload_start=timestamp(stored.upload_start),
        upload_finish=timestamp(stored.upload_finish),
        on_probation=stored.on_probation,
        latest=stored.latest,
        entries=stored.entries,
        usage=stored.usage,
    )


def entry(row: Mapping[str, Any]) -> version_pb2.Entry:
    """Write an entry, from its row."""
    return _entry(row, version_pb2.Entry)


def entries(rows: Iterable[Mapping[str, Any]]) -> pb.ListEntriesResponse:
    """Write entries, from their rows: each in its place, as there can be very many."""
    message = pb.ListEntriesResponse()
    add = message.entries.add
    for row in rows:
        _entry(row, add)
    return message


def _entry(row: Mapping[str, Any], make: Callable[..., version_pb2.Entry]) -> version_pb2.Entry:
    md5 = row["md5"]
    if md5 is None:
        return make(path=row["path"], empty_directory=True)
    sha256 = row["sha256"]
    message = make(path=row["path"], size=row["size"], md5=md5.hex(), sha256="" if sha256 is None else sha256.hex())
    if row["target_project"] is not None:
        message.link.target.CopyFrom(_file(row, "target"))
        if row["ancestor_project"] is not None:
            message.link.ancestor.CopyFrom(_file(row, "ancestor"))
    return message


def permissions(stored: Permissions | None) -> version_pb2.Permissions:
    """Write permissions; None = there are none."""
    if stored is None:
        return version_pb2.Permissions()
    message = version_pb2.Permissions(owners=stored.owners, uploaders=map(_uploader, stored.uploaders))
    if stored.global_write is not None:
        message.global_write = stored.global_write
    return message


def read_permissions(message: version_pb2.Permissions, field: str) -> Permissions:
    """Read permissions; what is not said is not stored. Raises Refusal (INVALID_FIELD)."""
    return Permissions(
        owners=read_users(message.owners, f"{field}.owners"),
        uploaders=read_uploaders(message.uploaders, f"{field}.uploaders"),
        global_write=message.global_write if message.HasField("global_write") else None,
    )


def read_users(given: Iterable[str], field: str) -> tuple[str, ...]:
    """Read names of users. Raises Refusal (INVALID_FIELD)."""
    users = tuple(given)
    for place, user in enumerate(users):
        try:
            rules.check_user(user)
        except ValueError as error:
            raise invalid(f"{field}[{place}]", str(error), value=names.shown(user)) from error
    return users


def read_uploaders(given: Iterable[version_pb2.Uploader], field: str) -> tuple[Uploader, ...]:
    """Read uploaders. Raises Refusal (INVALID_FIELD)."""
    uploaders = []
    for place, message in enumerate(given):
        uploader = Uploader(
            id=message.id,
            asset=message.asset or None,
            version=message.version or None,
            until=message.until or None,
            trusted=message.trusted if message.HasField("trusted") else None,
        )
        try:
            rules.check_uploader(uploader)
        except ValueError as error:
            raise invalid(f"{field}[{place}]", str(error)) from error
        uploaders.append(uploader)
    return tuple(uploaders)


def quota(stored: Quota) -> pb.Quota:
    """Write a quota."""
    return pb.Quota(baseline=stored.baseline, growth_rate=stored.growth_rate, year=stored.year)


def change(stored: Change) -> pb.Change:
    """Write what changed."""
    return pb.Change(
        change_id=stored.change_id,
        time=timestamp(stored.at),
        type=stored.type,
        project=stored.project,
        asset=stored.asset or "",
        version=stored.version or "",
        latest=bool(stored.latest),
    )


def rerouted(done: Reroute) -> pb.RerouteLinksResponse.Rerouted:
    """Write what became of a link."""
    return pb.RerouteLinksResponse.Rerouted(
        path=done.address.key, copy=done.copy, source=done.source.key, usage=done.usage
    )


def _uploader(stored: Uploader) -> version_pb2.Uploader:
    message = version_pb2.Uploader(
        id=stored.id, asset=stored.asset or "", version=stored.version or "", until=stored.until or ""
    )
    if stored.trusted is not None:
        message.trusted = stored.trusted
    return message


def _file(row: Mapping[str, Any], which: str) -> version_pb2.FileAddress:
    return file_address(FileAddress(*(row[f"{which}_{part}"] for part in ("project", "asset", "version", "path"))))


def file_address(stored: FileAddress) -> version_pb2.FileAddress:
    """Write where a file is."""
    return version_pb2.FileAddress(project=stored.project, asset=stored.asset, version=stored.version, path=stored.path)
