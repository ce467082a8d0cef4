"""What a worker does with a file: run a command on it, or compute its SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from drayman.client.files import Handle, Outcome
from drayman.worker.file_loop import Action, Verdict

#: What is kept of a command's output, in bytes.
_KEPT = 64 * 1024
#: Seconds between a polite end of a command and the other one.
_GRACE = 5.0


def location(handle: Handle) -> str:
    """Return where a program finds the file: the path of a `file:` URL, else the first replica's path or URL, else the name."""
    for replica in handle.replicas:
        for url in replica.urls:
            parts = urlsplit(url)
            if parts.scheme == "file" and parts.netloc in ("", "localhost"):
                return os.fsdecode(unquote_to_bytes(parts.path))
    for replica in handle.replicas:
        if replica.path:
            return replica.path
        if replica.urls:
            return replica.urls[0]
    return handle.name


async def checksum(handle: Handle) -> Verdict:
    """Compute the SHA-256 of the file; its hex digits are the output. A file that cannot be read has failed for good."""
    try:
        digest = await asyncio.to_thread(_checksum, Path(location(handle)))
    except OSError as error:
        return Verdict("failed_final", type(error).__name__, str(error))
    return Verdict("done", output=digest)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command(template: Sequence[str], *, final_codes: Collection[int] = ()) -> Action:
    """Return the action that runs a command, without a shell.

    In each word `{file}` stands for the file's location; so do `{did}`, `{namespace}`, `{name}`, `{url}`, `{project}`, `{handle}`,
    `{attempt}` and `{worker}` for what they say. Exit code 0 = done; one of `final_codes` = failed for good; any other = failed, and may
    be tried again.
    Standard output (the first 64 KiB) is the output, the last line of standard error the message.
    """

    async def run(handle: Handle) -> Verdict:
        words = _fill(template, handle)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # so that it can be ended with all its children, and by us alone
            )
        except (OSError, ValueError) as error:
            return Verdict("failed_final", type(error).__name__, f"{words[0]}: {error}")
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            output, errors = await asyncio.gather(_head(process.stdout), _tail(process.stderr))
            code = await process.wait()
        finally:
            await _end(process)
        if code == 0:
            return Verdict("done", output=output)
        lines = errors.split("\n")
        outcome: Outcome = "failed_final" if code in final_codes else "failed_retry"
        what = f"signal {-code}" if code < 0 else f"exit {code}"
        return Verdict(outcome, what, lines[-1] if lines else "", output)

    return run


def _fill(template: Sequence[str], handle: Handle) -> list[str]:
    values = {
        "file": location(handle),
        "did": handle.did,
        "namespace": handle.namespace,
        "name": handle.name,
        "url": next((url for replica in handle.replicas for url in replica.urls), ""),
        "project": str(handle.project_id),
        "handle": str(handle.handle_id),
        "attempt": str(handle.attempts),
        "worker": handle.worker_id or "",
    }
    filled = []
    for word in template:
        # one pass, so that a file's name that looks like a placeholder stays what it is
        parts = []
        rest = word
        while rest:
            before, brace, after = rest.partition("{")
            parts.append(before)
            key, closed, remainder = after.partition("}")
            if brace and closed and key in values:
                parts.append(values[key])
                rest = remainder
            else:
                parts.append(brace)
                rest = after
        filled.append("".join(parts))
    return filled


async def _head(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while block := await stream.read(65536):
        kept += block[: _KEPT - len(kept)]
    return kept.decode(errors="replace")


async def _tail(stream: asyncio.StreamReader) -> str:
    kept = b""
    while block := await stream.read(65536):
        kept = (kept + block)[-1000:]
    return kept.decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command with everything that it started."""
    if process.returncode is not None:
        return
    for how, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(TimeoutError):
            await asyncio.shield(asyncio.wait_for(process.wait(), seconds))
            return
