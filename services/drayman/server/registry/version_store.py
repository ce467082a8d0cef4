"""Versions, from the moment their name is taken to their publication.

An upload is held by whoever has its `Upload`: a lease that is renewed. Every statement of the holder compares `busy_until`, which
changes with every renewal and every take-over, so that who was too late, or was believed dead, cannot publish any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import quota, rows
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.entries import Entry, usage
from drayman.server.registry.latest import Candidate, after_upload
from drayman.server.registry.permissions import Grant, may_upload
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import PUBLISHED, PUBLISHING, UPLOADING, Latest, Project, Upload, Version
from drayman.server.registry.store import HERE

SQL = load_queries(HERE / "version_queries.sql")

#: Seconds that an upload is held without being renewed: as long its name stays taken after a crash that nobody noticed.
LEASE = 15.0
#: Entries that are written while the project is locked; more of them are written before, which takes one more step.
_FEW = 500
#: For as many entries as there can be.
_COPY_SECONDS = 3600.0
_UPLOAD_COLUMNS = (
    "version_id",
    "project_id",
    "asset_id",
    "upload_id",
    "upload_user",
    "upload_start",
    "on_probation",
    "state",
    "busy_until",
    "upload_finish",
)


class UploadLost(Exception):
    """The upload is not held any more: it was taken over, given up, or its project or asset was deleted."""


class StillRemoved(Exception):
    """The content of something of that name is still being removed; `args` are its folders."""


class VersionStore:
    """The life of versions. Content and documents are the business of `Publisher`, which most callers want instead."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        upload_hours: float = 24.0,
        *,
        lease: float = LEASE,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`lease` is in seconds; `changed` is called after each commit that adds to the log of changes. Open the pool with `hot=True`."""
        self._pool = pool
        self._lease = timedelta(seconds=lease)
        self._resumable = timedelta(hours=upload_hours)
        self._changed = changed

    @property
    def lease(self) -> float:
        """Seconds that an upload is held without being renewed."""
        return self._lease.total_seconds()

    async def begin(
        self, address: VersionAddress, upload_id: UUID, user: str, *, admin: bool, on_probation: bool
    ) -> Upload:
        """Take a name, or take over: see `Publisher.begin`. Raises StillRemoved."""
        while True:
            standing = await self._pool.fetchrow(
                SQL["standing"], address.project, address.asset, address.version, _folders(address), upload_id
            )
            project = rows.project_of(standing, address.project)
            assert standing is not None
            grant = _judge(standing, project, address, user, admin=admin)
            if standing["removals"]:
                raise StillRemoved(*standing["removals"])
            if standing["same_id"] not in (None, standing["version_id"]):
                raise invalid(
                    "upload_id", "an upload of another version has this id: make up a new one", value=upload_id
                )
            try:
                found = await self._reserve(
                    standing, address, upload_id, user, grant, on_probation=on_probation or not grant.trusted
                )
            except asyncpg.ForeignKeyViolationError:
                continue  # its project or asset was deleted this moment
            if found is not None:
                return found
            # somebody was faster: see what it is now

    async def _reserve(
        self,
        standing: asyncpg.Record,
        address: VersionAddress,
        upload_id: UUID,
        user: str,
        grant: Grant,
        *,
        on_probation: bool,
    ) -> Upload | None:
        spans = self._lease, self._resumable
        if standing["version_id"] is None:
            new = on_probation, user, upload_id, *spans
            if standing["asset_id"] is not None:
                row = await self._fetch("reserve", standing["project_id"], standing["asset_id"], address.version, *new)
            else:
                owners = [user] if grant.becomes_owner else None
                names = address.asset, address.version
                row = await self._fetch("reserve_in_new_asset", standing["project_id"], *names, *new, owners)
            return _upload(row, address) if row else None
        if standing["upload_id"] == upload_id:
            if standing["upload_user"] != user:
                raise invalid("upload_id", "an upload of another user has this id: make up a new one", value=upload_id)
            # of what is being published, or is, no more than the name can be had: see `finish`
            row = (
                await self._fetch("take_over", standing["version_id"], upload_id, *spans)
                if standing["state"] == UPLOADING
                else await self._fetch("decided", standing["version_id"], upload_id)
            )
            return _upload(row, address, resumed=True) if row else None
        if standing["state"] != UPLOADING or standing["busy"]:
            raise _taken(standing, address)
        displaced = standing["upload_id"]
        seen = standing["version_id"], displaced, standing["busy_until"]
        row = await self._fetch("displace", *seen, upload_id, on_probation, user, *spans)
        return _upload(row, address, displaced=displaced) if row else None

    async def renew(self, upload: Upload) -> None:
        """Hold it for another lease. Raises UploadLost."""
        async with upload.turn:
            busy_until = await self._pool.fetchval(SQL["renew"], *_proof(upload), self._lease, self._resumable)
            if busy_until is None:
                raise UploadLost
            upload.busy_until = busy_until

    async def announce(self, upload: Upload, coming: int) -> None:
        """Say how many bytes it will add to the project's usage, those of files that are no links.

        Refuses with QUOTA_EXCEEDED, counting what others are uploading now. May be called again; `to_publishing` checks again.
        Raises UploadLost.
        """
        async with upload.turn, self._pool.acquire() as connection, connection.transaction():
            project = await _lock_project(connection, upload)
            others = await connection.fetchval(SQL["announce"], *_proof(upload), coming)
            _check_quota(project, upload, coming, others)

    async def release(self, upload: Upload) -> None:
        """Hold it no longer: the connection broke. It can be resumed for a while, unless somebody else wants the name."""
        async with upload.turn:
            await self._pool.execute(SQL["release"], *_proof(upload))

    async def to_publishing(
        self, upload: Upload, entries: Sequence[Entry], *, certain: Callable[[], None] = lambda: None
    ) -> None:
        """Store the entries; from then on the version is published, whoever does it.

        `certain` is called when only the commit is left, which waits for the disk: something else may be done meanwhile.
        Refuses with QUOTA_EXCEEDED, and INVALID_FIELD if a link leads to a version that is gone or not approved.
        Raises UploadLost, StillRemoved.
        """
        async with upload.turn:
            before = len(entries) > _FEW or upload.stored
            if before:
                async with self._pool.acquire() as connection, connection.transaction():
                    await self._write_entries(connection, upload, entries)
                upload.stored = True
            coming = usage(entries)
            async with self._pool.acquire() as connection, connection.transaction():
                project = await _lock_project(connection, upload)
                await _check_links(connection, upload.address, entries)
                columns = rows.entry_columns(() if before else entries)
                folders = _folders(upload.address)
                row: Any = await connection.fetchrow(
                    SQL["to_publishing"], *_proof(upload), coming, len(entries), self._lease, folders, *columns
                )
                _check_quota(project, upload, coming, row and row["coming"])
                if row["removals"]:
                    raise StillRemoved(*row["removals"])
                upload.upload_finish = row["upload_finish"]
                certain()
            upload.busy_until, upload.state = row["busy_until"], PUBLISHING
            upload.seen_latest = (_latest(row["latest_id"], row["latest"], row["latest_finish"]),)

    async def _write_entries(self, connection: Any, upload: Upload, entries: Sequence[Entry]) -> None:
        """Write entries of what is still an upload: nobody else waits for it."""
        proof = _proof(upload)
        busy_until = await connection.fetchval(SQL["renew"], *proof, self._lease, self._resumable)
        if busy_until is None:
            raise UploadLost
        await connection.execute(SQL["forget_entries"], upload.version_id)
        await copy_entries(connection, upload.version_id, entries)
        # however long that took: at the commit nobody takes it for dead
        upload.busy_until = await connection.fetchval(
            SQL["renew"], *proof[:2], busy_until, self._lease, self._resumable
        )

    async def to_uploading(self, upload: Upload) -> None:
        """Make it an upload again that can be resumed: its content could not be put in its place. Raises UploadLost."""
        async with upload.turn:
            if not await self._pool.fetchval(SQL["back_to_uploading"], *_proof(upload)):
                raise UploadLost
            upload.state, upload.stored = UPLOADING, True

    async def to_published(self, upload: Upload) -> Version:
        """Publish it: its content is in its place. May be repeated. Raises UploadLost if its project or asset was deleted."""
        async with upload.turn:
            row = await self._to_published_at_once(upload)
            if (
                row is None
            ):  # somebody else is at the project, or another version became the latest; or it is done, or gone
                row = await self._to_published(upload)
        if row is None:
            raise UploadLost
        upload.state = PUBLISHED
        self._changed()
        return rows.version_of(row)

    async def _to_published_at_once(self, upload: Upload) -> Any:
        if upload.seen_latest is None:
            return None
        (seen,) = upload.seen_latest
        place = upload.project_id, upload.asset_id, seen and seen.version_id
        return await self._fetch(
            "to_published_at_once", upload.version_id, upload.upload_id, _is_next(seen, upload), *place
        )

    async def _to_published(self, upload: Upload) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_project"], upload.project_id)
            asset = await connection.fetchrow(SQL["lock_asset"], upload.asset_id)
            becomes_latest = asset is not None and _is_next(
                _latest(asset["version_id"], asset["name"], asset["upload_finish"]), upload
            )
            row = await connection.fetchrow(SQL["to_published"], upload.version_id, upload.upload_id, becomes_latest)
            return row or await connection.fetchrow(SQL["published"], upload.version_id)

    async def published(self, upload: Upload) -> Version | None:
        """Read it as it is published; None if it is not yet. Raises UploadLost if it is gone, or an upload again."""
        row = await self._fetch("published", upload.version_id)
        if row is None and not await self._pool.fetchval(SQL["is_decided"], upload.version_id, upload.upload_id):
            raise UploadLost
        return rows.version_of(row) if row else None

    async def hold(self, upload: Upload) -> bool:
        """Take what is PUBLISHING, unless another process is at it."""
        async with upload.turn:
            busy_until = await self._pool.fetchval(SQL["hold"], *_proof(upload), self._lease)
            if busy_until is not None:
                upload.busy_until = busy_until
        return busy_until is not None

    async def give_up(self, upload: Upload) -> bool:
        """Forget an upload; its name is free. False if it is not held any more."""
        async with upload.turn:
            asset_id = await self._pool.fetchval(SQL["give_up"], *_proof(upload))
        if asset_id is None:
            return False
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(SQL["lock_empty_asset"], asset_id):
                await connection.execute(SQL["forget_empty_asset"], asset_id)
        return True

    async def claim(self, state: str) -> Upload | None:
        """Take an upload whose process is gone: one PUBLISHING, or one UPLOADING that cannot be resumed any more; None = there is none."""
        row = await self._fetch("claim", state, self._lease)
        return _upload(row, VersionAddress(row["project"], row["asset"], row["version"]), resumed=True) if row else None

    async def known_uploads(self, upload_ids: Sequence[UUID]) -> set[UUID]:
        """Say which of these uploads there are."""
        return {row["upload_id"] for row in await self._pool.fetch(SQL["known_uploads"], upload_ids)}

    async def abandon_all(self) -> None:
        """Say that no process is at work on any upload."""
        await self._pool.execute(SQL["abandon_all"])

    async def _fetch(self, statement: str, *values: object) -> Any:
        return await self._pool.fetchrow(SQL[statement], *values)


async def copy_entries(connection: Any, version_id: int, entries: Sequence[Entry]) -> None:
    """Write the entries of a version that has none."""
    records = [rows.entry_values(version_id, entry) for entry in entries]
    await connection.copy_records_to_table(
        "entry", schema_name="registry", columns=rows.ENTRY_COLUMNS, records=records, timeout=_COPY_SECONDS
    )


def _judge(standing: Any, project: Project, address: VersionAddress, user: str, *, admin: bool) -> Grant:
    own = (
        None
        if standing["asset_owners"] is None
        else rows.permissions(standing["asset_owners"], standing["asset_uploaders"], None)
    )
    grant = may_upload(
        user,
        admin,
        address.asset,
        address.version,
        project.permissions,
        own,
        standing["asset_id"] is not None,
        datetime.now(UTC),
    )
    if not grant.allowed:
        raise Refusal(
            "NOT_AN_UPLOADER",
            f"{user!r} may not upload version {address.version!r} of asset {address.asset!r} to project {address.project!r}: "
            "for its owners and uploaders",
            metadata={"user": user, "version": address.folder},
        )
    return grant


def _latest(version_id: int | None, name: str, upload_finish: datetime) -> Latest | None:
    return None if version_id is None else Latest(version_id, name, upload_finish)


def _is_next(latest: Latest | None, upload: Upload) -> bool:
    """Whether a version becomes its asset's latest. One that is published late, after a crash, does not overtake."""
    assert upload.upload_finish is not None
    current = None if latest is None else Candidate(latest.name, latest.upload_finish)
    uploaded = Candidate(upload.address.version, upload.upload_finish)
    if current is not None and current.upload_finish > upload.upload_finish:
        return False
    return after_upload(current, uploaded, upload.on_probation) == uploaded


