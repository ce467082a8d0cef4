"""What is said in a login, without the network: each is a generator that yields what to ask, and is sent the answers.

A refusal is thrown into it. The clients for asyncio and for threads drive the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import grpc

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.client.challenge import answer_challenge
from drayman.client.channel import parse_url
from drayman.client.errors import (
    DraymanError,
    NotOfferedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from drayman.client.session_token import Session, session_of
from drayman.client.x509 import ClientIdentity, read_identity

Request = pb.GetLoginOptionsRequest | pb.GetChallengeRequest | pb.LoginRequest


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to auth; with an `identity`, by mutual TLS on the port `x509_port`."""

    request: Request
    identity: ClientIdentity | None = None
    x509_port: int = 0


Steps = Generator[Ask, Any, Session]
#: Begins a login, as often as needed: with new nonces, and with what lies in files by then.
Login = Callable[[], Steps]

#: What no user can be called.
_NO_NAME = "/"


def by_digest(username: str, password: str) -> Steps:
    """Log in by challenge and response: the password does not travel."""
    challenge = yield Ask(pb.GetChallengeRequest(username=username))
    problem = UnauthenticatedError("the service offers no login that this client knows")
    for answer in answer_challenge(username, password, challenge):
        try:
            reply = yield Ask(pb.LoginRequest(digest=answer.credential))
        except UnauthenticatedError as error:
            problem = error
            continue
        answer.check(reply)
        return session_of(reply)
    raise problem


def by_ldap(url: str | None, username: str, password: str) -> Steps:
    """Log in by a password that the site's LDAP server checks. It travels: over TLS, or it stays here. Raises PreconditionError then."""
    _refuse_if_readable(url, "the password")
    credential = pb.LdapCredential(username=username, password=password)
    return session_of((yield Ask(pb.LoginRequest(ldap=credential))))


def by_password(url: str | None, username: str, password: str) -> Steps:
    """Log in by password: by LDAP where that is offered, and by digest if that refuses or is away."""
    try:
        options = yield Ask(pb.GetLoginOptionsRequest())
        if options.ldap and not parse_url(url).readable:
            return (yield from by_ldap(url, username, password))
    except (UnauthenticatedError, NotOfferedError):
        pass
    except UnavailableError as error:
        if error.reason != "IDENTITY_PROVIDER_AWAY":
            raise
    except PreconditionError as error:
        if error.reason != "TLS_REQUIRED":
            raise
    return (yield from by_digest(username, password))


def by_token(url: str | None, username: str, token: str) -> Steps:
    """Log in by a token of another issuer; an empty `username` = the one whom it names."""
    _refuse_if_readable(url, "the token")
    credential = pb.TokenCredential(username=username, token=token)
    return session_of((yield Ask(pb.LoginRequest(token=credential))))


def by_certificate(username: str, certificate: str, key: str | None) -> Steps:
    """Log in by a certificate or grid proxy, read from its files now; an empty `username` = the one it is registered for.

    Raises IdentityFileError for files that cannot be used.
    """
    identity = read_identity(certificate, key)
    port = yield from _x509_port()
    request = pb.LoginRequest(x509=pb.X509Credential(username=username))
    return session_of((yield Ask(request, identity, port)))


def names_of_certificate(certificate: str, key: str | None) -> Generator[Ask, Any, tuple[str, str]]:
    """Ask what auth takes for subject and issuer of a certificate, by a login that names nobody. Raises what is wrong with it."""
    identity = read_identity(certificate, key)
    port = yield from _x509_port()
    request = pb.LoginRequest(x509=pb.X509Credential(username=_NO_NAME))
    try:
        yield Ask(request, identity, port)
    except UnauthenticatedError as error:
        if error.reason != "CERTIFICATE_UNREGISTERED":
            raise
        return error.metadata.get("subject", ""), error.metadata.get("issuer", "")
    raise DraymanError("the service let somebody in who has no name")


def _x509_port() -> Generator[Ask, Any, int]:
    port: int = (yield Ask(pb.GetLoginOptionsRequest())).x509_port
    if not port:
        raise NotOfferedError(
            "logins by X.509 certificate are not offered here",
            code=grpc.StatusCode.UNIMPLEMENTED,
            reason="NOT_OFFERED",
        )
    return port


def _refuse_if_readable(url: str | None, what: str) -> None:
    if parse_url(url).readable:
        raise PreconditionError(
            f"{what} was not sent: others could read it; use grpcs://",
            code=grpc.StatusCode.FAILED_PRECONDITION,
            reason="TLS_REQUIRED",
        )
