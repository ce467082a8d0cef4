"""How a folder becomes a version."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from drayman.client.errors import DraymanError
from drayman.client.registry import RegistryClient
from drayman.client.registry_tree import TreeError
from drayman.pygobbler.connections import CONNECTIONS
from drayman.pygobbler.errors import RegistryError

#: What the service of the mirrored interface answers if something in a folder cannot be uploaded.
_TROUBLE = 500


def allocate_upload_directory(staging: str, create: bool = True) -> str:
    """Make a new folder in `staging`, to be filled and uploaded; returns its path. Without `create` it is only a free name."""
    path = Path(tempfile.mkdtemp(dir=staging))
    path.rmdir()  # it was made for its user alone
    if create:
        path.mkdir()
    return str(path)


def upload_directory(
    project: str,
    asset: str,
    version: str,
    directory: str,
    staging: str,
    url: str,
    probation: bool = False,
    consume: bool | None = None,
    ignore_dot: bool = True,
    spoof: str | None = None,
    concurrent: int = 1,
) -> None:
    """Upload a folder as a new version.

    A folder directly below the service's `staging` is taken from there, if it is the caller's; any other one is sent, file by file as the
    registry lacks them. `consume` lets a folder below `staging` be emptied: its files may be moved. Any other folder stays as it is.
    `ignore_dot` leaves out what begins with a dot. `concurrent` has no meaning: one stream is as fast as it gets.

    Raises FileNotFoundError or NotADirectoryError for what is no folder, and RegistryError for what cannot be uploaded.
    """
    folder = os.path.normpath(directory)
    if not Path(folder).is_dir():
        os.scandir(folder).close()  # says what is wrong
    staged = _below(folder, os.path.normpath(staging))
    upload = _Upload(project, asset, version, probation, ignore_dot, spoof or "")

    async def run(client: RegistryClient) -> None:
        info = await client.info()
        shared = _same_folder(info.staging, staging)
        if shared and staged is not None and "/" not in staged and await upload.staged(client, staged, bool(consume)):
            return
        try:
            await upload.streamed(client, folder, info.registry)
        except TreeError as error:
            if not (shared and Path(folder, error.path).is_symlink()):
                raise
            # the service knows to which folders links may lead
            if not await upload.copied(client, folder, staging):
                raise
        if staged is not None and consume:
            _remove_files(Path(folder), ignore_dot=ignore_dot)

    try:
        CONNECTIONS.run(url, run)
    except TreeError as error:
        raise RegistryError(_TROUBLE, str(error)) from error


@dataclass(frozen=True)
class _Upload:
    """What is to become of a folder, and the ways to get there."""

    project: str
    asset: str
    version: str
    probation: bool
    ignore_dot: bool
    spoof: str

    async def staged(self, client: RegistryClient, source: str, consume: bool) -> bool:
        """Upload a directory of the staging folder; False if the service does not take it from there."""
        try:
            await client.upload_staged(
                self.project,
                self.asset,
                self.version,
                source,
                on_probation=self.probation,
                consume=consume,
                ignore_dot=self.ignore_dot,
                spoof=self.spoof,
            )
        except DraymanError as error:
            if error.reason == "NOT_OFFERED":
                return False
            if error.field != "source":
                raise
            if "path" in error.metadata:
                raise RegistryError(_TROUBLE, error.message) from error
            return False
        return True

    async def streamed(self, client: RegistryClient, folder: str, registry: str) -> None:
        """Upload a folder by a stream. Raises TreeError."""
        await client.upload(
            self.project,
            self.asset,
            self.version,
            folder,
            on_probation=self.probation,
            ignore_dot=self.ignore_dot,
            registry=registry,
            spoof=self.spoof,
            with_documents=True,
        )

    async def copied(self, client: RegistryClient, folder: str, staging: str) -> bool:
        """Upload a copy in the staging folder, links as they are; False if the service does not take it."""
        copy = allocate_upload_directory(staging)
        try:
            await asyncio.to_thread(shutil.copytree, folder, copy, symlinks=True, dirs_exist_ok=True)
            return await self.staged(client, Path(copy).name, consume=True)
        except shutil.Error as error:
            raise RegistryError(_TROUBLE, f"{folder} cannot be copied: {error}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)


def _below(folder: str, staging: str) -> str | None:
    """Path of a folder within the staging folder; None if it is not in there."""
    prefix = staging.rstrip("/") + "/"
    return folder[len(prefix) :] if folder.startswith(prefix) else None


def _same_folder(path: str, other: str) -> bool:
    try:
        return bool(path) and Path(path).samefile(other)
    except OSError:
        return False


def _remove_files(folder: Path, *, ignore_dot: bool) -> None:
    """Remove the files that were uploaded; links, folders and what was left out stay."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith("." if ignore_dot else "..")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith("." if ignore_dot else "..") and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
