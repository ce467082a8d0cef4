"""How a verb runs: an asyncio client to the end, and every error in one line."""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import click

from drayman.cli.output import Failure, printable
from drayman.client import (
    DEFAULT_URL,
    DraymanError,
    NotOfferedError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)

_Parameters = ParamSpec("_Parameters")

#: Refusals after which another token would not help: what is wrong is what somebody wants to log in with.
_OF_LOGINS = (
    "LOGIN_REFUSED",
    "CERTIFICATE_MISSING",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNTRUSTED",
    "CERTIFICATE_UNREGISTERED",
    "FOREIGN_TOKEN_EXPIRED",
    "FOREIGN_TOKEN_REFUSED",
    "FOREIGN_TOKEN_UNREGISTERED",
)


class Misuse(Failure):
    """A command line that cannot be right: one line, exit code 2."""

    exit_code = 2


def deployment_url() -> str:
    """Return the URL that the clients use, in the form under which the token library keeps its token."""
    return os.environ.get("DRAYMAN_URL") or DEFAULT_URL


def calling(
    verb: Callable[_Parameters, Coroutine[Any, Any, None]],
) -> Callable[_Parameters, None]:
    """Make a command's function out of a coroutine function that calls services.

    What a client raises becomes a Failure. Ctrl-C and a closed pipe stay what they are: `drayman.cli.commands.run` ends on them.
    """

    @functools.wraps(verb)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            asyncio.run(verb(*args, **kwargs))
        except (click.ClickException, BrokenPipeError):
            raise
        except DraymanError as error:
            raise Failure(explain(error)) from error
        except (ValueError, OSError) as error:  # UrlError is a ValueError
            raise Failure(printable(str(error))) from error

    return run


def explain(error: DraymanError) -> str:
    """Say what a client raised, and what would help, in one line."""
    text = printable(error.message)
    if error.field and error.field not in text:
        text = f"{error.field}: {text}"
    if isinstance(error, UnavailableError) and not error.reason:
        return f"cannot reach {deployment_url()}: is it up, and is DRAYMAN_URL right? ({text})"
    hint = ""
    if isinstance(error, UnauthenticatedError) and error.reason not in _OF_LOGINS:
        hint = "; `drayman login USERNAME` gets a token"
        if os.environ.get("DRAYMAN_TOKEN"):
            hint = "; the token is that of DRAYMAN_TOKEN"
    elif isinstance(error, (UnavailableError, OverloadedError)):
        hint = "; try again" if error.retry_after is None else f"; try again in {math.ceil(error.retry_after)} s"
    elif isinstance(error, NotOfferedError):
        hint = f"; {deployment_url()} does not offer it"
    return f"{text} ({error.reason or error.code.name}){hint}"
