"""The whole command: which words lead where, and how a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from drayman.cli.printable import printable
from drayman.data_dispatcher.api import APIError
from drayman.ddisp.client import Client
from drayman.ddisp.command import HELP_WORDS, Command, Group, Option, Options, read_options
from drayman.ddisp.endings import Answer, Misuse, Refusal
from drayman.ddisp.file import FILE
from drayman.ddisp.login import LOGIN
from drayman.ddisp.output import print_line
from drayman.ddisp.project import PROJECT
from drayman.ddisp.rse import RSE
from drayman.ddisp.version import VERSION
from drayman.ddisp.worker import WORKER

DDISP = Group(
    "DATA_DISPATCHER_URL (or DRAYMAN_URL) says where the services are: grpc://host:port, grpcs:// for TLS.",
    {"login": LOGIN, "version": VERSION, "project": PROJECT, "file": FILE, "worker": WORKER, "rse": RSE},
    (
        Option("s", "<URL>", "the server; default DATA_DISPATCHER_URL, then DRAYMAN_URL"),
        Option("a", "<URL>", "where logins go; default DATA_DISPATCHER_AUTH_URL, then the server"),
    ),
)


def run(words: list[str]) -> int:
    """Run a command line and return its exit code: 0, 1 if something was refused or is not there, 2 for wrong usage."""
    try:
        code = _guarded(lambda: _run(words))
    except BrokenPipeError:
        # who read our output has had enough; nor must Python complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _run(words: list[str]) -> None:
    command: Command | Group = DDISP
    name = "ddisp"
    settings: dict[str, str] = {}
    while isinstance(command, Group):
        if words and words[0] in HELP_WORDS:
            print_line(command.help(name))
            return
        options, words = read_options(name, command.options, words)
        settings |= options
        if not words:
            raise Misuse(f"a command is needed: {', '.join(command.members)}; see `{name} help`")
        word, *words = words
        if word in HELP_WORDS:
            print_line(command.help(name))
            return
        found = command.members.get(word)
        if found is None:
            known = ", ".join(command.members)
            raise Misuse(f"no command {word!r}: expected one of {known}; see `{name} help`")
        command, name = found, f"{name} {word}"
    if words and words[0] in HELP_WORDS:
        print_line(command.help(name))
        return
    options, operands = command.read(name, words)
    client = _client(settings)
    client.patience = command.patience
    try:
        command.run(client, options, operands)
    finally:
        client.close()


def _client(settings: Options) -> Client:
    url = settings.get("s") or os.environ.get("DATA_DISPATCHER_URL") or os.environ.get("DRAYMAN_URL")
    if not url:
        raise Misuse("no server: give -s <URL>, or set DATA_DISPATCHER_URL or DRAYMAN_URL")
    return Client(url, settings.get("a"))


def _guarded(action: Callable[[], None]) -> int:
    try:
        try:
            action()
        except Answer as answer:
            print_line(answer)
            return 1
        finally:
            sys.stdout.flush()
    except Refusal as refusal:
        return _refused(str(refusal), refusal.code)
    except APIError as error:
        return _refused(_explained(error), 1)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:  # a bad URL, a file that is not there, text that is no UTF-8
        return _refused(str(error), 1)
    return 0


def _explained(error: APIError) -> str:
    if error.StatusCode == 401 and not error.Message.startswith("Authentication failed"):
        return f"{error.Message} (401); `ddisp login <user>` gets a token"
    if error.StatusCode == 503:
        return f"cannot reach {error.URL} ({error.Message})"
    return f"{error.Message} ({error.StatusCode})"


def _refused(text: str, code: int) -> int:
    sys.stderr.write(f"ddisp: {printable(' '.join(text.split()))}\n")
    return code
