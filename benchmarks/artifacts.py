"""The registry: uploads and downloads beside `cp -r` and one SHA-256 of the same bytes.

What is made of many small files is only removed at the end: after as many were removed, making files seemed slower for some seconds here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from meter import paired
from report import Findings, at_most, say
from scale import Scale
from stack import Stack

from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Quota
from drayman.pygobbler import fetch_directory

_SMALL_FILE = 4 << 10
_BIG_FILES = 4
_TINY = 3  # files of 1 KiB in one of the small uploads


def measure(stack: Stack, scale: Scale) -> Findings:
    """Measure every round in one event loop: the client is this process, the service another one."""
    service = stack.serve()
    folder = Path(tempfile.mkdtemp(prefix="drayman-bench-files-"))
    token = os.environ["DRAYMAN_TOKEN"] = stack.admin_token(service)  # where the mirror looks for it
    try:
        return asyncio.run(_measure(f"grpc://{service.address}", token, folder, scale))
    finally:
        del os.environ["DRAYMAN_TOKEN"]
        shutil.rmtree(folder, ignore_errors=True)


async def _measure(url: str, token: str, folder: Path, scale: Scale) -> Findings:
    seconds: dict[str, list[float]] = {}

    async def timed(what: str, work: Awaitable[object]) -> None:
        begin = time.perf_counter()
        await work
        seconds.setdefault(what, []).append(time.perf_counter() - begin)

    async with RegistryClient(url, token) as registry:
        await registry.create_project("bench", quota=Quota(baseline=1 << 40, growth_rate=0, year=2024))
        for number in range(scale.rounds + 1):  # the first one warms up
            if number == 1:
                seconds.clear()
            small, big = folder / f"small-{number}", folder / f"big-{number}"
            _fill(small, scale.artifact_files, _SMALL_FILE)
            _fill(big, _BIG_FILES, scale.artifact_bytes)
            for name, source in (("small", small), ("big", big)):
                await timed(f"{name} floor", asyncio.to_thread(_floor, source, folder / f"copy-{name}-{number}"))
                await timed(f"{name} first", registry.upload("bench", f"{name}-{number}", "v1", source))
                await timed(f"{name} again", registry.upload("bench", f"{name}-{number}", "v2", source))
            fetched, cache = folder / f"fetched-{number}", folder / f"cache-{number}"
            await timed("small download", registry.download("bench", f"small-{number}", "v1", fetched))
            for turn in ("fetch", "fetch again"):
                await timed(turn, asyncio.to_thread(_fetch, f"bench/small-{number}/v1", url, cache))
            await timed("big download", registry.download("bench", f"big-{number}", "v1", folder / "copy"))
            shutil.rmtree(folder / "copy")
            await timed("entries", _exhaust(lambda n=number: registry.entries("bench", f"small-{n}", "v1")))
            for upload in range(scale.artifact_uploads):
                tiny = folder / f"tiny-{number}-{upload}"
                _fill(tiny, _TINY, 1 << 10)
                await timed("tiny", registry.upload("bench", f"tiny-{number}", f"v{upload}", tiny))
                shutil.rmtree(tiny)
            for each in (big, folder / f"copy-big-{number}"):
                shutil.rmtree(each)
            say(f"  round {number}")
    return _findings(seconds, scale)


def _findings(seconds: dict[str, list[float]], scale: Scale) -> Findings:
    found = Findings()
    files = f"{scale.artifact_files:,} files of 4 KiB"
    for name, what, limit in (
        ("small", files, 3.0),
        ("big", f"{_BIG_FILES} files of {scale.artifact_bytes >> 20} MiB", 1.5),
    ):
        found.add(f"{what}: cp -r and one SHA-256", seconds[f"{name} floor"], ".2f", " s")
        found.add(f"{what}: upload", seconds[f"{name} first"], ".2f", " s")
        ratio = paired(seconds[f"{name} first"], seconds[f"{name} floor"])
        found.add(f"{what}: upload, against cp -r and one SHA-256", ratio, ".1f", "×", at_most(limit, " ×"))
        again = paired(seconds[f"{name} again"], seconds[f"{name} first"])
        found.add(f"{what}: the same again, against the first", again, ".2f", "×", at_most(0.3, " ×"))
    found.add(f"{files}: download", seconds["small download"], ".2f", " s", at_most(0.4, " s"))
    found.add(f"{files}: fetch_directory", seconds["fetch"], ".2f", " s", at_most(0.4, " s"))
    found.add(f"{files}: fetch_directory, what is kept", seconds["fetch again"], ".2f", " s", at_most(0.4, " s"))
    big = f"{_BIG_FILES} files of {scale.artifact_bytes >> 20} MiB"
    found.add(f"{big}: download", seconds["big download"], ".2f", " s")
    ratio = paired(seconds["big download"], seconds["big floor"])
    found.add(f"{big}: download, against cp -r and one SHA-256", ratio, ".1f", "×")
    found.add(f"{files}: manifest", [value * 1e3 for value in seconds["entries"]], ".1f", " ms", at_most(5, " ms"))
    found.add(
        f"upload of {_TINY} files of 1 KiB", [value * 1e3 for value in seconds["tiny"]], ".1f", " ms", at_most(8, " ms")
    )
    return found


def _fill(folder: Path, files: int, size: int) -> None:
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:05d}.bin").write_bytes(os.urandom(size))


def _floor(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    for path in source.iterdir():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def _fetch(path: str, url: str, cache: Path) -> None:
    fetch_directory(path, registry="", url=url, cache=cache, force_remote=True)


async def _exhaust(entries: Callable[[], object]) -> None:
    async for _entry in entries():  # type: ignore[attr-defined] # an async iterator
        pass
