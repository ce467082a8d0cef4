"""The command line of `prun`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from drayman.prun.endings import ConfigurationError
from drayman.prun.options import GROUPS, Kind, Options

_ABOUT = """Run a command over inputs, in jobs.

The folder is packed and sent along; jobs find its content in theirs. DRAYMAN_URL (or PANDA_URL_SSL, PANDA_URL) says where the services are.
The new task's number is printed: `pbook show NUMBER`, or `drayman task watch NUMBER`, tells how it goes on.
"""


class _Parser(argparse.ArgumentParser):
    """One that leaves ending the process to others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see `prun --help`")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    made = _Parser(
        prog="prun",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=None,
        add_help=False,
    )
    made.add_argument("-h", "--help", action="help", help="show this and end")
    made.add_argument("--version", action="version", version=f"prun of drayman {metadata.version('drayman')}")
    for group in GROUPS:
        section = made.add_argument_group(group.title)
        for option in group.options:
            names = [f"--{option.name}", *(["-v"] if option.name == "verbose" else [])]
            if option.kind is Kind.FLAG:
                section.add_argument(*names, dest=option.name, action="store_true", default=None, help=option.about)
            else:
                # texts all: options of a file are read in the same way
                action = "append" if option.kind is Kind.WORDS else "store"
                section.add_argument(*names, dest=option.name, action=action, metavar=option.value, help=option.about)
    return made


def read_command_line(words: Sequence[str]) -> Options:
    """Read what was given. Raises ConfigurationError; ends the process for --help and --version."""
    return Options(vars(parser().parse_args(list(words))))
