"""`drayman user identity`: what a user logs in with besides a password."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from drayman.cli.output import Failure, json_option, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client.users import Identity, User, UserClient

_KINDS = {"x509": "certificate", "ldap": "LDAP entry", "token": "token"}


def identity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name identities: parameters of `_given`."""
    for option in (
        click.option(
            "--token", "tokens", multiple=True, nargs=2, metavar="ISSUER SUBJECT", help="Who tokens are about."
        ),
        click.option("--ldap", "ldap_dns", multiple=True, metavar="DN", help="Name of an LDAP entry."),
        click.option(
            "--x509-cert",
            "certificates",
            multiple=True,
            metavar="FILE",
            help="Subject of the certificate in a PEM file.",
        ),
        click.option(
            "--x509",
            "x509_dns",
            multiple=True,
            metavar="DN",
            help="Subject of a certificate: /DC=org/CN=… or CN=…,DC=org.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def identity() -> None:
    """What a user logs in with besides a password. For administrators, except `list` for oneself."""


@identity.command()
@click.argument("name")
@identity_options
@json_option
@calling
async def add(name: str, as_json: bool, **named: Any) -> None:
    """Register identities of the user NAME. One may stand for several users: a login says which."""
    added = _given(**named)
    async with UserClient() as users:
        _print(await users.update_identities(name, add=added), as_json=as_json)


@identity.command()
@click.argument("name")
@identity_options
@json_option
@calling
async def remove(name: str, as_json: bool, **named: Any) -> None:
    """Remove identities of the user NAME, and end sessions that began by one of that kind."""
    removed = _given(**named)
    async with UserClient() as users:
        _print(await users.update_identities(name, remove=removed), as_json=as_json)


@identity.command("list")
@click.argument("name")
@json_option
@calling
async def list_identities(name: str, as_json: bool) -> None:
    """List the identities of the user NAME."""
    async with UserClient() as users:
        found = await users.get_user(name)
    _print(found, as_json=as_json)


def identity_text(each: Identity) -> str:
    """Write an identity for people."""
    return f"{each.name} of {each.issuer}" if each.issuer else each.name


def identity_title(each: Identity) -> str:
    """Name the kind of an identity for people."""
    return _KINDS[each.kind]


def _given(
    *, x509_dns: Sequence[str], certificates: Sequence[str], ldap_dns: Sequence[str], tokens: Sequence[tuple[str, str]]
) -> list[Identity]:
    given = [
        *(Identity("x509", name) for name in x509_dns),
        *(Identity("x509", _subject(Path(path))) for path in certificates),
        *(Identity("ldap", name) for name in ldap_dns),
        *(Identity("token", subject, issuer) for issuer, subject in tokens),
    ]
    if not given:
        raise Misuse("which identity? give --x509, --x509-cert, --ldap or --token")
    return given


def _subject(path: Path) -> str:
    """Read the subject of the first certificate in a PEM file. Raises Failure, OSError."""
    try:
        from cryptography import x509  # noqa: PLC0415 - comes with the server; whoever names subjects does without
    except ImportError:
        raise Failure(
            f"reading certificates needs the package `cryptography`; "
            f"`openssl x509 -noout -subject -in {printable(str(path))}` tells what to give to --x509"
        ) from None
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).subject.rfc4514_string()
    except ValueError:
        raise Failure(f"{printable(str(path))}: no certificate in PEM") from None


def _print(user: User, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(user.identities))
    else:
        print_table(("kind", "name", "issuer"), [(each.kind, each.name, each.issuer) for each in user.identities])
