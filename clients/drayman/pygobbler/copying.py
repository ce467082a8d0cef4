"""How the cache gets what it does not have, or has otherwise than the service."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Entry
from drayman.pygobbler import documents, origin
from drayman.pygobbler.cache import Cache

#: Parts of the path of a version.
_VERSION = 3


class Fetch:
    """Brings files of a registry into a cache: those that are not there, or of which the service says something else; or (`overwrite`) all.

    Methods raise RegistryError and DraymanError.
    """

    def __init__(self, client: RegistryClient, cache: Cache, overwrite: bool, concurrent: int = 1) -> None:
        self._client = client
        self._cache = cache
        self._overwrite = overwrite
        self._concurrent = concurrent

    async def file(self, path: str) -> None:
        """Fetch a file of a version, or one of the registry's documents."""
        parts = path.split("/")
        version, rest = "/".join(parts[:_VERSION]), "/".join(parts[_VERSION:])
        if origin.is_document(path):
            await self._document(path, version, rest, await origin.document(self._client, path))
            return
        entry = await self._entry(parts, rest) if rest else None
        if entry is None:
            raise origin.absent(path)
        async with self._cache.index(version) as known:
            if self._lacks(version, known, {rest: origin.said(entry)}):
                project, asset, name = parts[:_VERSION]
                await self._client.download(project, asset, name, self._cache.path(version), path=rest, entries=[entry])
                known[rest] = origin.said(entry)

    async def directory(self, path: str) -> None:
        """Fetch a project, an asset, a version, or a directory of a version."""
        project, *parts = path.split("/")
        if not parts:
            await self._project(project)
        elif len(parts) == 1:
            await self._asset(project, parts[0])
        else:
            await self._version(project, parts[0], parts[1], "/".join(parts[2:]))

    async def _project(self, project: str) -> None:
        for name in (documents.PERMISSIONS, documents.QUOTA, documents.USAGE):
            path = f"{project}/{name}"
            self._cache.put(path, documents.encode(await origin.document(self._client, path)))
        assets = [asset async for asset in self._client.assets(project)]
        await self._prune(project, assets)
        for asset in assets:
            await self._asset(project, asset)

    async def _asset(self, project: str, asset: str) -> None:
        versions = [version.version async for version in self._client.versions(project, asset)]
        await self._prune(f"{project}/{asset}", versions)
        for name in (documents.LATEST, documents.PERMISSIONS):
            path = f"{project}/{asset}/{name}"
            try:
                self._cache.put(path, documents.encode(await origin.document(self._client, path)))
            except origin.AbsentError:
                self._cache.path(path).unlink(missing_ok=True)
        for version in versions:
            await self._version(project, asset, version, "")

    async def _version(self, project: str, asset: str, version: str, folder: str) -> None:
        address, prefix = f"{project}/{asset}/{version}", f"{folder}/" if folder else ""
        listed = self._client.entries(project, asset, version, prefix=folder)
        entries = [entry async for entry in listed if entry.path.startswith(prefix) or entry == _empty(folder)]
        if folder and not entries:
            raise origin.absent(f"{address}/{folder}")
        made = documents.links(entries)
        if not folder:
            made[documents.MANIFEST] = documents.manifest(entries)
            made[documents.SUMMARY] = documents.summary(await self._client.get_version(project, asset, version))
        said = {path: origin.said_of(found) for path, found in made.items()}
        said |= {entry.path: origin.said(entry) for entry in entries if not entry.empty_directory}
        async with self._cache.index(address) as known:
            lacks = await asyncio.to_thread(self._settle, address, prefix, known, said, entries)
            for path in lacks & made.keys():
                self._cache.put(f"{address}/{path}", documents.encode(made[path]))
                known[path] = said[path]
            if lacks - made.keys():
                await self._client.download(
                    project,
                    asset,
                    version,
                    self._cache.path(address),
                    path=prefix,
                    entries=[entry for entry in entries if entry.path in lacks],
                    concurrent=self._concurrent,
                )
                known.update(said)

    async def _document(self, path: str, version: str, rest: str, found: dict[str, Any]) -> None:
        if not rest:
            self._cache.put(path, documents.encode(found))
            return
        said = {rest: origin.said_of(found)}
        async with self._cache.index(version) as known:
            if self._lacks(version, known, said):
                self._cache.put(path, documents.encode(found))
                known.update(said)

    async def _entry(self, parts: list[str], path: str) -> Entry | None:
        """The file of a version, if there is one."""
        found = None
        async for entry in self._client.entries(*parts[:_VERSION], prefix=path):
            if entry.path == path and not entry.empty_directory:
                found = entry
        return found

    def _settle(
        self, version: str, prefix: str, known: dict[str, str], said: Mapping[str, str], entries: list[Entry]
    ) -> set[str]:
        """Remove what is not there any more, make empty directories; returns what has to be fetched."""
        root = self._cache.path(version)
        for path in [path for path in known if path.startswith(prefix) and path not in said]:
            del known[path]
            _remove(root, path)
        for entry in entries:
            if entry.empty_directory:
                self._cache.path(f"{version}/{entry.path}").mkdir(parents=True, exist_ok=True)
        return self._lacks(version, known, said)

    def _lacks(self, version: str, known: Mapping[str, str], said: Mapping[str, str]) -> set[str]:
        root = self._cache.path(version)
        return {
            path
            for path, word in said.items()
            if self._overwrite or known.get(path) != word or not (root / path).is_file()
        }

    async def _prune(self, path: str, names: Collection[str]) -> None:
        """Remove directories that the service does not have any more."""
        folder = self._cache.path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for each in [each for each in folder.iterdir() if each.is_dir() and each.name not in names]:
            await asyncio.to_thread(shutil.rmtree, each, ignore_errors=True)


def _empty(path: str) -> Entry:
    return Entry(path, 0, empty_directory=True)


def _remove(root: Path, path: str) -> None:
    """Remove a file, and the directories that are empty then."""
    target = root / path
    with contextlib.suppress(OSError):
        target.unlink()
        for folder in target.parents:
            if folder == root:
                break
            folder.rmdir()
