"""Uploads of directories of a staging folder that the users' machines and this one share.

Whose directory it is, its owner's account says: it is uploaded by who has the session of that name, by who acts as that user and may, or
by an administrator. Whatever is in it may change or be exchanged while it is read: files are opened as they were found, none through a
link, and what is stored is what was hashed.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import structlog

from drayman.client.registry_tree import Digests, Found, Kind, Tree, TreeError, shares
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.trust import Caller
from drayman.server.registry import names, upload_manifest
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import ContentLost, Incoming
from drayman.server.registry.records import Version
from drayman.server.registry.spoofing import Actor
from drayman.server.registry.upload_holding import holding
from drayman.server.registry.upload_manifest import Announced
from drayman.server.registry.upload_session import Uploads
from drayman.server.registry.whitelist import Whitelist

log = structlog.get_logger(__name__)

#: Files that are copied at a time for one upload, and threads that hash for it.
_COPIES = 8
_READERS = 4

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Source:
    """What was found in a directory: the file that was found for each that is announced."""

    folder: Path
    files: list[Announced]
    found: list[Found]


class Staging:
    """The staging folder; `root` None = there is none."""

    def __init__(self, uploads: Uploads, root: Path | None, whitelist: Whitelist) -> None:
        self._uploads = uploads
        self._root = root
        self._whitelist = whitelist

    async def upload(self, caller: Caller, actor: Actor, request: pb.UploadStagedRequest) -> tuple[Version, int]:
        """Upload a directory; returns the version and how many files became links. Raises Refusal."""
        folder = await asyncio.to_thread(self._folder, request.source, caller, actor)
        uploads = self._uploads
        upload = await uploads.publisher.begin(
            VersionAddress(request.project, request.asset, request.version),
            uuid4(),
            actor.username,
            admin=actor.admin,
            on_probation=request.on_probation,
        )
        incoming = uploads.content.incoming(str(upload.upload_id))
        async with holding(upload, incoming, uploads.publisher, uploads.versions, resumable=False) as held:
            source = await self._read(folder, ignore_dot=request.ignore_dot)
            plan = await uploads.planner.plan(upload.address, source.files)
            await uploads.versions.announce(upload, plan.usage)
            await incoming.prepare()
            await self._store(source, plan.stored, incoming, consume=request.consume)
            version = await held.publish(plan.entries)
            # who shares a folder with the service may look at its documents next
            await uploads.publisher.document(version)
        if request.consume:
            await asyncio.to_thread(_remove, folder)
        return version, plan.deduplicated

    def _folder(self, source: str, caller: Caller, actor: Actor) -> Path:
        """Check the name and the owner of a directory of the staging folder."""
        if self._root is None:
            raise Refusal("NOT_OFFERED", "this deployment has no staging folder: upload over the connection")
        if not source or source in (".", "..") or "/" in source or "\0" in source:
            raise invalid(
                "source",
                f"source {names.shown(source)}: expected the name of a directory directly in the staging folder",
            )
        path = self._root / source
        try:
            seen = os.lstat(path)
        except (OSError, ValueError) as error:
            raise invalid("source", f"source {names.shown(source)} is not in the staging folder") from error
        if not stat.S_ISDIR(seen.st_mode):
            raise invalid("source", f"source {names.shown(source)} is no directory")
        owner = _account(seen.st_uid)
        if owner not in (caller.username, actor.username) and not actor.admin:
            raise Refusal(
                "NOT_AN_UPLOADER",
                f"source {names.shown(source)} belongs to {owner}, not to {caller.username}",
                "source",
                {"owner": owner, "user": caller.username},
            )
        return path

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, folder: Path, *, ignore_dot: bool) -> _Source:
        """Find and hash everything."""
        root = self._uploads.content.local_root
        ended = threading.Event()

        def open_tree() -> Tree:
            return Tree(
                str(folder),
                ignore_dot=ignore_dot,
                registry=None if root is None else str(root),
                outside=self._whitelist.covers,
            )

        def walk() -> list[Found]:
            with open_tree() as tree:
                return tree.walk(lambda: not ended.is_set())

        def digest(files: Sequence[Found]) -> list[Digests]:
            with open_tree() as tree:
                return [tree.digests(file, lambda _: not ended.is_set()) for file in files]

        try:
            found = await self._in_thread(walk)
            readable = [file for file in found if file.kind in (Kind.FILE, Kind.OUTSIDE)]
            parts = shares(readable, _READERS)
            digests: dict[str, Digests] = {}
            results = await asyncio.gather(*[self._in_thread(digest, part) for part in parts])
            for part, result in zip(parts, results, strict=True):
                digests |= {file.path: hashed for file, hashed in zip(part, result, strict=True)}
            return await asyncio.to_thread(_announce, folder, found, digests)
        except TreeError as error:
            raise invalid("source", str(error), path=error.path) from error
        except OSError as error:
            raise invalid("source", f"source cannot be read: {error.strerror}") from error
        finally:
            ended.set()

    async def _in_thread(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._uploads.hashing, work, *arguments)

    # --- storing -----------------------------------------------------------------------------------------------------

    async def _store(self, source: _Source, stored: Sequence[int], incoming: Incoming, *, consume: bool) -> None:
        """Put every file that is not there in its place."""
        limit = asyncio.Semaphore(_COPIES)
        outside = [file for file in source.files if file.outside]
        local = self._uploads.content.local_root is not None
        if local and outside:
            # kept as a link to where it is, which is for good
            await incoming.links([(file.path, file.outside) for file in outside])
        async with asyncio.TaskGroup() as group:
            for number in stored:
                await limit.acquire()
                task = group.create_task(_adopt(source, number, incoming, consume=consume))
                task.add_done_callback(lambda _: limit.release())
            for file in () if local else outside:
                await limit.acquire()
                task = group.create_task(self._adopt_outside(file, incoming))
                task.add_done_callback(lambda _: limit.release())

    async def _adopt_outside(self, file: Announced, incoming: Incoming) -> None:
        # once more: since it was found, somebody may have made it, or a folder above it, a link to elsewhere
        end = await asyncio.to_thread(self._whitelist.end_of, file.outside)
        if end is None:
            raise _changed(file)
        folder, real = end
        try:
            adopted = await incoming.adopt(file.path, real, consume=False, within=folder)
        except ContentLost as error:
            raise invalid("source", f"{names.shown(file.path)}: {error}", path=file.path) from error
        if adopted is None or (adopted.size, adopted.md5, adopted.sha256) != (file.size, file.md5, file.sha256):
            raise _changed(file)


async def _adopt(source: _Source, number: int, incoming: Incoming, *, consume: bool) -> None:
    file, found = source.files[number], source.found[number]
    try:
        adopted = await incoming.adopt(
            file.path, source.folder / file.path, consume, within=source.folder, known=found.seen
        )
    except ContentLost as error:
        raise invalid("source", f"{names.shown(file.path)}: {error}", path=file.path) from error
    if adopted is not None and (adopted.size, adopted.md5, adopted.sha256) != (file.size, file.md5, file.sha256):
        raise _changed(file)


def _changed(file: Announced) -> Refusal:
    return invalid("source", f"{names.shown(file.path)}: it changes while it is read", path=file.path)


def _announce(folder: Path, found: Sequence[Found], digests: dict[str, Digests]) -> _Source:
    """Say what was found as an uploader would. Raises Refusal."""
    files: list[Announced] = []
    for item in found:
        try:
            names.check_path(item.path)
            if item.kind is Kind.LOCAL:
                files.append(Announced(item.path, local=item.target))
            elif item.kind is Kind.REGISTRY:
                files.append(Announced(item.path, registry=FileAddress.parse(item.target)))
            elif item.kind is Kind.DIRECTORY:
                files.append(Announced(item.path))
            else:
                hashed = digests[item.path]
                outside = item.target if item.kind is Kind.OUTSIDE else ""
                files.append(Announced(item.path, item.size, hashed.md5, hashed.sha256, outside=outside))
        except ValueError as error:
            raise invalid("source", str(error), path=item.path) from error
    upload_manifest.check(files, len(files))
    return _Source(folder, files, list(found))


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the account number {uid}"


def _remove(folder: Path) -> None:
    """Remove a directory that was consumed. Its content is published: that some of it cannot be removed is no failure."""
    problems: list[str] = []
    shutil.rmtree(folder, onerror=lambda _function, path, error: problems.append(f"{path}: {error[1]}"))
    if problems:
        log.warning("a consumed directory is still there", folder=str(folder), problem=problems[0])