async def _lock_project(connection: Any, upload: Upload) -> Any:
    """Keep everybody else who takes from the project's quota waiting until the commit."""
    project = await connection.fetchrow(SQL["lock_project"], upload.project_id)
    if project is None:
        raise UploadLost
    return project


def _check_quota(project: Any, upload: Upload, coming: int, others: int | None) -> None:
    """Refuse with QUOTA_EXCEEDED if a project, which is locked, has no room for so many bytes more; `others` come from elsewhere."""
    if others is None:
        raise UploadLost
    used = project["usage"] + others
    limits = Quota(project["baseline"], project["growth_rate"], project["quota_year"])
    problem = quota.check(limits, used, coming, project["year"])
    if problem:
        raise Refusal(
            "QUOTA_EXCEEDED",
            f"project {upload.address.project!r}: {problem}",
            metadata={"project": upload.address.project, "coming": str(coming), "used": str(used)},
        )


async def _check_links(connection: Any, at: VersionAddress, entries: Sequence[Entry]) -> None:
    """Refuse with INVALID_FIELD if links lead to a version that is gone or not approved; what they lead to cannot go before the commit."""
    linked = {
        file.version_address: entry for entry in entries for file in (entry.ancestor, entry.target) if file is not None
    }
    linked.pop(at, None)
    if not linked:
        return
    wanted = sorted(linked)
    columns = [[getattr(version, part) for version in wanted] for part in ("project", "asset", "version")]
    there = {VersionAddress(**row) for row in await connection.fetch(SQL["lock_linked"], *columns)}
    for version in wanted:
        if version not in there:
            raise invalid(
                "link",
                f"{linked[version].path!r} links to version {version.folder!r}, which is not there or not approved",
                path=linked[version].path,
            )


def _upload(row: Any, address: VersionAddress, *, resumed: bool = False, displaced: UUID | None = None) -> Upload:
    values = {name: row[name] for name in _UPLOAD_COLUMNS}
    stored = resumed or displaced is not None  # it may be
    return Upload(**values, address=address, resumed=resumed, displaced=displaced, stored=stored)


def _proof(upload: Upload) -> tuple[int, UUID, datetime]:
    return upload.version_id, upload.upload_id, upload.busy_until


def _folders(address: VersionAddress) -> list[str]:
    return [address.project, f"{address.project}/{address.asset}", address.folder]


def _taken(standing: Any, address: VersionAddress) -> Refusal:
    metadata = {"version": address.folder}
    if standing["state"] == PUBLISHED:
        return Refusal("VERSION_EXISTS", f"there is a version {address.folder!r}", metadata=metadata)
    return Refusal(
        "VERSION_EXISTS",
        f"{standing['upload_user']!r} is uploading version {address.folder!r} now",
        metadata=metadata,
        retry_after=max(standing["left_seconds"], 1.0),
    )
