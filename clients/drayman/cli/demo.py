"""`drayman demo`: the main job, from nothing, on real files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from drayman.cli.output import Failure, print_table, printable
from drayman.client import AuthClient, DispatchClient, DraymanError, File, Project, Replica, Rse
from drayman.testing.service_process import ServiceProcess

_START_SECONDS = 60.0
_POLL_SECONDS = 0.2
_SLOTS = 4
_NAMESPACE = "demo"
_RSE = "LOCAL_DISK"


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("/usr/share/doc"), show_default=True)
@click.option("--workers", type=click.IntRange(1, 256), default=4, show_default=True, help="Worker processes.")
@click.option(
    "--command", "template", default="", metavar="CMD", help="Run on each {file}; default: compute its SHA-256."
)
def demo(folder: Path, workers: int, template: str) -> None:
    """Hand every regular file under a folder to worker processes.

    Starts a server with a PostgreSQL of its own in a temporary folder, makes a project out of the files, runs workers until it ends, checks
    what they found against a plain walk of the folder, and leaves nothing behind. Ctrl-C stops everything.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise Failure(f"--command {template!r}: {error}") from error
    if words and "{file}" not in template:
        words.append("{file}")
    found = list(_walk(folder))
    if not found:
        raise Failure(f"{folder}: no regular files that can be read")
    # PostgreSQL may run under another account, which has to get there
    home = Path(tempfile.mkdtemp(prefix="drayman-demo-"))
    try:
        with contextlib.ExitStack() as stack:
            right = asyncio.run(_Demo(home, found, workers, words, stack).run())
    finally:
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(0 if right else 1)


def _walk(folder: Path) -> Iterator[Path]:
    """Find the regular files that we may read; links are not followed."""
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder")
    for parent, _, names in os.walk(folder.absolute()):
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path


