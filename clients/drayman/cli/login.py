"""`drayman login`, `logout`, `whoami`: who one is."""

from __future__ import annotations

import os
from pathlib import Path

import click

from drayman.cli.output import Failure, json_option, print_fields, print_json, printable
from drayman.cli.passwords import read_password
from drayman.cli.session import Misuse, calling, deployment_url
from drayman.cli.values import local_time, plain
from drayman.client import AuthClient, DraymanError, Session, UnauthenticatedError, UnavailableError
from drayman.client.bearer_discovery import BearerTokenError
from drayman.client.device_flow import DeviceCode

_METHODS = ("password", "ldap", "digest", "token", "x509")


@click.command()
@click.argument("username", required=False)
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="password",
    show_default=True,
    help="How to say who one is; password = ldap where that is offered, else digest.",
)
@click.option("--bearer", metavar="TOKEN|FILE", help="For --method token; default: where the WLCG looks for one.")
@click.option("--cert", metavar="FILE", help="For --method x509: the certificate or proxy.")
@click.option("--key", metavar="FILE", help="For --method x509: the key, if it is not with the certificate.")
@click.option("--oidc", is_flag=True, help="Log in on an issuer's web page; USERNAME may be left out.")
@click.option("--issuer", metavar="URL", help="For --oidc: the issuer, if the deployment has several.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--print-token", is_flag=True, help="Print the token too, alone.")
@json_option
@calling
async def login(
    username: str | None,
    method: str,
    bearer: str | None,
    cert: str | None,
    key: str | None,
    oidc: bool,
    issuer: str | None,
    password_stdin: bool,
    print_token: bool,
    as_json: bool,
) -> None:
    """Log in as USERNAME and keep the session for DRAYMAN_URL.

    It is kept in .token_library and .token_library.sessions in the home folder, for this account only, and goes on for as long as it is
    used. With --method digest the password does not travel, with ldap it does, over TLS.
    """
    _check_options(username, method, bearer=bearer, cert=cert, key=key, oidc=oidc, issuer=issuer)
    async with AuthClient() as auth:
        try:
            if oidc:
                session = await auth.login_oidc(_show_code, username or "", issuer=issuer)
            else:
                session = await _log_in(auth, username or "", method, bearer, cert, key, password_stdin=password_stdin)
        except BearerTokenError as error:
            raise Failure(printable(str(error))) from error
        _keep(auth, printed=print_token)
    _say(session, print_token=print_token, as_json=as_json)
    if os.environ.get("DRAYMAN_TOKEN"):
        click.echo("drayman: DRAYMAN_TOKEN is set and goes before this login", err=True)


@click.command()
@click.option("--all", "everywhere", is_flag=True, help="End all sessions of the user, on every machine.")
@json_option
@calling
async def logout(everywhere: bool, as_json: bool) -> None:
    """End the session that is kept for DRAYMAN_URL, and forget it."""
    url = deployment_url()
    ended = 0
    problem: DraymanError | None = None
    async with AuthClient() as auth:
        credentials = auth.credentials
        credentials.use(None)  # not that of DRAYMAN_TOKEN
        kept = credentials.token is not None
        try:
            if kept and everywhere:
                ended = await auth.revoke_sessions()
            elif kept:
                await auth.logout()
                ended = 1
        except UnauthenticatedError:
            pass  # it has ended already
        except DraymanError as error:
            problem = error
        credentials.forget()
    if problem is not None:
        reached = "cannot be reached" if isinstance(problem, UnavailableError) else "refused"
        text = f"forgotten here, but not ended: {printable(url)} {reached} ({printable(problem.message)})"
        raise Failure(f"{text}; who has a copy of the token can use it until it expires")
    if as_json:
        print_json({"url": url, "forgotten": kept, "ended": ended})
    else:
        sessions = f", {ended} sessions ended" if everywhere and kept else ""
        click.echo(f"{'logged out of' if kept else 'no token was kept for'} {printable(url)}{sessions}")
    if os.environ.get("DRAYMAN_TOKEN"):
        click.echo("drayman: DRAYMAN_TOKEN is still set", err=True)


