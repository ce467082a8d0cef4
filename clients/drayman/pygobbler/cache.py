"""What was fetched from a service: kept in files, and served as long as the service says that it is what it has.

Below the root there is a folder for each URL. In it `REGISTRY/<path>` has the files, `TEMP` what is on its way, and
`SUCCESS/<project>/<asset>/<version>/....OK` what the service said of each file when it was fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

from drayman.pygobbler.errors import RegistryError

_INDEX = "....OK"
_LOCK = "....LOCK"
#: Seconds before looking again whether somebody else is done.
_GLANCE = 0.02


def default_root() -> Path:
    """Folder for the data of this user, as the mirrored client has it."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "gobbler"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "gobbler"


class Cache:
    """The cache of one service. `root` None = in the user's folder."""

    def __init__(self, url: str, root: str | os.PathLike[str] | None = None) -> None:
        self._folder = Path(root if root is not None else default_root()) / quote(url, safe="")
        self.temporary = self._folder / "TEMP"

    def path(self, path: str) -> Path:
        """Where a file or directory of the registry is kept. Raises RegistryError for a path that leads out of the cache."""
        parts = path.rstrip("/").split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise RegistryError(400, f"{path!r}: not a path within a registry")
        return self._folder.joinpath("REGISTRY", *parts)

    def put(self, path: str, content: bytes) -> None:
        """Keep a small file."""
        self._replace(self.path(path), content)

    @contextlib.asynccontextmanager
    async def index(self, version: str) -> AsyncIterator[dict[str, str]]:
        """What the service said of the files of `project/asset/version` that are kept: path within it -> what. Changes are kept.

        One at a time: others wait until what is fetched is there.
        """
        folder = self._success(version)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            # a thread that waited could be the one that the holder needs
            while not _locked(lock):  # noqa: ASYNC110 - other processes tell no event
                await asyncio.sleep(_GLANCE)
            known = _read(folder / _INDEX)
            before = dict(known)
            try:
                yield known
            finally:
                if known != before:
                    self._replace(folder / _INDEX, json.dumps(known, ensure_ascii=False).encode())

    def _replace(self, target: Path, content: bytes) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=self.temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(made).replace(target)
        except BaseException:
            Path(made).unlink(missing_ok=True)
            raise

    def _success(self, version: str) -> Path:
        return self._folder / "SUCCESS" / self.path(version).relative_to(self._folder / "REGISTRY")


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # a damaged one knows nothing
        return {}
    return {name: said for name, said in found.items() if isinstance(said, str)} if isinstance(found, dict) else {}
