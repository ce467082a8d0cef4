"""`ddisp login`: get a token and keep it in the token library."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from drayman.client.bearer_discovery import BearerTokenError, discover_bearer_token
from drayman.ddisp.client import Client
from drayman.ddisp.command import Command, Option, Options
from drayman.ddisp.endings import Misuse, Refusal
from drayman.ddisp.output import print_line
from drayman.ddisp.values import one_of

_MECHANISMS = ("password", "x509", "token")


def _login(client: Client, options: Options, operands: list[str]) -> None:
    mechanism = one_of(options.get("m", "password"), _MECHANISMS, "m")
    if "m" not in options and len(operands) > 1 and operands[0] in ("password", "x509"):
        mechanism, operands = operands[0], operands[1:]  # how it was written before there was -m
    user, credentials = operands[0], operands[1:]
    if len(credentials) > (2 if mechanism == "x509" else 0):
        raise Misuse(f"{credentials[-1]!r} is too much; see `ddisp login help`")
    if mechanism == "x509":
        if not credentials:
            raise Misuse("a certificate or proxy file is needed: ddisp login -m x509 <user> <cert> [<key>]")
        name, expires = client.login_x509(user, *credentials)
    elif mechanism == "token":
        name, expires = client.login_token(user, _token(options.get("t"), os.environ))
    else:
        name, expires = client.login_password(user, _password())
    if client.TokenLib.get(client.ServerURL or "") is None:
        raise Refusal("logged in, but the token is not kept: no token library can be read or written")
    print_line(f"User:    {name}")
    print_line(f"Expires: {time.ctime(expires)}")
    if os.environ.get("DRAYMAN_TOKEN"):
        sys.stderr.write("ddisp: DRAYMAN_TOKEN is set and goes before this login\n")


def _password() -> str:
    """Ask for a password without echo; without a terminal, read the first line of standard input. Raises Refusal."""
    if sys.stdin is None:
        raise Refusal("standard input is closed")
    try:
        password = getpass.getpass("Password:") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    except EOFError:
        password = ""
    if not password:
        raise Refusal("the password is empty")
    return password


def _token(given: str | None, environment: Mapping[str, str]) -> str:
    """Return the token to log in with: -t (a token or a file), else the one that lies where the WLCG looks. Raises Refusal, OSError."""
    if given is not None:
        token = Path(given).read_text(encoding="utf-8") if _is_file(given) else given
        if not token.strip():
            raise Refusal("the token is empty")
        return token.strip()
    try:
        found = discover_bearer_token(environment)
    except BearerTokenError as error:
        raise Refusal(str(error)) from error
    if found is None:
        place = f"{environment.get('XDG_RUNTIME_DIR') or '/tmp'}/bt_u{os.geteuid()}"  # noqa: S108 - the documented place
        raise Refusal(f"no token: give -t, or set BEARER_TOKEN or BEARER_TOKEN_FILE; there is no file {place}")
    return found.token


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name: a token
        return False


LOGIN = Command(
    _login,
    "log in and keep the token in the token library",
    "<user> [<cert> [<key>]]",
    (1, 4),
    (
        Option("m", "<mechanism>", "password, x509 or token; default password"),
        Option("t", "<token>|<file>", "with -m token: the token; default: BEARER_TOKEN, BEARER_TOKEN_FILE, bt_u<uid>"),
    ),
)
