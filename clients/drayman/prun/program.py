"""The whole command: how a run goes, and how it ends."""

from __future__ import annotations

import os
import shlex
import sys

from drayman.cli.printable import printable
from drayman.prun.command_line import read_command_line
from drayman.prun.endings import Failure
from drayman.prun.options import Options
from drayman.prun.records import with_loaded


def run(words: list[str]) -> int:
    """Run a command line and return its exit code: 0, or that of the Failure (section 12.2)."""
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()
    except Failure as failure:
        sys.stderr.write(f"prun: {printable(' '.join(str(failure).split()))}\n")
        return failure.code
    except BrokenPipeError:
        # who read our output has had enough; nor must Python complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    options = with_loaded(read_command_line(words))
    import asyncio  # noqa: PLC0415 - help and mistakes need none of this

    asyncio.run(_submit(options, shlex.join(["prun", *words])))
    return 0


async def _submit(options: Options, command_line: str) -> None:
    from contextlib import AsyncExitStack  # noqa: PLC0415 - as above

    from drayman.client.channel import UrlError  # noqa: PLC0415 - as above
    from drayman.client.errors import DraymanError  # noqa: PLC0415 - as above
    from drayman.client.sandboxes import SandboxClient  # noqa: PLC0415 - as above
    from drayman.client.tasks import TaskClient  # noqa: PLC0415 - as above
    from drayman.prun.connection import connection, explained  # noqa: PLC0415 - as above
    from drayman.prun.endings import ConfigurationError, SubmissionError  # noqa: PLC0415 - as above
    from drayman.prun.submission import Clients, submit  # noqa: PLC0415 - as above

    def say(text: str, matters: bool) -> None:
        if matters or options.flag("verbose"):
            sys.stderr.write(f"prun: {printable(text)}\n")

    async with AsyncExitStack() as stack:
        made: list[Clients] = []

        def clients() -> Clients:
            if not made:
                place = connection()
                sandboxes = SandboxClient(place.url, place.token)
                tasks = TaskClient(place.url, place.token)
                stack.push_async_exit(sandboxes)
                stack.push_async_exit(tasks)
                made.append(Clients(sandboxes, tasks))
            return made[0]

        try:
            answer = await submit(options, clients, command_line=command_line, say=say, explain=explained)
        except DraymanError as error:  # no token to be had
            raise SubmissionError(explained(error)) from error
        except UrlError as error:
            raise ConfigurationError(str(error)) from error
    if answer is not None:
        sys.stdout.write(f"INFO : {printable(answer.message)}\n")
