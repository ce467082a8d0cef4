"""Brings the inputs of a job into its folder: from the registry, from replicas of dispatch, or from where they lie."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import shutil
import signal
import threading
import urllib.request
import zlib
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

from drayman.client.errors import DraymanError
from drayman.client.job_values import JobFile
from drayman.client.registry import RegistryClient
from drayman.worker.job_error import STAGE_IN_FAILED, JobError
from drayman.worker.persistence import persist

_BLOCK = 1 << 20
#: Seconds that a server may say nothing while a file is fetched from it.
_SILENCE = 60.0
_AT_ONCE = 4
_FETCHED_BY_HTTP = ("http", "https")


class StageIn:
    """Brings files. `fetch` is a command for URLs that this module does not know (`root:` and the like): `{url}` and `{file}` in it."""

    def __init__(self, registry: RegistryClient, fetch: str = "") -> None:
        self._registry = registry
        self._fetch = fetch

    async def bring(self, files: Sequence[JobFile], folder: Path) -> None:
        """Bring files into a folder, each under its name. Raises JobError if one cannot be had, or is not what it should be.

        What has neither a place in the registry nor a URL is named for the program to open by itself, and left alone.
        """
        names: set[str] = set()
        limit = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for file in files:
                if file.name in names:  # several windows of one file
                    continue
                names.add(file.name)
                if file.registry or file.urls:
                    group.create_task(self._bring(file, _target(folder, file.name), limit))

    async def _bring(self, file: JobFile, target: Path, limit: asyncio.Semaphore) -> None:
        async with limit:
            problems = []
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # an input goes before a file of the sandbox
                if file.registry:
                    await self._from_registry(file, target)
                    return
                for url in file.urls:
                    try:
                        await self._from_url(url, target, file.size)
                        await asyncio.to_thread(_check, file, target)
                        return
                    except (OSError, ValueError, HTTPException) as error:
                        problems.append(f"{url}: {error or type(error).__name__}")
                        target.unlink(missing_ok=True)
            except (DraymanError, OSError, ValueError) as error:
                problems.append(str(error))
        raise JobError(STAGE_IN_FAILED, f"input {file.name} cannot be had: {'; '.join(problems)}")

    async def _from_registry(self, file: JobFile, target: Path) -> None:
        project, asset, version, path = file.registry.split("/", 3)
        whole = target.parent / f".{target.name}.from-registry"
        try:
            # verified as it arrives
            await persist(lambda: self._registry.download(project, asset, version, whole, path=path))
            (whole / path).rename(target)
        finally:
            await asyncio.to_thread(shutil.rmtree, whole, ignore_errors=True)

    async def _from_url(self, url: str, target: Path, size: int) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("", "file") and parts.netloc in ("", "localhost"):
            source = Path(os.fsdecode(unquote_to_bytes(parts.path)) if parts.scheme else url)
            if not source.is_file():
                raise FileNotFoundError("there is no such file here")
            target.symlink_to(source.absolute())
        elif self._fetch:
            await self._by_command(url, target)
        elif parts.scheme in _FETCHED_BY_HTTP:
            await fetch(url, target, size)
        else:
            raise ValueError(f"no way to fetch a {parts.scheme}: URL: give the pilot a --fetch command")

    async def _by_command(self, url: str, target: Path) -> None:
        words = [word.replace("{url}", url).replace("{file}", str(target)) for word in shlex.split(self._fetch)]
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the pilot, who then ends it
        )
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"{words[0]} ended with {process.returncode}: {''.join(last)}")
        if not target.is_file():
            raise OSError(f"{words[0]} brought no file")


def _target(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise JobError(STAGE_IN_FAILED, f"input {name!r} has a name that leads out of the job's folder")
    return folder / path


async def fetch(url: str, target: Path, size: int = 0) -> None:
    """Fetch a file by HTTP; no more than `size` bytes, unless that is 0. Raises OSError, ValueError, HTTPException."""
    given_up = threading.Event()
    try:
        await asyncio.to_thread(_by_http, url, target, size, given_up)
    finally:
        given_up.set()


def _by_http(url: str, target: Path, size: int, given_up: threading.Event) -> None:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - the scheme was looked at
    with urllib.request.urlopen(request, timeout=_SILENCE) as reply, target.open("wb") as file:  # noqa: S310 - as above
        come = 0
        while not given_up.is_set() and (block := reply.read(_BLOCK)):
            come += len(block)
            if size and come > size:
                raise ValueError(f"it has more than the {size} bytes that were expected")
            file.write(block)
        _check_length(reply, come)


def _check_length(reply: HTTPResponse, come: int) -> None:
    announced = reply.headers.get("Content-Length", "")
    if announced.isdecimal() and come < int(announced):
        raise ConnectionError(f"the server broke off after {come} of {announced} bytes")


def _check(file: JobFile, target: Path) -> None:
    """Raise ValueError for a file that is not what it should be."""
    size = target.stat().st_size
    if file.size and size != file.size:
        raise ValueError(f"it has {size} bytes where {file.size} were expected")
    kind, _, expected = file.checksum.partition(":")
    if not expected:
        return
    with target.open("rb") as opened:
        if kind in ("md5", "sha256"):
            found = hashlib.file_digest(opened, kind).hexdigest()
        elif kind in ("ad", "adler32"):
            sum32 = 1
            while block := opened.read(_BLOCK):
                sum32 = zlib.adler32(block, sum32)
            found, expected = f"{sum32:08x}", expected.rjust(8, "0")
        else:
            return
    if found != expected.lower():
        raise ValueError(f"its {kind} is {found} where {expected} was expected")
