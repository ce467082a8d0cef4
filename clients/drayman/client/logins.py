"""Logins and sessions, for asyncio."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc, session_service_pb2_grpc
from drayman.auth.v1 import session_service_pb2 as session_pb
from drayman.client import login_steps
from drayman.client.bearer_discovery import BearerTokenError, discover_bearer_token
from drayman.client.calls import Client
from drayman.client.device_flow import DeviceCode, DeviceFlow, DeviceFlowError, Tokens
from drayman.client.errors import (
    DraymanError,
    NotOfferedError,
    UnauthenticatedError,
    UnavailableError,
    from_rpc_error,
)
from drayman.client.login_exchange import PAUSES, ask_with_certificate, log_in, method_for
from drayman.client.login_steps import Ask, Login
from drayman.client.session_keeper import Again
from drayman.client.session_token import Session


@dataclass(frozen=True, slots=True)
class AuthInfo:
    """Who a token says its bearer is. Times are in UTC: the end of the token, and that of its session unless it is renewed before."""

    username: str
    expires: datetime
    admin: bool
    roles: tuple[str, ...]
    session_id: str = ""
    session_expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """An issuer whose tokens are taken. With an empty `client_id` it is of no use to people at a terminal."""

    issuer: str
    audiences: tuple[str, ...]
    client_id: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """The logins of a deployment, besides passwords by challenge and response. `x509_port` 0 = none by certificate."""

    ldap: bool
    x509_port: int
    token_issuers: tuple[TokenIssuer, ...]


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session of a user that goes on. `method` is `digest`, `ldap`, `x509`, `token` or `issued`; times are in UTC."""

    session_id: str
    username: str
    method: str
    peer: str
    client: str
    created: datetime
    refreshed: datetime
    expires: datetime
    current: bool


