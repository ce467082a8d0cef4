"""`drayman worker`: work on a project's files."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TextIO

import click
from rich.console import Console
from rich.status import Status

from drayman.cli.output import Failure, printable
from drayman.cli.session import explain
from drayman.cli.worker_files import COMMANDS
from drayman.client import DispatchClient, DraymanError, ProjectEnded, TimedOut, UrlError
from drayman.worker.actions import checksum, command
from drayman.worker.file_loop import FileLoop, Result


@click.group()
def worker() -> None:
    """Work on files."""


for _command in COMMANDS:
    worker.add_command(_command)


@worker.command()
@click.option("--project", "project_id", type=int, required=True, metavar="ID", help="The project to work on.")
@click.option("-n", "--slots", type=click.IntRange(1, 100), default=1, show_default=True, help="Files at a time.")
@click.option(
    "--prefetch",
    type=click.IntRange(0, 900),
    default=0,
    show_default=True,
    help="Files held ready besides those at work.",
)
@click.option("--worker-id", help="Who works; default: host name, process id and a random part.")
@click.option("--cpu-site", default="", help="CPU site, for the nearest replicas.")
@click.option(
    "--idle-timeout",
    type=float,
    metavar="SECONDS",
    help="End after so long without a file; default: when the project ends.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Give a file up after so many attempts.",
)
@click.option(
    "--final-code", "final_codes", type=int, multiple=True, help="Exit code after which the file is not tried again."
)
@click.option("--results", type=click.Path(path_type=Path), help="Append one JSON object per file to this file.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.argument("words", nargs=-1, metavar="[-- CMD {file}...]")
def run(
    project_id: int,
    slots: int,
    prefetch: int,
    worker_id: str | None,
    cpu_site: str,
    idle_timeout: float | None,
    max_attempts: int,
    final_codes: tuple[int, ...],
    results: Path | None,
    quiet: bool,
    words: tuple[str, ...],
) -> None:
    """Take files of a project and run CMD on each, without a shell; without CMD, compute the SHA-256.

    In CMD, {file} stands for the file's path (or URL, or name), and {did} {namespace} {name} {url} {project} {handle} {attempt} {worker}
    for what they say. Exit code 0 = done, any other = failed, and tried again unless it is a --final-code. On Ctrl-C or SIGTERM files in
    hand are finished; on the second one they are given back. Exit code 0 if every file of this worker was done.
    """
    name = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    action = command(words, final_codes=final_codes) if words else checksum
    with ExitStack() as stack:
        try:
            sink = stack.enter_context(results.open("a", encoding="utf-8")) if results else None
        except OSError as error:
            raise Failure(f"cannot write results: {error}") from error
        book = stack.enter_context(_Book(sink, quiet=quiet))

        async def work() -> ProjectEnded | TimedOut | None:
            async with DispatchClient() as dispatch:
                loop = FileLoop(
                    dispatch,
                    project_id,
                    name,
                    action,
                    slots=slots,
                    prefetch=prefetch,
                    cpu_site=cpu_site,
                    idle_timeout=idle_timeout,
                    max_attempts=max_attempts,
                    on_result=book.note,
                )
                _obey_signals(loop, book)
                return await loop.run()

        try:
            ended = asyncio.run(work())
        except DraymanError as error:
            raise Failure(explain(error)) from error
        except UrlError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            raise Failure(f"cannot write results: {error}") from error
    book.close(ended)
    sys.exit(1 if book.failed else 0)


def _obey_signals(loop: FileLoop, book: _Book) -> None:
    asked = False

    def interrupted() -> None:
        nonlocal asked
        if asked:
            loop.abort()
            return
        asked = True
        book.say("finishing the files in hand; once more gives them back")
        loop.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted)


class _Book:
    """Keeps count of what was done, tells it, and writes results down."""

    def __init__(self, sink: TextIO | None, *, quiet: bool) -> None:
        self.done = 0
        self.failed = 0
        self.retried = 0
        self._sink = sink
        self._quiet = quiet
        self._begin = time.monotonic()
        self._status = Status("waiting for files", console=Console(stderr=True))

    def __enter__(self) -> Self:
        if not self._quiet:
            self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._status.stop()

    def note(self, result: Result) -> None:
        """Take note of a file."""
        outcome = result.verdict.outcome if result.kept else "too late"
        if outcome == "done":
            self.done += 1
        elif outcome == "failed_final":
            self.failed += 1
        else:
            self.retried += 1
        if not self._quiet:
            self._status.update(self._line())
            if outcome != "done":
                self.say(f"{outcome}: {result.handle.did}: {result.verdict.code} {result.verdict.message}".rstrip())
        if self._sink is not None:
            self._sink.write(json.dumps(_record(result, outcome), ensure_ascii=False) + "\n")
            self._sink.flush()

    def say(self, text: str) -> None:
        """Print a line beside the progress."""
        if not self._quiet:
            self._status.console.print(printable(text), markup=False, highlight=False)

    def close(self, ended: ProjectEnded | TimedOut | None) -> None:
        """Say how it went."""
        why = {ProjectEnded: "the project has ended", TimedOut: "no more files for now"}.get(type(ended), "stopped")
        self.say(f"{self._line()}; {why}")

    def _line(self) -> str:
        rate = (self.done + self.failed) / max(time.monotonic() - self._begin, 1e-3)
        again = f", {self.retried} to be tried again" if self.retried else ""
        return f"{self.done} done, {self.failed} failed{again}, {rate:.1f} files/s"


def _record(result: Result, outcome: str) -> dict[str, object]:
    handle, verdict = result.handle, result.verdict
    return {
        "namespace": handle.namespace,
        "name": handle.name,
        "worker": handle.worker_id,
        "attempt": handle.attempts,
        "outcome": outcome,
        "code": verdict.code,
        "message": verdict.message,
        "output": verdict.output,
        "seconds": round(result.seconds, 6),
    }
