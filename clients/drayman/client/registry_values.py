"""What a registry holds, as plain values, and how it is said on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from drayman.registry.v1 import registry_service_pb2 as pb
from drayman.registry.v1 import version_pb2


@dataclass(frozen=True, slots=True)
class RegistryInfo:
    """Where a registry is: a folder on the service's host, or the URL of an object store.

    `staging` is the folder for uploads by a shared file system, "" if there is none; `probation_days` 0 = versions wait for ever.
    """

    registry: str
    staging: str
    probation_days: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What a project may grow to: `baseline` bytes plus `growth_rate` bytes for each calendar year since `year`."""

    baseline: int
    growth_rate: int
    year: int


@dataclass(frozen=True, slots=True)
class Uploader:
    """Who may upload: to one `asset` or ("") all, one `version` or all, `until` a time (RFC 3339) or for good.

    Uploads of who is not `trusted` wait for approval; None = it was never said, which is as False.
    """

    id: str
    asset: str = ""
    version: str = ""
    until: str = ""
    trusted: bool | None = None


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may do what with a project or an asset. With `global_write` anybody may create new assets of the project; None as False."""

    owners: tuple[str, ...] = ()
    uploaders: tuple[Uploader, ...] = ()
    global_write: bool | None = None


@dataclass(frozen=True, slots=True)
class RegistryProject:
    """A project: bytes in use, what it may grow to, the bytes that it may have now, who may do what."""

    project: str
    usage: int
    quota: Quota
    limit: int
    permissions: Permissions


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is there, all of it. `usage` counts the bytes of entries that are no links."""

    project: str
    asset: str
    version: str
    upload_user: str
    upload_start: datetime
    upload_finish: datetime
    on_probation: bool
    latest: bool
    entries: int
    usage: int


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A file of the registry."""

    project: str
    asset: str
    version: str
    path: str

    @property
    def key(self) -> str:
        """`project/asset/version/path`."""
        return f"{self.project}/{self.asset}/{self.version}/{self.path}"


@dataclass(frozen=True, slots=True)
class Link:
    """Where the content of an entry is: in `target`, or in `ancestor` if the target is a link itself."""

    target: FileAddress
    ancestor: FileAddress | None = None


class Entry(NamedTuple):  # there can be very many: a frozen dataclass takes four times as long to make
    """A file of a version, or an empty directory: that has no hashes. Hashes are in hex; `sha256` may be "" in an adopted registry."""

    path: str
    size: int
    md5: str = ""
    sha256: str = ""
    link: Link | None = None
    empty_directory: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is stored otherwise than it is known."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is about to be deleted: a project, an asset, or a version."""

    project: str
    asset: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A link that leads elsewhere now, or became a copy, which adds `usage` bytes to its project; `source` is the doomed file."""

    path: str
    copy: bool
    source: str
    usage: int


@dataclass(frozen=True, slots=True)
class Change:
    """Something that changed: `add-version`, `delete-version`, `delete-asset`, `delete-project` or `reindex-version`, in UTC."""

    change_id: int
    time: datetime
    type: str
    project: str
    asset: str = ""
    version: str = ""
    latest: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """How far the take-over of a Gobbler registry is: a path from its root, whether it was taken over, and what is broken there."""

    path: str
    adopted: bool
    problems: tuple[str, ...] = ()


def moment_of(message: Timestamp) -> datetime:
    """Read a time, in UTC."""
    return message.ToDatetime(UTC)


def timestamp(moment: datetime) -> Timestamp:
    """Write a time; without time zone it is local."""
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return message


def version_of(message: version_pb2.Version) -> Version:
    """Read a version."""
    return Version(
        project=message.project,
        asset=message.asset,
        version=message.version,
        upload_user=message.upload_user,
        upload_start=moment_of(message.upload_start),
        upload_finish=moment_of(message.upload_finish),
        on_probation=message.on_probation,
        latest=message.latest,
        entries=message.entries,
        usage=message.usage,
    )


def address_of(message: version_pb2.FileAddress) -> FileAddress:
    """Read an address."""
    return FileAddress(message.project, message.asset, message.version, message.path)


def entry_of(message: version_pb2.Entry) -> Entry:
    """Read an entry."""
    link = None
    if message.HasField("link"):
        ancestor = address_of(message.link.ancestor) if message.link.HasField("ancestor") else None
        link = Link(address_of(message.link.target), ancestor)
    return Entry(message.path, message.size, message.md5, message.sha256, link, message.empty_directory)


def quota_of(message: pb.Quota) -> Quota:
    """Read a quota."""
    return Quota(message.baseline, message.growth_rate, message.year)


def permissions_of(message: version_pb2.Permissions) -> Permissions:
    """Read who may do what."""
    uploaders = tuple(
        Uploader(each.id, each.asset, each.version, each.until, each.trusted if each.HasField("trusted") else None)
        for each in message.uploaders
    )
    global_write = message.global_write if message.HasField("global_write") else None
    return Permissions(tuple(message.owners), uploaders, global_write)


def uploader_message(uploader: Uploader | Mapping[str, Any]) -> version_pb2.Uploader:
    """Write an uploader, or a dict with the keys `id`, `asset`, `version`, `until` and `trusted`; other keys are dropped.

    Raises ValueError for a value of the wrong kind.
    """
    fields = ("id", "asset", "version", "until", "trusted")
    if isinstance(uploader, Mapping):
        given = {name: uploader[name] for name in fields if uploader.get(name) is not None}
    else:
        given = {name: value for name in fields if (value := getattr(uploader, name)) is not None}
    for name, value in given.items():
        if not isinstance(value, bool if name == "trusted" else str):
            raise ValueError(  # noqa: TRY004 - what was given cannot be right, whatever its type
                f"uploaders: {name} is {value!r}: expected {'true or false' if name == 'trusted' else 'a text'}"
            )
    return version_pb2.Uploader(**given)


def uploader_messages(uploaders: Iterable[Uploader | Mapping[str, Any]]) -> list[version_pb2.Uploader]:
    """Write uploaders. Raises ValueError."""
    return [uploader_message(each) for each in uploaders]


def change_of(message: pb.Change) -> Change:
    """Read a change."""
    return Change(
        message.change_id,
        moment_of(message.time),
        message.type,
        message.project,
        message.asset,
        message.version,
        message.latest,
    )
