"""What the registry's tables hold, as the rest of the service sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota

UPLOADING, PUBLISHING, PUBLISHED = "uploading", "publishing", "published"


@dataclass(frozen=True, slots=True)
class Project:
    """A project as stored."""

    project_id: int
    name: str
    permissions: Permissions
    quota: Quota
    #: bytes of everything that is published in it
    usage: int


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset as stored."""

    asset_id: int
    project_id: int
    project: str
    name: str
    #: None = it has none of its own
    permissions: Permissions | None
    #: name of the latest version; None = no version is approved
    latest: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is published."""

    version_id: int
    project_id: int
    asset_id: int
    address: VersionAddress
    upload_user: str
    upload_start: datetime
    upload_finish: datetime
    on_probation: bool
    #: whether it is the asset's latest
    latest: bool
    #: bytes of the entries that are no links
    usage: int
    #: number of entries
    entries: int


@dataclass(frozen=True, slots=True)
class Latest:
    """An asset's latest version."""

    version_id: int
    name: str
    upload_finish: datetime


@dataclass(slots=True)
class Upload:
    """A version that is being uploaded. Who holds this object keeps the name with `VersionStore.renew`."""

    version_id: int
    project_id: int
    asset_id: int
    address: VersionAddress
    upload_id: UUID
    upload_user: str
    upload_start: datetime
    #: as the uploader's rights and wish make it
    on_probation: bool
    #: UPLOADING; PUBLISHING or PUBLISHED if it was resumed after every byte and every row was there: `Publisher.finish` is all that is left
    #: to do
    state: str
    #: until when it is held, by the database's clock. Also the proof that it is held: who takes it over changes it
    busy_until: datetime
    #: set when it is to be published: time of `..summary`
    upload_finish: datetime | None = None
    #: whether somebody worked on it before: what has arrived is there
    resumed: bool = False
    #: the broken upload that gave way to it, if any: its folder is of no use any more
    displaced: UUID | None = None
    #: whether entries have been stored for it already
    stored: bool = False
    #: the asset's latest version when it was to be published, as far as one knows: (what, if there was any)
    seen_latest: tuple[Latest | None] | None = None
    #: statements that need `busy_until` come one after another
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that changed, as in `..logs`."""

    change_id: int
    at: datetime
    #: add-version, delete-version, delete-asset, delete-project or reindex-version
    type: str
    project: str
    asset: str | None
    version: str | None
    #: whether the version was, or became, the latest; None where that does not apply
    latest: bool | None
