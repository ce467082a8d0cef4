"""Who may do what with a project and its assets. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from drayman.server.registry import names, shape, times
from drayman.server.registry.shape import Misshapen

_Item = TypeVar("_Item")

_LONGEST_USER = 255


@dataclass(frozen=True, slots=True)
class Uploader:
    """Who may upload; None = without that limit."""

    #: user name
    id: str
    #: only to this asset
    asset: str | None = None
    #: only this version
    version: str | None = None
    #: not after this time, RFC 3339, kept as it was given
    until: str | None = None
    #: whether uploads need no approval; None = they do
    trusted: bool | None = None

    def applies(self, user: str, asset: str, version: str, now: datetime) -> bool:
        """Whether this entry is about a user who uploads a version now. One whose `until` is no time is about nobody."""
        if self.id != user or self.asset not in (None, asset) or self.version not in (None, version):
            return False
        if self.until is None:
            return True
        try:
            return times.parse(self.until) >= now
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Permissions:
    """Of a project, or of an asset."""

    owners: tuple[str, ...] = ()
    #: the first that applies decides
    uploaders: tuple[Uploader, ...] = ()
    #: whether anybody may create new assets; of projects only; None = it was never said
    global_write: bool | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody may do who wants to upload."""

    allowed: bool
    #: whether the upload needs no approval
    trusted: bool = False
    #: whether the asset is made for this upload, and whoever uploads becomes its owner
    becomes_owner: bool = False


def may_upload(
    user: str,
    admin: bool,
    asset: str,
    version: str,
    project: Permissions,
    asset_permissions: Permissions | None,
    asset_exists: bool,
    now: datetime,
) -> Grant:
    """Say what a user may do who wants to upload a version. `asset_permissions` are the asset's own, None if it has none."""
    if may_own(user, admin, project):
        return Grant(allowed=True, trusted=True)
    uploaders = project.uploaders
    if not asset_exists:
        if project.global_write:
            # whatever the list of uploaders says of them
            return Grant(allowed=True, trusted=True, becomes_owner=True)
    elif asset_permissions is not None:
        if user in asset_permissions.owners:
            return Grant(allowed=True, trusted=True)
        uploaders += tuple(dataclasses.replace(entry, asset=asset) for entry in asset_permissions.uploaders)
    for uploader in uploaders:
        if uploader.applies(user, asset, version, now):
            return Grant(allowed=True, trusted=bool(uploader.trusted))
    return Grant(allowed=False)


def may_own(user: str, admin: bool, project: Permissions, asset_permissions: Permissions | None = None) -> bool:
    """Whether a user may do what owners may; with an asset's permissions: its owners too."""
    return admin or user in project.owners or (asset_permissions is not None and user in asset_permissions.owners)


def check_user(name: str) -> None:
    """Raise ValueError for what can be no user name."""
    problem = ""
    if not name:
        problem = "it must not be empty"
    elif len(name) > _LONGEST_USER:
        problem = f"at most {_LONGEST_USER} characters, it has {len(name)}"
    elif names.has_unprintable(name):
        problem = "no control characters, valid UTF-8 only"
    if problem:
        raise ValueError(f"{names.shown(name)} cannot be a user name: {problem}")


def check_uploader(uploader: Uploader) -> None:
    """Raise ValueError for an entry that cannot be."""
    check_user(uploader.id)
    for what, name in (("asset", uploader.asset), ("version", uploader.version)):
        if name is not None:
            try:
                names.check_name(name)
            except ValueError as error:
                raise ValueError(f"{what} of uploader {names.shown(uploader.id)}: {error}") from error
    if uploader.until is not None:
        try:
            times.parse(uploader.until)
        except ValueError as error:
            raise ValueError(f"until of uploader {names.shown(uploader.id)}: {error}") from error


def check(permissions: Permissions) -> None:
    """Raise ValueError for permissions that cannot be."""
    for owner in permissions.owners:
        check_user(owner)
    for uploader in permissions.uploaders:
        check_uploader(uploader)


