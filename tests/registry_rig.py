"""A registry without its services: stores, content and publication on a database and a folder, and what must be true of them at rest."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from asyncpg.transaction import Transaction

from drayman.server.platform.database import migrate, open_pool
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.assembly import Registry, assemble
from drayman.server.registry.content_stores import open_content
from drayman.server.registry.entries import Entry
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Project, Version
from drayman.server.registry.rerouting import Doomed
from drayman.server.registry.store import HERE
from drayman.server.registry.sweeping import Presence

QUOTA = Quota(1_000_000, 0, 2000)
FILES = {"a": b"first", "b/c": b"second" * 100}


def file(path: str, content: bytes) -> Entry:
    return Entry(path, len(content), hashlib.md5(content).digest(), hashlib.sha256(content).digest())


def link(path: str, content: bytes, key: str, ancestor: str = "") -> Entry:
    plain = file(path, content)
    return Entry(
        path,
        plain.size,
        plain.md5,
        plain.sha256,
        FileAddress.parse(key),
        FileAddress.parse(ancestor) if ancestor else None,
    )


@dataclass
class Rig:
    """A registry to work with."""

    registry: Registry
    pool: asyncpg.Pool
    dsn: str
    root: Path

    async def project(self, name: str, *owners: str, quota: Quota = QUOTA, global_write: bool | None = None) -> int:
        permissions = Permissions(owners or ("owner",), (), global_write)
        project = await self.registry.store.create_project(name, permissions, quota)
        await self.registry.documenter.project(project.project_id)
        return project.project_id

    async def upload(
        self,
        folder: str,
        files: Mapping[str, bytes],
        *,
        links: tuple[Entry, ...] = (),
        user: str = "owner",
        upload_id: UUID | None = None,
        on_probation: bool = False,
        admin: bool = False,
    ) -> Version:
        publisher = self.registry.publisher
        upload = await publisher.begin(
            VersionAddress.parse(folder), upload_id or uuid4(), user, admin=admin, on_probation=on_probation
        )
        incoming = self.registry.content.incoming(str(upload.upload_id))
        await incoming.prepare()
        await self.registry.versions.announce(upload, sum(map(len, files.values())))
        await incoming.put(list(files.items()))
        version = await publisher.publish(upload, [*(file(path, content) for path, content in files.items()), *links])
        await self.registry.documenter.settle()
        return version

    async def recover(self) -> None:
        """Do what a process does at its start that finds nobody else."""
        presence = Presence(self.dsn, self.registry.versions)
        await presence.start()
        await presence.stop()
        await self.registry.recovery.recover()

    async def check(self) -> dict[str, list[str]]:
        """Assert what is true whenever nothing is going on. Returns the versions of every asset."""
        await self.registry.documenter.settle()
        found: dict[str, list[str]] = {}
        store = self.registry.store
        documents = set()
        for project in await store.projects("", 1000):
            total = 0
            for asset in await store.assets(project, "", 1000):
                versions = await store.versions(project, asset, "", 1000)
                found[f"{project}/{asset}"] = [version.address.version for version in versions]
                for version in versions:
                    total += version.usage
                    await self._check_version(version)
                latest = await store.latest(project, asset)
                assert self.document(f"{project}/{asset}/..latest") == (
                    {"version": latest.address.version} if latest else None
                )
                assert [v.address for v in versions if v.latest] == ([latest.address] if latest else [])
                documents.add(f"{project}/{asset}")
            assert (await store.project(project)).usage == total
            assert self.document(f"{project}/..usage") == {"total": total}
            assert self.document(f"{project}/..permissions") is not None
            documents.add(project)
        assert {p.parent.relative_to(self.root).as_posix() for p in self.root.glob("[!.]*/*/*/..summary")} == {
            f"{asset}/{version}" for asset, versions in found.items() for version in versions
        }
        on_disk = [*self.root.glob("[!.]*"), *self.root.glob("[!.]*/[!.]*")]
        assert {p.relative_to(self.root).as_posix() for p in on_disk} <= documents
        for table in ("project WHERE written < revision", "asset WHERE written < revision", "version WHERE unwritten"):
            assert await self.pool.fetchval(f"SELECT count(*) FROM registry.{table}") == 0, table
        assert await self.pool.fetchval("SELECT count(*) FROM registry.removal") == 0
        assert await self.pool.fetchval("SELECT count(*) FROM registry.change WHERE NOT written") == 0
        assert await self.pool.fetchval("SELECT count(*) FROM registry.version WHERE state = 'publishing'") == 0
        uploads = await self.pool.fetch("SELECT upload_id FROM registry.version WHERE state <> 'published'")
        assert set(await self.registry.content.incoming_ids()) <= {str(row["upload_id"]) for row in uploads}
        return found

    async def _check_version(self, version: Version) -> None:
        entries = await self.registry.store.entries(version.version_id)
        assert len(entries) == version.entries
        assert sum(entry.size for entry in entries if not entry.is_link) == version.usage
        folder = self.root / version.address.folder
        manifest = json.loads((folder / "..manifest").read_bytes())
        assert manifest.keys() == {entry.path for entry in entries}
        for entry in entries:
            if entry.is_directory:
                assert (folder / entry.path).is_dir()
                continue
            content = (folder / entry.path).read_bytes()
            assert hashlib.md5(content).digest() == entry.md5
            assert (folder / entry.path).is_symlink() == entry.is_link
            assert ("link" in manifest[entry.path]) == entry.is_link
        summary = self.document(f"{version.address.folder}/..summary")
        assert summary is not None
        assert summary.get("on_probation", False) == version.on_probation

    def document(self, key: str) -> dict[str, Any] | None:
        path = self.root / key
        return json.loads(path.read_bytes()) if path.exists() else None


def anybody(_project: Project, _version: Version) -> None:
    """Say that the caller may."""


async def do(registry: Rig, act: str, name: str) -> None:
    """Do something to a registry that has `p/a/v0`."""
    remover = registry.registry.remover
    match act:
        case "upload":
            await registry.upload(f"p/a/{name}", FILES, links=(link("l", b"first", "p/a/v0/a"),))
        case "first":
            await registry.upload(f"p/{name}/v", FILES)
        case "approve":
            await remover.approve(VersionAddress("p", "a", name), anybody)
        case "reject":
            await remover.reject(VersionAddress("p", "a", name), anybody)
        case "delete_version":
            await remover.delete(Doomed("p", "a", name), force=True)
        case "delete_asset":
            await remover.delete(Doomed("p", name), force=True)
        case "delete_project":
            await remover.delete(Doomed(name), force=True)


@asynccontextmanager
async def rig(
    dsn: str, root: Path, *, content: Callable[[Any], Any] = lambda real: real, **options: Any
) -> AsyncIterator[Rig]:
    """Open a registry; `content` may wrap its content."""
    await migrate(dsn, "registry", HERE / "migrations")
    pool = await open_pool(dsn, 10, hot=True)
    real = await open_content(root)
    registry = assemble(pool, content(real), **options)
    try:
        yield Rig(registry, pool, dsn, root)
    finally:
        await registry.documenter.stop()
        await real.close()
        await pool.close()


class Crash(Exception):
    """What happens at a point where everything could end."""


class Points:
    """Counts points at which a process could die: before each statement, commit and call of the content, and after each of these."""

    def __init__(self, die: Callable[[], None]) -> None:
        self._die = die
        self.left = 0
        self.passed = 0

    def arm(self, number: int) -> None:
        """Die at the nth point from now on."""
        self.left, self.passed = number, 0

    def point(self) -> None:
        self.passed += 1
        if self.left:
            self.left -= 1
            if not self.left:
                self._die()

    def wrap(self, real: Any) -> Any:
        """Content, or an incoming folder, whose calls are points."""
        return _Wrapped(self, real)

    @contextmanager
    def statements(self) -> Iterator[None]:
        """Make every statement and every commit a point."""
        places: list[tuple[Any, str]] = [
            (asyncpg.Connection, name) for name in ("fetch", "fetchrow", "fetchval", "execute", "copy_records_to_table")
        ]
        places.append((Transaction, "__aexit__"))
        kept = [(owner, name, getattr(owner, name)) for owner, name in places]
        for owner, name, real in kept:
            setattr(owner, name, self._counted(real))
        try:
            yield
        finally:
            for owner, name, real in kept:
                setattr(owner, name, real)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **options: Any) -> Any:
            self.point()
            return await real(*args, **options)

        return called


class _Wrapped:
    def __init__(self, points: Points, real: Any) -> None:
        self._points = points
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "incoming":
            return lambda upload_id: _Wrapped(self._points, found(upload_id))
        if not asyncio.iscoroutinefunction(found):
            return found

        async def called(*args: Any, **options: Any) -> Any:
            self._points.point()
            result = await found(*args, **options)
            self._points.point()
            return result

        return called