@click.command()
@json_option
@calling
async def whoami(as_json: bool) -> None:
    """Tell who the services take one for, and how long."""
    url = deployment_url()
    async with AuthClient() as auth:
        info = await auth.auth_info()
        method = next((each.method for each in await auth.sessions() if each.current), "")
        renewed = auth.credentials.session is not None
    if as_json:
        print_json({"url": url, **plain(info), "method": method, "renewed": renewed})
        return
    print_fields(
        [
            ("user", info.username),
            ("administrator", info.admin),
            ("roles", ", ".join(info.roles)),
            ("session", info.session_id),
            ("logged in by", method),
            ("session expires", local_time(info.session_expires)),
            ("token expires", f"{local_time(info.expires)}{', replaced before' if renewed else ''}"),
            ("at", url),
        ]
    )


def _check_options(
    username: str | None,
    method: str,
    *,
    bearer: str | None,
    cert: str | None,
    key: str | None,
    oidc: bool,
    issuer: str | None,
) -> None:
    """Raise Misuse for options that do not go together."""
    chosen = "" if oidc else method
    if bearer is not None and chosen != "token":
        raise Misuse("--bearer goes with --method token")
    if (cert, key) != (None, None) and chosen != "x509":
        raise Misuse("--cert and --key go with --method x509")
    if issuer is not None and not oidc:
        raise Misuse("--issuer goes with --oidc")
    if chosen == "x509" and cert is None:
        raise Misuse("--method x509 needs --cert")
    if username is None and not oidc:
        raise Misuse("a user name is needed: drayman login USERNAME")


async def _log_in(
    auth: AuthClient,
    username: str,
    method: str,
    bearer: str | None,
    cert: str | None,
    key: str | None,
    *,
    password_stdin: bool,
) -> Session:
    if method == "token":
        return await auth.login_token(username, _token_in(bearer) if bearer is not None else None)
    if method == "x509":
        return await auth.login_x509(username, cert or "", key)
    log_in = {"password": auth.login_password, "ldap": auth.login_ldap, "digest": auth.login}[method]
    return await log_in(username, read_password(from_stdin=password_stdin))


def _token_in(bearer: str) -> str:
    """Return a token that was given, or that lies in the file of that name."""
    try:
        in_file = Path(bearer).is_file()
    except OSError:  # too long for a name: a token, which must not be shown
        in_file = False
    token = (Path(bearer).read_text(encoding="utf-8") if in_file else bearer).strip()
    if not token:
        raise Failure("the token is empty")
    return token


def _show_code(code: DeviceCode) -> None:
    click.echo(f"open {code.verification_uri} and enter {code.user_code}", err=True)
    if code.verification_uri_complete:
        click.echo(f"or open {code.verification_uri_complete}", err=True)
    click.echo("waiting ...", err=True)


def _keep(auth: AuthClient, *, printed: bool) -> None:
    try:
        if not auth.credentials.keep():
            click.echo("drayman: the session is not kept, only its token, which expires soon", err=True)
    except OSError as error:
        if not printed:
            raise Failure(f"cannot keep the token: {error}") from error
        click.echo(f"drayman: the token is not kept: {error}", err=True)


def _say(session: Session, *, print_token: bool, as_json: bool) -> None:
    url, until = deployment_url(), session.session_expires or session.expires
    if as_json:
        record = {
            "username": session.username,
            "url": url,
            "expires": plain(session.expires),
            "session_id": session.session_id,
            "session_expires": plain(session.session_expires),
        }
        print_json(record | ({"token": session.token} if print_token else {}))
    elif print_token:
        click.echo(session.token)
    else:
        click.echo(f"{printable(session.username)} is logged in at {printable(url)} until {local_time(until)}")
