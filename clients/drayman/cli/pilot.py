"""`drayman pilot`: run jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from pathlib import Path

import click

from drayman.cli.output import Failure, printable
from drayman.cli.session import explain
from drayman.client.channel import UrlError
from drayman.client.errors import DraymanError
from drayman.client.job_values import JobDescription
from drayman.client.pilots import PilotClient
from drayman.client.registry import RegistryClient
from drayman.client.sandboxes import SandboxClient
from drayman.worker.job_run import JobEnd
from drayman.worker.machine import hide_environment, own_platform
from drayman.worker.payload import LOOPING_SECONDS
from drayman.worker.pilot import Offer, Pilot, probe

#: Seconds that a service may be away that never answered.
_FIRST_PATIENCE = 10.0


@click.command()
@click.option("--site", default="", metavar="NAME", help="The site that is offered; jobs may ask for one.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="End after so many jobs; default: never.")
@click.option(
    "--wait", type=click.FloatRange(0), metavar="SECONDS", help="End when no job came for so long; default: never."
)
@click.option("--parallel", type=click.IntRange(1, 1000), default=1, show_default=True, help="Jobs at a time.")
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="Cores for each job.")
@click.option("--memory", type=click.IntRange(0), default=0, metavar="MB", help="Memory for each job; 0 = no limit.")
@click.option("--disk", type=click.IntRange(0), default=0, metavar="MB", help="Scratch space for each; 0 = no limit.")
@click.option("--walltime", type=click.IntRange(0), default=0, metavar="SECONDS", help="The longest job; 0 = any.")
@click.option(
    "--platform", help="The platform that is offered, such as x86_64-el9; default: this machine's; '' = none."
)
@click.option("--label", default="", help="Only jobs with this prodSourceLabel.")
@click.option("--task", "task_id", type=int, default=0, metavar="ID", help="Only jobs of this task.")
@click.option("--software", multiple=True, help="A software cache that is there; may be repeated.")
@click.option("--fetch", default="", metavar="COMMAND", help="How to fetch replicas: {url} and {file} in it.")
@click.option(
    "--container", default="", metavar="COMMAND", help="How to run in a container: {image} and {folder} in it."
)
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False), help="Where jobs get their folders.")
@click.option("--keep", is_flag=True, help="Leave the jobs' folders.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running jobs have to end after SIGTERM.",
)
@click.option(
    "--looping",
    type=click.FloatRange(0),
    default=LOOPING_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Kill a job of which nothing was seen for so long; 0 = never.",
)
@click.option("--worker-id", help="Who works; default: host name, process id and a random part.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def pilot(
    site: str,
    jobs: int | None,
    wait: float | None,
    parallel: int,
    cores: int,
    memory: int,
    disk: int,
    walltime: int,
    platform: str | None,
    label: str,
    task_id: int,
    software: tuple[str, ...],
    fetch: str,
    container: str,
    scratch: Path | None,
    keep: bool,
    grace: float,
    looping: float,
    worker_id: str | None,
    as_json: bool,
) -> None:
    """Take jobs and run them, each in a folder of its own; store what they make.

    Administrators and members of the role `pilot` get anybody's jobs, others their own. On Ctrl-C or SIGTERM no more jobs are taken, and
    those that run have the --grace to end; on the second one they are killed. Exit code 0 unless the service cannot be reached or says no,
    or the scratch folder cannot be written.
    """
    name = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    offer = Offer(
        site=site,
        cores=cores,
        memory_mb=memory,
        disk_mb=disk,
        walltime_seconds=walltime,
        platform=own_platform() if platform is None else platform,
        label=label,
        task_id=task_id,
        software=software,
    )
    place = scratch or Path(tempfile.gettempdir())
    logging.basicConfig(format="drayman: %(message)s", level=logging.WARNING)
    hide_environment()

    async def work() -> None:
        async with PilotClient(patience=_FIRST_PATIENCE) as first:
            await first.update(name, [])
        async with contextlib.AsyncExitStack() as stack:
            pilots = await stack.enter_async_context(PilotClient())
            registry = await stack.enter_async_context(RegistryClient())
            sandboxes = await stack.enter_async_context(SandboxClient())
            running = Pilot(
                pilots,
                registry,
                sandboxes,
                worker_id=name,
                offer=offer,
                scratch=place,
                jobs=jobs,
                wait=wait,
                parallel=parallel,
                grace=grace,
                fetch=fetch,
                container=container,
                looping=looping,
                keep=keep,
                on_begin=lambda job: _say_begin(job, as_json=as_json),
                on_end=lambda end: _say_end(end, as_json=as_json),
            )
            _obey_signals(running)
            await running.run()

    try:
        probe(place)
        asyncio.run(work())
    except DraymanError as error:
        raise Failure(explain(error)) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise Failure(printable(f"{error.strerror or error}{where}")) from error
    except (UrlError, ValueError) as error:
        raise Failure(printable(str(error))) from error


def _obey_signals(running: Pilot) -> None:
    asked = False

    def interrupted() -> None:
        nonlocal asked
        if asked:
            running.abort()
        else:
            asked = True
            print("taking no more jobs; once more to kill those that run", file=sys.stderr)
            running.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)


def _say_begin(job: JobDescription, *, as_json: bool) -> None:
    if as_json:
        begin = {"event": "begin", "PandaID": job.job_id, "jediTaskID": job.task_id, "attemptNr": job.attempt}
        _line(json.dumps(begin))
    else:
        _line(f"job {job.job_id} of task {job.task_id}, attempt {job.attempt}: begins")


def _say_end(end: JobEnd, *, as_json: bool) -> None:
    if as_json:
        said = {
            "event": "end",
            "PandaID": end.job.job_id,
            "jediTaskID": end.job.task_id,
            "attemptNr": end.job.attempt,
            "state": end.state,
            "text": end.text,
            "seconds": round(end.seconds, 3),
        }
        _line(json.dumps(said))
    else:
        text = f": {printable(end.text)}" if end.text else ""
        _line(f"job {end.job.job_id}: {end.state} after {end.seconds:.1f} s{text}")


def _line(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: jobs matter more
        print(text, flush=True)
