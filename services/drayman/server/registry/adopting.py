"""Takes over a registry that Gobbler made, in place: rows from what is there, and nothing on disk is changed.

Projects, their assets and versions are taken one by one, each whole or not at all. What has rows is not looked at again: a run that was cut
off is repeated and goes on.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc

from drayman.server.platform.errors import Refusal
from drayman.server.registry import documents, foreign_layout, latest
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, ContentLost, Hashes
from drayman.server.registry.entries import Entry
from drayman.server.registry.foreign_layout import Document, ForeignVersion, Problem, Unreadable, VersionFindings
from drayman.server.registry.maintenance_store import MaintenanceStore
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Version
from drayman.server.registry.store import Store
from drayman.server.registry.survey import hash_files, survey

_T = TypeVar("_T")

_PAGE = 1000
#: Hashes of one asset that are kept for links to these files.
_MOST_HASHES = 200_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a folder."""

    #: from the registry's root
    path: str
    #: whether it is taken over now; in a dry run: whether it would be
    adopted: bool
    problems: Sequence[str] = ()


@dataclass(slots=True)
class _Asset:
    """An asset on its way."""

    project: str
    name: str
    #: both 0 in a dry run
    project_id: int
    asset_id: int
    known: dict[str, Version]
    #: of the versions that have rows, or would have: those that can be the latest
    candidates: list[latest.Candidate] = field(default_factory=list)
    adopted: int = 0
    usage: int = 0
    hashes: dict[str, Hashes | None] = field(default_factory=dict)


class Adopter:
    """Takes over, one run at a time."""

    def __init__(
        self, store: Store, repairs: MaintenanceStore, content: Content, baseline: int, growth_rate: int
    ) -> None:
        """`baseline` and `growth_rate`, in bytes, are for projects without a quota."""
        self._store = store
        self._repairs = repairs
        self._content = content
        self._baseline = baseline
        self._growth_rate = growth_rate
        self._one = asyncio.Lock()

    async def run(self, *, verify: bool, dry_run: bool) -> AsyncGenerator[Outcome, None]:
        """Take over everything that has no rows yet, and yield what became of each folder; a project comes after what is in it.

        With `verify` every file is hashed and compared with its manifest. In a dry run nothing is changed. Refuses with NOT_OFFERED
        where the registry is no folder.
        """
        root = self._content.local_root
        if root is None:
            raise Refusal("NOT_OFFERED", "the registry is an object store: only a folder can be taken over in place")
        async with self._one:
            run = _Run(self._store, self._repairs, self._content, root, verify=verify, dry_run=dry_run)
            default = Quota(self._baseline, self._growth_rate, datetime.now(UTC).year)
            names, problems = foreign_layout.folders(await self._content.listing(""), "project")
            for problem in problems:
                yield _left("", problem)
            for name in names:
                async with aclosing(run.project(name, default)) as outcomes:
                    async for outcome in outcomes:
                        yield outcome


