"""What becomes of the files of an upload: which ones are links to content that is there, and which ones have to be stored."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import entries, linking
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import Content
from drayman.server.registry.entries import Entry
from drayman.server.registry.records import Version
from drayman.server.registry.store import Store
from drayman.server.registry.upload_manifest import Announced

#: Files up to which it is done at once; more would keep the loop busy.
_AT_ONCE = 200
#: What an entry has for an MD5 until its content has come: nothing else has an empty one.
_UNKNOWN = b""
#: Links to one version up to which their files are looked up one by one.
_ONE_BY_ONE = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What an upload becomes."""

    #: one for each file, in no order
    entries: list[Entry]
    #: numbers of the files whose content has to be stored
    stored: list[int]
    #: how many files are links to content that the latest version has
    deduplicated: int

    @property
    def usage(self) -> int:
        """Bytes that it adds to the project's usage."""
        return entries.usage(self.entries)

    def completed(self, hashes: Mapping[int, tuple[bytes, bytes]], files: Sequence[Announced]) -> list[Entry]:
        """Return the entries, with MD5 and SHA-256 that were found out of files, by their numbers."""
        if not hashes:
            return self.entries
        found = {files[number].path: each for number, each in hashes.items()}

        def complete(entry: Entry) -> Entry:
            if entry.md5 != _UNKNOWN:
                return entry
            # a link has the content of the file at its end
            md5, sha256 = found[entry.path if entry.holder is None else entry.holder.path]
            return replace(entry, md5=md5, sha256=sha256)

        return [complete(entry) for entry in self.entries]


class Planner:
    """Makes plans."""

    def __init__(self, store: Store, content: Content) -> None:
        self._store = store
        self._content = content

    async def plan(self, at: VersionAddress, files: Sequence[Announced]) -> Plan:
        """Say what becomes of files that are uploaded as the version `at`. Raises Refusal for links that lead nowhere."""
        known = await self._latest_entries(at, _contents(files))
        targets = {file.registry for file in files if file.registry is not None}
        linked = await self._find(targets) if targets else {}
        root = self._content.local_root
        if len(files) + len(known[1]) <= _AT_ONCE:
            return _make(at, files, known, linked, root)
        return await asyncio.to_thread(_make, at, files, known, linked, root)

    async def questions(self, at: VersionAddress, files: Sequence[Announced]) -> dict[int, bool]:
        """Say of which files the digests are needed first, by number, and whether MD5 is: the registry may have them."""
        latest, known = await self._latest_entries(at, None)
        dedup = linking.Dedup(known, latest)
        asked = {}
        for number, file in enumerate(files):
            if file.digests_follow and (same := dedup.of_size(file.size)):
                asked[number] = any(entry.sha256 is None for entry in same)
        return asked

    async def _latest_entries(
        self, at: VersionAddress, contents: Collection[tuple[bytes, int]] | None
    ) -> tuple[VersionAddress, list[Entry]]:
        """Read what the asset's latest version has, of these contents or of any, but for links to versions that were deleted by force."""
        if contents is not None and not contents:
            return at, []
        name, known = await self._store.latest_entries(at.project, at.asset, contents)
        latest = VersionAddress(at.project, at.asset, name)
        holders = {entry.holder.version_address for entry in known if entry.holder is not None} - {latest}
        if holders and (gone := holders - await self._store.there(holders)):
            known = [entry for entry in known if entry.holder is None or entry.holder.version_address not in gone]
        return latest, known

    async def _version(self, address: VersionAddress) -> Version | None:
        try:
            return await self._store.version(address)
        except Refusal as refusal:
            if refusal.reason in ("REGISTRY_PROJECT_NOT_FOUND", "ASSET_NOT_FOUND", "VERSION_NOT_FOUND"):
                return None
            raise

    async def _find(self, targets: Collection[FileAddress]) -> dict[FileAddress, tuple[Entry, bool]]:
        """Find files of the registry, with whether their version waits for approval. What is not there is left out."""
        paths: defaultdict[VersionAddress, set[str]] = defaultdict(set)
        for target in targets:
            paths[target.version_address].add(target.path)
        found: dict[FileAddress, tuple[Entry, bool]] = {}
        for address, wanted in paths.items():
            version = await self._version(address)
            if version is None:
                continue
            if len(wanted) > _ONE_BY_ONE:
                there = [entry for entry in await self._store.entries(version.version_id) if entry.path in wanted]
            else:
                each = [await self._store.entry(version.version_id, path) for path in wanted]
                there = [entry for entry in each if entry is not None]
            found |= {address.file(entry.path): (entry, version.on_probation) for entry in there}
        return found


def _contents(files: Sequence[Announced]) -> set[tuple[bytes, int]] | None:
    """Contents that may be there already, as MD5 and size; None if there are too many to ask for, or without an MD5.

    A file whose digests still follow is not there: it has been asked for before.
    """
    known = {(file.md5, file.size) for file in files if file.md5 is not None}
    without = any(file.md5 is None and file.sha256 is not None for file in files)
    return None if without or len(known) > _AT_ONCE else known


def _make(
    at: VersionAddress,
    files: Sequence[Announced],
    known: tuple[VersionAddress, list[Entry]],
    linked: Mapping[FileAddress, tuple[Entry, bool]],
    root: Path | None,
) -> Plan:
    latest, latest_entries = known
    dedup = linking.Dedup(latest_entries, latest)
    made: list[Entry] = []
    stored: list[int] = []
    local: dict[str, str] = {}
    deduplicated = 0
    try:
        for number, file in enumerate(files):
            if file.local is not None:
                local[file.path] = file.local
            elif file.registry is not None:
                found, on_probation = linked.get(file.registry, (None, False))
                made.append(linking.registry_link(file.path, at, file.registry, found, on_probation=on_probation))
            elif not file.has_content or file.outside:
                made.append(Entry(file.path, file.size, file.md5, file.sha256))
            else:
                same = dedup.find(file.size, file.md5, file.sha256, file.path)
                link = None if same is None else linking.link_to(file.path, latest.file(same.path), same)
                if link is not None and link.holder is not None and _is_there(root, link.holder, file.size):
                    deduplicated += 1
                    made.append(replace(link, sha256=file.sha256))
                else:
                    stored.append(number)
                    made.append(Entry(file.path, file.size, file.md5 or _UNKNOWN, file.sha256))
        if local:
            made += linking.local_links(at, made, local)
    except ValueError as error:
        raise invalid("manifest.files", str(error)) from error
    return Plan(made, stored, deduplicated)


def _is_there(root: Path | None, file: FileAddress, size: int) -> bool:
    """Whether a file that is to be linked to is still what the rows say: a link to nothing would lose what is uploaded now."""
    if root is None:
        return True
    try:
        seen = os.stat(f"{root}/{file.key}")  # noqa: PTH116 - for very many of them
    except OSError:
        return False
    return stat.S_ISREG(seen.st_mode) and seen.st_size == size
