"""All verbs of the command `drayman`, put together."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

#: Verb -> module that has it. Only the verb that is called is imported: a command begins in half the time.
_VERBS: Mapping[str, str] = {
    "serve": "drayman.cli.serve:serve_command",
    "worker": "drayman.cli.worker:worker",
    "demo": "drayman.cli.demo:demo",
    "login": "drayman.cli.login:login",
    "logout": "drayman.cli.login:logout",
    "whoami": "drayman.cli.login:whoami",
    "version": "drayman.cli.version:version",
    "session": "drayman.cli.sessions:session",
    "user": "drayman.cli.user:user",
    "role": "drayman.cli.role:role",
    "secret": "drayman.cli.secret:secret",
    "key": "drayman.cli.key:key",
    "audit": "drayman.cli.audit:audit",
    "project": "drayman.cli.project:project",
    "file": "drayman.cli.file:file",
    "rse": "drayman.cli.rse:rse",
    "registry": "drayman.cli.registry:registry",
    "run": "drayman.cli.run:run",
    "task": "drayman.cli.task:task",
    "job": "drayman.cli.job:job",
    "pilot": "drayman.cli.pilot:pilot",
}


class _Verbs(click.Group):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Name the verbs."""
        return list(_VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import a verb; None if there is none of this name."""
        if name not in _VERBS:
            return None
        module, _, attribute = _VERBS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="drayman", prog_name="drayman")
def drayman() -> None:
    """Hand files to fleets of workers, run tasks over them, keep what they produce.

    DRAYMAN_URL says where the services are (default grpc://127.0.0.1:8600), DRAYMAN_TOKEN or `drayman login` who you are.
    """


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