@dataclass
class _Demo:
    home: Path
    found: list[Path]
    workers: int
    words: list[str]
    stack: contextlib.ExitStack
    console: Console = field(default_factory=Console)

    async def run(self) -> bool:
        """Do it all; whether everything came out right."""
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        self.console.print(f"starting a server with a PostgreSQL of its own ({len(self.found)} files to hand out)")
        url = await asyncio.to_thread(self._start_server)
        if stopped.is_set():
            return self._interrupted()
        try:
            async with AuthClient(url) as auth:
                stored = json.loads((self.home / "data" / "admin-credentials").read_text())
                await auth.login(stored["username"], stored["password"])
                token = (await auth.issue_token(stored["username"])).token  # a login's is an hour's
            async with DispatchClient(url, token) as dispatch:
                project = await self._create_project(dispatch)
                fleet = self._start_workers(url, token, project.project_id)
                begin = time.monotonic()
                project = await self._follow(dispatch, project, fleet, stopped)
                seconds = time.monotonic() - begin
        except DraymanError as error:
            raise Failure(str(error)) from error
        await asyncio.to_thread(_end_all, fleet)
        results = self._read_results()
        self._table(results, seconds)
        if stopped.is_set():
            return self._interrupted()
        return self._check(project, results)

    def _start_server(self) -> str:
        arguments = ["--data-dir", str(self.home / "data"), "--listen", "127.0.0.1:0"]
        server = ServiceProcess(arguments, {}, self.home / "server.log")
        self.stack.callback(server.terminate)
        try:
            return server.await_ready(_START_SECONDS)
        except RuntimeError as error:
            raise Failure(str(error)) from error

    async def _create_project(self, dispatch: DispatchClient) -> Project:
        begin = time.monotonic()
        await dispatch.create_rse(Rse(_RSE, "this machine's disk"))
        replicas = (
            Replica(
                _NAMESPACE, _name(path), _RSE, urls=(f"file://{quote_from_bytes(os.fsencode(path))}",), path=_path(path)
            )
            for path in self.found
        )
        await dispatch.update_replicas(replicas)
        files = (File(_NAMESPACE, _name(path)) for path in self.found)
        project = await dispatch.create_project(files, attributes={"demo": True}, worker_timeout=300)
        seconds = time.monotonic() - begin
        self.console.print(f"project {project.project_id} with {project.counts.total} files created in {seconds:.2f} s")
        return project

    def _start_workers(self, url: str, token: str, project_id: int) -> list[subprocess.Popen[bytes]]:
        fleet = []
        for number in range(1, self.workers + 1):
            options = ["--project", str(project_id), "-n", str(_SLOTS), "--worker-id", f"worker-{number}", "--quiet"]
            options += ["--results", str(self.home / f"results-{number}.jsonl")]
            with (self.home / f"worker-{number}.log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    [sys.executable, "-m", "drayman", "worker", "run", *options, "--", *self.words],
                    env=os.environ | {"DRAYMAN_URL": url, "DRAYMAN_TOKEN": token},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for us, who then end them
                )
            fleet.append(process)
            self.stack.callback(_end_all, [process])
        self.console.print(f"{self.workers} workers, {_SLOTS} files at a time each")
        return fleet

    async def _follow(
        self, dispatch: DispatchClient, project: Project, fleet: list[subprocess.Popen[bytes]], stopped: asyncio.Event
    ) -> Project:
        columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[rate]}"), console=self.console) as progress:
            task = progress.add_task("files", total=project.counts.total, rate="")
            begin = time.monotonic()
            last = project
            async for last in _states(dispatch, project.project_id, stopped):
                over = last.counts.done + last.counts.failed
                rate = over / max(time.monotonic() - begin, 1e-3)
                progress.update(task, completed=over, rate=f"{rate:.0f} files/s, {last.counts.failed} failed")
                if all(process.poll() is not None for process in fleet) and last.state == "active":
                    raise Failure(f"all workers ended too early: {self._worker_trouble()}")
        return last

    def _worker_trouble(self) -> str:
        texts = [path.read_text(errors="replace").strip() for path in sorted(self.home.glob("worker-*.log"))]
        return next((text.splitlines()[-1] for text in texts if text), "they said nothing")

    def _read_results(self) -> list[dict[str, str]]:
        results = []
        for path in sorted(self.home.glob("results-*.jsonl")):
            results += [json.loads(line) for line in path.read_text().splitlines()]
        return results

    def _table(self, results: list[dict[str, str]], seconds: float) -> None:
        done = Counter(result["worker"] for result in results if result["outcome"] == "done")
        failed = Counter(result["worker"] for result in results if result["outcome"] == "failed_final")
        names = [f"worker-{number}" for number in range(1, self.workers + 1)]
        rows = [(name, done[name], failed[name], f"{(done[name] + failed[name]) / seconds:.0f}") for name in names]
        total = done.total() + failed.total()
        rows.append(("all", done.total(), failed.total(), f"{total / seconds:.0f}"))
        self.console.print()
        print_table(("worker", "done", "failed", "files/s"), rows)

    def _check(self, project: Project, results: list[dict[str, str]]) -> bool:
        """Compare with a plain walk; each file must have come out exactly once."""
        over = [result for result in results if result["outcome"] in ("done", "failed_final")]
        times = Counter(result["name"] for result in over)
        wrong = [name for name in map(_name, self.found) if times[name] != 1]
        self.console.print(f"project {project.project_id} is {project.state}")
        if wrong:
            self.console.print(
                f"WRONG: {len(wrong)} files did not come out exactly once, {printable(wrong[0])} among them",
                markup=False,
            )
            return False
        if self.words:
            self.console.print(f"each of the {len(self.found)} files came out exactly once")
            return project.state == "done"
        outputs = {result["name"]: result["output"] for result in over}
        different = [path for path in self.found if _digest(path) != outputs[_name(path)]]
        if different:
            self.console.print(
                f"WRONG: {len(different)} digests differ, of {printable(str(different[0]))} among them", markup=False
            )
            return False
        self.console.print(f"all {len(self.found)} digests are those of a plain walk")
        return project.state == "done"

    def _interrupted(self) -> bool:
        self.console.print("stopped; everything is cleaned up")
        raise click.Abort


async def _states(dispatch: DispatchClient, project_id: int, stopped: asyncio.Event) -> AsyncIterator[Project]:
    """Yield the project a few times a second, until it has ended or we were stopped."""
    while True:
        project = await dispatch.get_project(project_id)
        yield project
        if project.state != "active" or stopped.is_set():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), _POLL_SECONDS)


def _end_all(fleet: list[subprocess.Popen[bytes]]) -> None:
    """Let workers finish what they have in hand for a moment, then have them give it back."""
    for seconds in (3.0, 10.0):
        for process in fleet:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + seconds
        for process in fleet:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    for process in fleet:
        if process.poll() is None:
            process.kill()
            process.wait()


def _name(path: Path) -> str:
    """Return the path as a name. A DID is UTF-8, a path need not be."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        return quote(os.fsencode(path))


def _path(path: Path) -> str | None:
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        return None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
