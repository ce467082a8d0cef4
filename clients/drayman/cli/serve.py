"""`drayman serve`: run services."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from drayman.cli.output import Failure, print_table


@click.command("serve")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where the embedded PostgreSQL and the first credentials live."
)
@click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 picks a free one.")
@click.option(
    "--until-eof", is_flag=True, help="End when standard input does, for a program that starts its own server."
)
@click.option("--print-config", is_flag=True, help="Print all settings with their variables, and end.")
def serve_command(
    services: tuple[str, ...], data_dir: Path | None, listen: str | None, until_eof: bool, print_config: bool
) -> None:
    """Run SERVICEs (default: all) until SIGTERM or Ctrl-C.

    Prints one line when calls are answered. Without DRAYMAN_DATABASE_URL it starts a PostgreSQL of its own in the data directory. Every
    setting is a DRAYMAN_* variable: see --print-config.
    """
    try:
        from drayman.server.platform.settings import Settings, SettingsError  # noqa: PLC0415 - workers have no server
    except ModuleNotFoundError as error:
        raise Failure(f"serving needs {error.name}: pip install 'drayman[local]'") from error
    try:
        settings = Settings.from_environment(data_dir=data_dir, listen=listen)
    except SettingsError as error:
        raise Failure(str(error)) from error
    if print_config:
        print_table(("variable", "value", "meaning"), settings.shown())
        return
    from drayman.server.serve import StartError  # noqa: PLC0415 - only here
    from drayman.server.serve import serve as run  # noqa: PLC0415 - only here

    def ready(url: str) -> None:
        # whoever started us may have closed the pipe by now
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(f"drayman ready at {url}\n")
            sys.stdout.flush()

    try:
        run(settings, services, ready, until_eof=until_eof)
    except StartError as error:
        raise Failure(str(error)) from error
