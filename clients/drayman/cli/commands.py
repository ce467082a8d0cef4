"""All verbs of the command `drayman`, put together."""

from __future__ import annotations

import sys

import click

from drayman.cli.audit import audit
from drayman.cli.demo import demo
from drayman.cli.file import file
from drayman.cli.key import key
from drayman.cli.login import login, logout, whoami
from drayman.cli.project import project
from drayman.cli.role import role
from drayman.cli.rse import rse
from drayman.cli.search import search
from drayman.cli.secret import secret
from drayman.cli.serve import serve_command
from drayman.cli.sessions import session
from drayman.cli.user import user
from drayman.cli.version import version
from drayman.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="drayman", prog_name="drayman")
def drayman() -> None:
    """Hand files to fleets of workers, run tasks over them, keep what they produce.

    DRAYMAN_URL says where the services are (default grpc://127.0.0.1:8600), DRAYMAN_TOKEN or `drayman login` who you are.
    """


drayman.add_command(serve_command)
drayman.add_command(worker)
drayman.add_command(demo)
drayman.add_command(login)
drayman.add_command(logout)
drayman.add_command(whoami)
drayman.add_command(session)
drayman.add_command(version)
drayman.add_command(user)
drayman.add_command(role)
drayman.add_command(audit)
drayman.add_command(key)
drayman.add_command(secret)
drayman.add_command(project)
project.add_command(search)
drayman.add_command(file)
drayman.add_command(rse)


def run() -> None:
    """Run the command line; ends the process."""
    try:
        # what a command ends with by `ctx.exit` comes back as a number
        code = drayman(prog_name="drayman", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as error:
        click.echo(f"drayman: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # who read our output has had enough
        sys.stderr.close()
        sys.exit(0)