class LoginCalls(Client):
    """Calls of AuthService and SessionService. Methods raise DraymanError.

    After a login the calls of this client are the user's. Their tokens are short-lived and replaced in time; when the session has ended,
    the client logs in again with what it was given: a password, the certificate's files, the token that is discovered then. To have the
    session in the token library too, for other processes, call `credentials.keep`.
    """

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._sessions = session_service_pb2_grpc.SessionServiceStub(channel)

    async def login_options(self) -> LoginOptions:
        """Tell which logins there are. No token is needed."""
        reply = await self._ask_openly(self._auth.GetLoginOptions, pb.GetLoginOptionsRequest())
        issuers = (
            TokenIssuer(each.issuer, tuple(each.audiences), each.client_id, tuple(each.scopes))
            for each in reply.token_issuers
        )
        return LoginOptions(reply.ldap, reply.x509_port, tuple(issuers))

    async def login(self, username: str, password: str) -> Session:
        """Log in by a password, which does not travel."""
        return await self._log_in(functools.partial(login_steps.by_digest, username, password))

    async def login_password(self, username: str, password: str) -> Session:
        """Log in by password: by LDAP where that is offered, and by digest if LDAP refuses or is away."""
        return await self._log_in(functools.partial(login_steps.by_password, self.credentials.url, username, password))

    async def login_ldap(self, username: str, password: str) -> Session:
        """Log in by a password that the site's LDAP server checks. It travels: PreconditionError where others could read it."""
        return await self._log_in(functools.partial(login_steps.by_ldap, self.credentials.url, username, password))

    async def login_x509(self, username: str, certificate: str, key: str | None = None) -> Session:
        """Log in by a certificate or grid proxy (paths of PEM files; `key` None = with the certificate).

        An empty `username` = the one user for whom it is registered. Raises IdentityFileError for files that cannot be used.
        """
        return await self._log_in(functools.partial(login_steps.by_certificate, username, certificate, key))

    async def login_token(self, username: str, token: str | None = None) -> Session:
        """Log in by a token of another issuer; None = the one that is discovered as the WLCG says. It travels, as in `login_ldap`.

        An empty `username` = the user whom the token names. The session ends with the token. Raises BearerTokenError if there is none.
        """
        if token is None:
            return await self._log_in(functools.partial(_by_discovered_token, self.credentials.url, username))
        login = functools.partial(login_steps.by_token, self.credentials.url, username, token)
        return await self._log_in_once(login, None)

    async def login_oidc(
        self,
        show: Callable[[DeviceCode], object],
        username: str = "",
        *,
        issuer: str | None = None,
        ca_file: str | None = None,
    ) -> Session:
        """Log in at an issuer's web page (device flow); `show` tells the user where, and the code to enter there.

        `issuer` None = the first that the deployment has for this; `ca_file` has the authorities of the issuer's server (PEM; None = the
        system's). An empty `username` = the one whom the issuer's token names.
        """
        found = _device_issuer(await self.login_options(), issuer)
        cancelled = threading.Event()
        audience = found.audiences[0] if found.audiences else None
        try:
            flow = await asyncio.to_thread(
                DeviceFlow, found.issuer, found.client_id, found.scopes, None, audience, ca_file, wait=cancelled.wait
            )
            code = await asyncio.to_thread(flow.begin)
            show(code)
            tokens = await asyncio.to_thread(flow.poll, code)
        except DeviceFlowError as error:
            raise _flow_problem(error) from error
        finally:
            cancelled.set()
        login = functools.partial(login_steps.by_token, self.credentials.url, username, _presented(tokens))
        again = _Renewable(self.credentials.url, username, found, audience, ca_file, tokens.refresh_token)
        return await self._log_in_once(login, again if tokens.refresh_token else None)

    async def logout(self) -> None:
        """End the session, for everybody who uses it, and forget it, also in the token library. Without a token it does nothing.

        What could not be ended is forgotten nevertheless. Raises OSError if the token library cannot be written.
        """
        try:
            if self.credentials.token is not None:
                await self._call(self._auth.Logout, pb.LogoutRequest())
        except UnauthenticatedError:
            pass  # it has ended already
        finally:
            self.credentials.forget()

    async def auth_info(self) -> AuthInfo:
        """Tell who the client's token says one is."""
        reply = await self._call(self._auth.GetAuthInfo, pb.GetAuthInfoRequest())
        end = reply.session_expire_time.ToDatetime(tzinfo=UTC) if reply.HasField("session_expire_time") else None
        expires = reply.expire_time.ToDatetime(tzinfo=UTC)
        return AuthInfo(reply.username, expires, reply.admin, tuple(reply.roles), reply.session_id, end)

    async def sessions(self, username: str = "") -> list[OpenSession]:
        """Read the sessions of a user that have not ended, newest first; "" = one's own. Others' for administrators."""
        request = session_pb.ListSessionsRequest(username=username)
        reply = await self._call(self._sessions.ListSessions, request)
        return [_open_session(each) for each in reply.sessions]

    async def revoke_sessions(self, session_id: str | None = None, *, username: str = "") -> int:
        """End a session of a user; None = all of them, and every token made so far. Returns how many. Others' for administrators."""
        request = session_pb.RevokeSessionsRequest(username=username)
        if session_id is None:
            request.all = True
        else:
            request.session_id = session_id
        revoked: int = (await self._call(self._sessions.RevokeSessions, request)).revoked
        return revoked

    async def _log_in(self, login: Login) -> Session:
        """Log in, now and whenever the session has ended."""
        return await self._log_in_once(login, functools.partial(log_in, self.credentials.url, login))

    async def _log_in_once(self, login: Login, again: Again | None) -> Session:
        """Log in, beginning anew a few times while no service answers."""
        for pause in (*PAUSES, None):
            try:
                session = await self._carried_out(login())
            except UnavailableError as error:
                # an LDAP server or an issuer that is away was waited for already
                if pause is None or error.reason == "IDENTITY_PROVIDER_AWAY":
                    raise
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads a fleet
            else:
                self.credentials.take(session, again)
                return session
        raise AssertionError("the last try returns or raises")

    async def _carried_out(self, steps: Generator[Ask, Any, Session]) -> Session:
        try:
            ask = next(steps)
            while True:
                try:
                    reply = await self._answer(ask)
                except DraymanError as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(reply)
        except StopIteration as end:
            session: Session = end.value
            return session

    async def _answer(self, ask: Ask) -> Any:
        if ask.identity is None:
            return await self._ask_openly(method_for(self._auth, ask), ask.request)
        try:
            return await asyncio.to_thread(ask_with_certificate, self.credentials.url, ask, self._timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


class _Renewable:
    """Gets another token of an issuer, without its user, and logs in with it."""

    def __init__(
        self,
        url: str,
        username: str,
        issuer: TokenIssuer,
        audience: str | None,
        ca_file: str | None,
        refresh_token: str,
    ) -> None:
        self._url = url
        self._username = username
        self._new_flow = functools.partial(
            DeviceFlow, issuer.issuer, issuer.client_id, issuer.scopes, None, audience, ca_file
        )
        self._refresh_token = refresh_token

    def __call__(self) -> Session:
        try:
            tokens = self._new_flow().refresh(self._refresh_token)
        except DeviceFlowError as error:
            raise _flow_problem(error) from error
        self._refresh_token = tokens.refresh_token or self._refresh_token
        presented = _presented(tokens)
        return log_in(self._url, functools.partial(login_steps.by_token, self._url, self._username, presented))


def _by_discovered_token(url: str, username: str) -> login_steps.Steps:
    found = discover_bearer_token()
    if found is None:
        raise BearerTokenError(
            "no bearer token: set BEARER_TOKEN or BEARER_TOKEN_FILE, or get one with htgettoken or oidc-token"
        )
    return login_steps.by_token(url, username, found.token)


def _device_issuer(options: LoginOptions, issuer: str | None) -> TokenIssuer:
    offered = [each for each in options.token_issuers if each.client_id]
    for each in offered:
        if issuer in (None, each.issuer):
            return each
    known = ", ".join(each.issuer for each in offered)
    text = f"no login there for issuer {issuer}: expected one of {known}" if known else "no issuer has a web login here"
    raise NotOfferedError(text, code=grpc.StatusCode.UNIMPLEMENTED, reason="NOT_OFFERED")


def _presented(tokens: Tokens) -> str:
    """Return what says who the user is: the access token, unless it is opaque."""
    return tokens.access_token if tokens.access_token.count(".") == 2 or not tokens.id_token else tokens.id_token


def _flow_problem(error: DeviceFlowError) -> DraymanError:
    if error.reason == "unavailable":
        return UnavailableError(error.text, code=grpc.StatusCode.UNAVAILABLE, reason="IDENTITY_PROVIDER_AWAY")
    return UnauthenticatedError(error.text, code=grpc.StatusCode.UNAUTHENTICATED, reason="FOREIGN_TOKEN_REFUSED")


def _open_session(message: session_pb.Session) -> OpenSession:
    return OpenSession(
        session_id=message.session_id,
        username=message.username,
        method=message.method,
        peer=message.peer,
        client=message.client,
        created=message.create_time.ToDatetime(tzinfo=UTC),
        refreshed=message.refresh_time.ToDatetime(tzinfo=UTC),
        expires=message.expire_time.ToDatetime(tzinfo=UTC),
        current=message.current,
    )