def changed(
    current: Permissions,
    *,
    replace_owners: Sequence[str] | None = None,
    add_owners: Iterable[str] = (),
    remove_owners: Iterable[str] = (),
    replace_uploaders: Sequence[Uploader] | None = None,
    add_uploaders: Iterable[Uploader] = (),
    remove_uploaders: Iterable[str] = (),
    global_write: bool | None = None,
    of_asset: bool = False,
) -> Permissions:
    """Return changed permissions. Raises ValueError for an owner or an uploader that is new and cannot be.

    Of each list: it is replaced, then what is to be removed goes (for uploaders: all entries of these users), then what is to be added is
    appended, unless it is there. None = unchanged. Of an asset (`of_asset`): no `global_write`, and uploaders are of this asset anyway.
    """
    owners = current.owners if replace_owners is None else tuple(replace_owners)
    uploaders = current.uploaders if replace_uploaders is None else tuple(replace_uploaders)
    without_owners, without_uploaders = set(remove_owners), set(remove_uploaders)
    owners = tuple(owner for owner in owners if owner not in without_owners)
    uploaders = tuple(entry for entry in uploaders if entry.id not in without_uploaders)
    more = tuple(add_uploaders)
    if of_asset:
        uploaders = tuple(dataclasses.replace(entry, asset=None) for entry in uploaders)
        more = tuple(dataclasses.replace(entry, asset=None) for entry in more)
        global_write = None
    result = Permissions(
        owners=owners + _new(owners, add_owners),
        uploaders=uploaders + _new(uploaders, more),
        global_write=current.global_write if global_write is None else global_write,
    )
    # what was there before may be from another system: it is not this change that is wrong
    check(
        Permissions(
            owners=_new(current.owners, result.owners),
            uploaders=_new(current.uploaders, result.uploaders),
        )
    )
    return result


def to_json(permissions: Permissions) -> dict[str, Any]:
    """Permissions as `..permissions` has them: what was never said is left out."""
    value: dict[str, Any] = {
        "owners": list(permissions.owners),
        "uploaders": [uploader_to_json(uploader) for uploader in permissions.uploaders],
    }
    if permissions.global_write is not None:
        value["global_write"] = permissions.global_write
    return value


def uploader_to_json(uploader: Uploader) -> dict[str, Any]:
    """An uploader as `..permissions` has it: what was never said is left out."""
    return {
        field.name: value
        for field in dataclasses.fields(uploader)
        if (value := getattr(uploader, field.name)) is not None
    }


def from_json(value: Any) -> Permissions:
    """Read what `to_json` makes; lists that are missing or null are empty, unknown members are dropped. Raises Misshapen.

    Names and times are not checked: they may be from another system (see `check`).
    """
    members = shape.mapping(value, "what is stored of permissions")
    owners = shape.optional(members, "owners", list) or []
    for owner in owners:
        if not isinstance(owner, str):
            raise Misshapen("`owners` is a list of strings")
    return Permissions(
        owners=tuple(owners),
        uploaders=tuple(map(uploader_from_json, shape.optional(members, "uploaders", list) or [])),
        global_write=shape.optional(members, "global_write", bool),
    )


def uploader_from_json(value: Any) -> Uploader:
    """Read what `uploader_to_json` makes; null is as if it were not there. Raises Misshapen."""
    members = shape.mapping(value, "an uploader")
    return Uploader(
        id=shape.required(members, "id", str),
        asset=shape.optional(members, "asset", str),
        version=shape.optional(members, "version", str),
        until=shape.optional(members, "until", str),
        trusted=shape.optional(members, "trusted", bool),
    )


def _new(present: Iterable[_Item], wanted: Iterable[_Item]) -> tuple[_Item, ...]:
    """What is wanted and not present, each once, in order."""
    known = set(present)
    return tuple(item for item in dict.fromkeys(wanted) if item not in known)