class _Run:
    """One run."""

    def __init__(
        self, store: Store, repairs: MaintenanceStore, content: Content, root: Path, *, verify: bool, dry_run: bool
    ) -> None:
        self._store = store
        self._repairs = repairs
        self._content = content
        self._root = root
        self._verify = verify
        self._dry_run = dry_run

    async def project(self, name: str, default: Quota) -> AsyncGenerator[Outcome, None]:
        known = await _or_none(self._store.project(name))
        problems: list[Problem] = []
        project_id = known.project_id if known else 0
        if known is None:
            found = foreign_layout.project(
                name,
                await self._read(f"{name}/{documents.PERMISSIONS}", documents.read_permissions),
                await self._read(f"{name}/{documents.QUOTA}", documents.read_quota),
                default,
            )
            problems += found.problems
            if found.permissions is None:
                yield Outcome(name, adopted=False, problems=foreign_layout.texts(problems))
                return
            if not self._dry_run:
                project_id, _ = await self._repairs.adopt_project(name, found.permissions, found.quota)
        # before rows of its versions are there: their sum is what the document will say
        recorded = await self._read(f"{name}/{documents.USAGE}", documents.read_usage)
        total = adopted = 0
        assets, odd = foreign_layout.folders(await self._content.listing(name), "asset")
        for problem in odd:
            yield _left(name, problem)
        for asset_name in assets:
            asset = await self._begin_asset(name, asset_name, project_id)
            if isinstance(asset, Outcome):
                yield asset
                continue
            async with aclosing(self._asset(*asset)) as outcomes:
                async for outcome in outcomes:
                    yield outcome
            total += asset[0].usage
            adopted += asset[0].adopted
        if known is None or adopted:
            problems += foreign_layout.total_usage(recorded, total)
        yield Outcome(name, adopted=True, problems=foreign_layout.texts(problems))

    async def _begin_asset(
        self, project: str, name: str, project_id: int
    ) -> Outcome | tuple[_Asset, bool, list[Problem]]:
        """Take over an asset without its versions. Returns it, whether it has a latest version, and what is odd about it."""
        known = await _or_none(self._store.asset(project, name))
        if known is not None:
            versions = {version.address.version: version for version in await self._versions(project, name)}
            return _Asset(project, name, project_id, known.asset_id, versions), known.latest is not None, []
        read = await self._read(f"{project}/{name}/{documents.PERMISSIONS}", documents.read_permissions)
        found = foreign_layout.asset(name, read)
        problems = list(found.problems)
        if not found.adoptable:
            return Outcome(f"{project}/{name}", adopted=False, problems=foreign_layout.texts(problems))
        asset_id = 0
        if not self._dry_run:
            asset_id, _ = await self._repairs.adopt_asset(project_id, name, found.permissions)
        return _Asset(project, name, project_id, asset_id, {}), False, problems

    async def _asset(self, asset: _Asset, has_latest: bool, problems: list[Problem]) -> AsyncGenerator[Outcome, None]:
        folder = f"{asset.project}/{asset.name}"
        recorded = await self._read(f"{folder}/{documents.LATEST}", documents.read_latest)
        versions, odd = foreign_layout.folders(await self._content.listing(folder), "version")
        for problem in odd:
            yield _left(folder, problem)
        for name in versions:
            yield await self._version(asset, name)
        if asset.adopted or not has_latest:
            newest, wrong = foreign_layout.latest_version(recorded, asset.candidates)
            problems += wrong
            if newest is not None and not self._dry_run:
                await self._repairs.adopt_latest(asset.asset_id, newest.name)
        yield Outcome(folder, adopted=True, problems=foreign_layout.texts(problems))

    async def _version(self, asset: _Asset, name: str) -> Outcome:
        at = VersionAddress(asset.project, asset.name, name)
        if (known := asset.known.get(name)) is not None:
            asset.usage += known.usage
            if not known.on_probation:
                asset.candidates.append(latest.Candidate(name, known.upload_finish))
            return Outcome(at.folder, adopted=True)
        try:
            found = await self._inspect(at, asset)
        except ContentLost as error:
            return Outcome(at.folder, adopted=False, problems=[str(error)])
        problems = foreign_layout.texts(found.problems)
        summary = found.summary
        if summary is None:
            return Outcome(at.folder, adopted=False, problems=problems)
        if not self._dry_run and not await self._repairs.adopt_version(
            asset.project_id,
            asset.asset_id,
            name,
            summary.upload_user,
            summary.upload_start,
            summary.upload_finish,
            summary.on_probation,
            found.entries,
        ):
            return Outcome(
                at.folder, adopted=False, problems=["somebody is uploading a version of this name", *problems]
            )
        asset.adopted += 1
        asset.usage += found.usage
        if not summary.on_probation:
            asset.candidates.append(latest.Candidate(name, summary.upload_finish))
        return Outcome(at.folder, adopted=True, problems=problems)

    async def _inspect(self, at: VersionAddress, asset: _Asset) -> VersionFindings:
        """Read what is in a version's folder. Raises ContentLost if it is no folder."""
        seen = await survey(self._content, at.folder)

        def said(path: str, reader: Callable[[bytes], _T]) -> Document[_T]:
            return foreign_layout.read(seen.documents.get(path), reader)

        manifest = said(documents.MANIFEST, documents.read_manifest)
        links = [path for path in seen.documents if posixpath.basename(path) == documents.LINKS]
        hashes: dict[str, tuple[bytes, bytes]] = {}
        if self._verify and manifest is not None and not isinstance(manifest, Unreadable):
            hashes = await self._hash(at, manifest, asset.hashes)
        foreign = ForeignVersion(
            at,
            manifest,
            said(documents.SUMMARY, documents.read_summary),
            {path: said(path, documents.read_links) for path in links},
            seen.found,
            await asyncio.to_thread(_follow, self._root / at.folder, list(seen.links)),
            hashes,
        )
        return await asyncio.to_thread(foreign_layout.version, foreign, str(self._root))

    async def _hash(
        self, at: VersionAddress, manifest: Iterable[Entry], memory: dict[str, Hashes | None]
    ) -> dict[str, tuple[bytes, bytes]]:
        """Hash the files of a version, and those that its links lead to; of one asset each once."""
        keys = {
            entry.path: entry.holder.key if entry.holder else f"{at.folder}/{entry.path}"
            for entry in manifest
            if not entry.is_directory
        }
        if len(memory) > _MOST_HASHES:
            memory.clear()
        memory |= await hash_files(self._content, [key for key in keys.values() if key not in memory])
        read = {path: memory[key] for path, key in keys.items()}
        return {path: (each.md5.digest(), each.sha256.digest()) for path, each in read.items() if each is not None}

    async def _versions(self, project: str, asset: str) -> list[Version]:
        versions: list[Version] = []
        while page := await self._store.versions(
            project, asset, versions[-1].address.version if versions else "", _PAGE
        ):
            versions += page
        return versions

    async def _read(self, key: str, reader: Callable[[bytes], _T]) -> Document[_T]:
        try:
            [document] = await self._content.read_small([key])
        except ContentLost:
            document = None
        return foreign_layout.read(document, reader)


async def _or_none(finding: Awaitable[_T]) -> _T | None:
    """Return what is found; None if it is not there."""
    try:
        return await finding
    except Refusal as refusal:
        if refusal.code is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def _left(folder: str, problem: Problem) -> Outcome:
    path = foreign_layout.printable(posixpath.join(folder, problem.path))
    return Outcome(path, adopted=False, problems=[problem.text])


def _follow(folder: Path, links: Sequence[str]) -> dict[str, int]:
    """Read the sizes of the files that symbolic links lead to, in the end."""
    sizes = {}
    for path in links:
        try:
            status = (folder / path).stat()
        except (OSError, ValueError):
            continue  # it leads nowhere, or in a circle
        if stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
    return sizes
