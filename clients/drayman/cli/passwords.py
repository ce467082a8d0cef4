"""Passwords: asked for without echo, or read from a pipe; never an argument, which everybody on the machine sees."""

from __future__ import annotations

import sys

import click

from drayman.cli.interrupts import interruptible
from drayman.cli.output import Failure
from drayman.cli.session import Misuse


def read_password(*, from_stdin: bool, new: bool = False) -> str:
    """Return a password: the first line of standard input, or what is typed; a `new` one twice."""
    if sys.stdin is None:
        raise Failure("standard input is closed")
    if not from_stdin and not sys.stdin.isatty():
        raise Misuse("no terminal to ask for the password: use --password-stdin")
    with interruptible():
        password = _first_line() if from_stdin else _ask("New password" if new else "Password", twice=new)
    if not password:
        raise Failure("the password is empty")
    return password


def _first_line() -> str:
    line = sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Failure("the password on standard input is not UTF-8") from error


def _ask(text: str, *, twice: bool) -> str:
    password: str = click.prompt(text, hide_input=True, confirmation_prompt=twice, err=True)
    return password
