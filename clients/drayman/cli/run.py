"""`drayman run`: run a command over inputs, in jobs, and see how it goes. Its options are those of `prun`."""

from __future__ import annotations

import shlex
import sys
from contextlib import AsyncExitStack
from typing import Any

import click

from drayman.cli.output import Failure, json_option, print_json, printable
from drayman.cli.session import Misuse, calling, explain
from drayman.cli.values import plain
from drayman.prun import endings
from drayman.prun.options import GROUPS, Kind, Option, Options
from drayman.prun.records import with_loaded


def _prun_options(command: Any) -> Any:
    for group in reversed(GROUPS):
        for option in reversed(group.options):
            command = _click_option(option)(command)
    return command


def _click_option(option: Option) -> Any:
    about = option.about.replace("%%", "%")
    text = f"{about[0].upper()}{about[1:]}."
    if option.kind is Kind.FLAG:
        names = (f"--{option.name}", "-v") if option.name == "verbose" else (f"--{option.name}",)
        return click.option(*names, option.name, is_flag=True, default=None, help=text)
    # texts all: `Options` reads them
    return click.option(
        f"--{option.name}", option.name, metavar=option.value, multiple=option.kind is Kind.WORDS, help=text
    )


@click.command(context_settings={"max_content_width": 120})
@_prun_options
@click.option("--follow/--no-follow", "following", default=True, help="Show how it goes on until it is over; default.")
@json_option
@calling
async def run(following: bool, as_json: bool, **given: Any) -> None:
    """Run a command over inputs, in jobs: --exec, --outDS, and --inDS or --nJobs say what, over what, and where to.

    This folder is packed and sent along: jobs find its content in theirs. Files over --maxFileSize stay here. There is no build job unless
    --bexec is given.

    Exit code 0 if it was done; with --no-follow, if it was accepted.
    """
    # what it needs is imported when it is needed: --help is not
    from drayman.client.sandboxes import SandboxClient  # noqa: PLC0415
    from drayman.client.tasks import TaskClient  # noqa: PLC0415
    from drayman.prun.submission import Clients, submit  # noqa: PLC0415

    try:
        options = with_loaded(Options({name: value for name, value in given.items() if value not in (None, ())}))
        async with AsyncExitStack() as stack:
            made: list[Clients] = []

            def clients() -> Clients:
                if not made:
                    made.append(Clients(SandboxClient(), TaskClient()))
                    stack.push_async_exit(made[0].sandboxes)
                    stack.push_async_exit(made[0].tasks)
                return made[0]

            def say(text: str, matters: bool) -> None:
                if matters or options.flag("verbose"):
                    click.echo(printable(text), err=True)

            command_line = shlex.join(["drayman", *sys.argv[1:]])
            answer = await submit(options, clients, command_line=command_line, say=say, explain=explain)
            if answer is None:
                return
            if not as_json:
                click.echo(printable(answer.message))
            if following:
                from drayman.cli.task_watch import follow  # noqa: PLC0415 - see above

                if (await follow(clients().tasks, answer.task_id, as_json=as_json)).state != "done":
                    sys.exit(1)
            elif as_json:
                print_json(plain(answer))
    except endings.ConfigurationError as error:
        raise Misuse(str(error)) from error
    except endings.Failure as error:
        raise Failure(str(error)) from error
