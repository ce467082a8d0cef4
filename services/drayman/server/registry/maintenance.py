"""What administrators do to what is there: find latest and usage again, rebuild a version's entries, compare it byte by byte."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from drayman.server.platform.errors import Refusal
from drayman.server.registry import documents, names
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import Content, ContentLost
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.documents import Link, Summary
from drayman.server.registry.entries import Entry
from drayman.server.registry.indexing import (
    Damaged,
    Difference,
    Lookup,
    Stored,
    Survey,
    differences,
    document_differences,
    index,
    recorded_links,
    target_differences,
)
from drayman.server.registry.maintenance_store import MaintenanceStore
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.records import Version
from drayman.server.registry.store import Store
from drayman.server.registry.survey import hash_files, survey

#: Differences that are told; what follows is only counted.
MOST_DIFFERENCES = 10_000
#: From so many files of one version on, all its entries are read at once.
_MANY = 20


class Maintenance:
    """Maintains."""

    def __init__(self, store: Store, repairs: MaintenanceStore, content: Content, documenter: Documenter) -> None:
        self._store = store
        self._repairs = repairs
        self._content = content
        self._documenter = documenter

    async def refresh_latest(self, project: str, asset: str) -> str | None:
        """Find the latest version of an asset again; None = no version is approved. Refuses with what is not found."""
        found = await self._store.refresh_latest(project, asset)
        await self._write_project(project)
        return found

    async def refresh_usage(self, project: str) -> int:
        """Add the usage of a project up again; returns it in bytes. Refuses with REGISTRY_PROJECT_NOT_FOUND."""
        total = await self._store.refresh_usage(project)
        await self._write_project(project)
        return total

    async def reindex(self, at: VersionAddress) -> Version:
        """Make the entries of a version anew from what is stored, and its documents from these.

        A folder that was put in its place by hand becomes a version, if it has a ..summary. Refuses with what is not found, and with
        VERSION_DAMAGED.
        """
        project = await self._store.project(at.project)
        try:
            version = await self._store.version(at)
        except Refusal:
            # as it was refused, if there is nothing that could be one
            if self._content.local_root is None or not await self._content.exists(at.folder):
                raise
            version = None
        try:
            entries = await self._index(at, version)
            if version is None:
                await self._add(at, project.project_id, entries)
        except (Damaged, ContentLost) as error:
            raise Refusal("VERSION_DAMAGED", str(error), metadata={"version": at.folder}) from error
        version = await self._repairs.replace_entries(at, entries)
        await self._documenter.attempt(version.project_id, version.version_id)
        return version

    async def validate(self, at: VersionAddress) -> list[Difference]:
        """Compare what is stored of a version, byte by byte, with what is known of it. Refuses with what is not found."""
        version = await self._store.version(at)
        entries = await self._store.entries(version.version_id)
        try:
            seen = await survey(self._content, at.folder)
        except ContentLost as error:
            return [Difference("", str(error))]
        summary = Summary(version.upload_user, version.upload_start, version.upload_finish, version.on_probation)
        found = document_differences(seen, entries, summary)
        if self._content.local_root is None:
            found += await self._validate_objects(at, seen, entries)
        else:
            keys = [*seen.files, *(entry.path for entry in entries if entry.path in seen.links)]
            stored = await self._stored(at, seen, keys)
            found += differences(stored, entries, await self._lookup(entry.holder for entry in entries))
        rest = len(found) - MOST_DIFFERENCES
        return [*found[:MOST_DIFFERENCES], Difference("", f"{rest:,} more differences")] if rest > 0 else found

    async def _validate_objects(self, at: VersionAddress, seen: Survey, entries: list[Entry]) -> list[Difference]:
        """An object store has neither links nor directories: those are known, and nothing is stored of them."""
        stored = await self._stored(at, seen, seen.files)
        plain = [entry for entry in entries if not entry.is_link and not entry.is_directory]
        found = differences(stored, plain, lambda _address: None)
        lookup = await self._lookup(entry.holder for entry in entries)
        for entry in entries:
            if entry.is_link:
                found += target_differences(entry, lookup)
        return found

    async def _index(self, at: VersionAddress, version: Version | None) -> list[Entry]:
        """Make the entries of a version from what is stored. Raises Damaged, ContentLost."""
        seen = await survey(self._content, at.folder)
        known = await self._store.entries(version.version_id) if version else []
        if self._content.local_root is None:
            stored = await self._stored(at, seen, seen.files)
            files = index(stored, {}, lambda _address: None)
            return sorted([*files, *_unstored(seen, known)], key=lambda entry: entry.path)
        recorded = recorded_links(seen)
        stored = await self._stored(at, seen, ())
        for entry in known:
            # where the document about a link is gone, what was known of it is still right if the link leads there
            if entry.target is None or entry.path not in seen.links or entry.path in recorded:
                continue
            if stored.leads_to(entry.path) in (entry.target, entry.ancestor):
                recorded[entry.path] = Link(entry.target, entry.ancestor)
        out = [path for path in seen.links if stored.leads_to(path) is None]
        stored = await self._stored(at, seen, [*seen.files, *out])
        led = [stored.leads_to(path) for path in seen.links]
        lookup = await self._lookup([*led, *(link.target for link in recorded.values())])
        return index(stored, recorded, lookup)

    async def _stored(self, at: VersionAddress, seen: Survey, paths: Iterable[str]) -> Stored:
        hashes = await hash_files(self._content, [f"{at.folder}/{path}" for path in paths])
        skip = len(at.folder) + 1
        root = self._content.local_root
        return Stored(at, seen, {key[skip:]: found for key, found in hashes.items()}, str(root) if root else "")

    async def _lookup(self, files: Iterable[FileAddress | None]) -> Lookup:
        """Read the entries that published versions have at these addresses."""
        wanted: dict[VersionAddress, set[str]] = {}
        for file in files:
            if file is not None:
                wanted.setdefault(file.version_address, set()).add(file.path)
        found: dict[FileAddress, Entry] = {}
        for at, paths in wanted.items():
            try:
                version = await self._store.version(at)
            except Refusal:
                continue  # not found: nothing in it is
            if len(paths) > _MANY:
                entries = await self._store.entries(version.version_id)
            else:
                each = [await self._store.entry(version.version_id, path) for path in paths]
                entries = [entry for entry in each if entry is not None]
            found |= {at.file(entry.path): entry for entry in entries}
        return found.get

    async def _add(self, at: VersionAddress, project_id: int, entries: list[Entry]) -> None:
        """Take a folder for a version that somebody put there. Raises Damaged."""
        summary, own = await self._documents_of(at)
        if summary is None:
            raise Damaged(f"{documents.SUMMARY}: is missing; write it, then reindex")
        asset_id, _ = await self._repairs.adopt_asset(project_id, at.asset, own)
        added = await self._repairs.adopt_version(
            project_id,
            asset_id,
            at.version,
            summary.upload_user,
            summary.upload_start,
            summary.upload_finish,
            summary.on_probation,
            entries,
        )
        if not added:
            raise Refusal("VERSION_EXISTS", f"{at.folder} is being uploaded", metadata={"version": at.folder})

    async def _documents_of(self, at: VersionAddress) -> tuple[Summary | None, Permissions | None]:
        """Read a version's summary, and its asset's own permissions; None = there is no such document. Raises Damaged."""
        summary_key = posixpath.join(at.folder, documents.SUMMARY)
        permissions_key = posixpath.join(at.project, at.asset, documents.PERMISSIONS)
        summary, own = await self._document(summary_key), await self._document(permissions_key)
        try:
            return (
                None if summary is None else documents.read_summary(summary),
                None if own is None else documents.read_permissions(own),
            )
        except ValueError as error:
            raise Damaged(str(error)) from error

    async def _document(self, key: str) -> bytes | None:
        try:
            return (await self._content.read_small([key]))[0]
        except ContentLost:
            return None

    async def _write_project(self, name: str) -> None:
        await self._documenter.attempt((await self._store.project(name)).project_id)


def _unstored(seen: Survey, known: Iterable[Entry]) -> list[Entry]:
    """Entries that an object store has nothing of. Raises Damaged."""
    kept = [entry for entry in known if (entry.is_link or entry.is_directory) and entry.path not in seen.files]
    for entry in kept:
        if any(path.startswith(f"{entry.path}/") for path in seen.files):
            raise Damaged(f"{names.shown(entry.path)} is a link or an empty directory, and there are files below it")
    return kept
