"""Logins and tokens.

Data Dispatcher, sections 2.5 and 12 of its behaviour.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client import login_steps
from drayman.client.bearer_discovery import BearerTokenError, discover_bearer_token
from drayman.client.errors import DraymanError
from drayman.client.login_exchange import carry_out, log_in
from drayman.client.login_steps import Login
from drayman.client.session_token import Session
from drayman.data_dispatcher import shapes
from drayman.data_dispatcher.core import ClientCore, passing
from drayman.data_dispatcher.exceptions import AuthenticationError, from_drayman_error
from drayman.data_dispatcher.token_sources import encoded
from drayman.system.v1 import system_service_pb2, system_service_pb2_grpc

_Result = TypeVar("_Result")


class LoginCalls(ClientCore):
    """The methods about who one is. A login returns (user name, when its session expires: seconds since 1970).

    Calls carry the session's token from then on. It is put into the token library, where that can be written; tokens are short-lived, and
    the client gets the next one by itself for as long as the session lasts: seven days after the last one, unless the deployment says
    otherwise, or until the certificate or foreign token of the login ends. After that this client logs in again, with the password, the
    certificate's files, or the token that lies where the WLCG looks for one; other clients that found the session in the library do not.

    A login raises AuthenticationError if it is refused, ServerError with status 501 if the deployment does not offer it and 503 if it
    cannot be done now, APIError with status 409 if a password or token would be sent where others could read it.
    """

    def login_digest(self, username: str, password: str, save_token: bool = False) -> tuple[str, float]:
        """Log in by challenge and response: the password does not travel. Returns (user name, expiration).

        The token is put into the library whatever `save_token` says. Raises AuthenticationError also if the other side cannot prove that
        it knows the password.

        Sections 2.5 and 12; section 18, trap 25.
        """
        return self._log_in(functools.partial(login_steps.by_digest, username, password))

    def login_password(self, username: str, password: str) -> tuple[str, float]:
        """Log in by password: by LDAP where that is offered, and by digest if LDAP refuses or is away. Sections 2.5 and 12."""
        return self._log_in(functools.partial(login_steps.by_password, self.AuthURL, username, password))

    def login_ldap(self, username: str, password: str) -> tuple[str, float]:
        """Log in by a password that the site's LDAP server checks. It travels, so TLS is needed beyond loopback. Sections 2.5 and 12."""
        return self._log_in(functools.partial(login_steps.by_ldap, self.AuthURL, username, password))

    def login_token(self, username: str, encoded_token: str | bytes) -> tuple[str, float]:
        """Log in by a token of another issuer (JWT, SciToken, WLCG), or of this deployment; TLS is needed beyond loopback.

        The session ends with that token, and so does what is returned as expiration. Sections 2.5 and 12.
        """
        token = encoded(encoded_token) or ""
        again = functools.partial(self._by_discovered_token, username) if token == _discovered() else None
        return self._log_in_once(functools.partial(login_steps.by_token, self.AuthURL, username, token), again)

    def login_x509(self, username: str, cert: str, key: str | None = None) -> tuple[str, float]:
        """Log in by the certificate or grid proxy in the file `cert` (PEM), with the key in `key`, or in the same file.

        Raises IdentityFileError (a ValueError) for files that cannot be used. Sections 2.5 and 12.
        """
        return self._log_in(functools.partial(login_steps.by_certificate, username, cert, key))

    def my_x509_dn(self, cert: str, key: str | None = None) -> tuple[str, str]:
        """Return (subject, issuer) of a certificate or grid proxy, as the service reads them: what an administrator registers.

        It asks by a login that names nobody. Raises AuthenticationError for a certificate that is expired or not trusted, and otherwise
        what login_x509 raises. Section 2.5.
        """
        return self._asked(lambda: carry_out(self.AuthURL, login_steps.names_of_certificate(cert, key), self.Timeout))

    def auth_info(self) -> tuple[str, float]:
        """Ask the service whose the token is: (user name, expiration). Raises AuthenticationError without a valid one. Section 2.5.

        The expiration is that of the session, as after a login: the token's own is near, but the client replaces it.
        """
        request = pb.GetAuthInfoRequest()
        if self.Token is None:
            raise AuthenticationError(self._url(request), 401, "No token found")
        reply = self._call(self._auth().GetAuthInfo, request)
        end = reply.session_expire_time if reply.HasField("session_expire_time") else reply.expire_time
        return reply.username, shapes.seconds_since_1970(end)

    def token(self) -> str | None:
        """Return the encoded token that calls carry, or None. Section 2.5."""
        return self.Token

    def tokens_saved(self) -> bool:
        """Whether there is a place where logins are kept. Section 2.5."""
        return self.TokenLib.path is not None

    def token_update(self) -> None:
        """Take the token library's token if the library has changed. A token from there is noticed without this. Section 1.3."""
        self._sources.update()

    def version(self) -> str:
        """Return the service's version. Needs no login. Section 2.5."""
        stub = self._connections.stub(system_service_pb2_grpc.SystemServiceStub, self.ServerURL)
        return self._call(stub.GetServerInfo, system_service_pb2.GetServerInfoRequest()).version

    def _auth(self) -> auth_service_pb2_grpc.AuthServiceStub:
        return self._connections.stub(auth_service_pb2_grpc.AuthServiceStub, self.AuthURL)

    def _log_in(self, login: Login) -> tuple[str, float]:
        """Log in, now and whenever the session has ended."""
        return self._log_in_once(login, functools.partial(log_in, self.AuthURL, login))

    def _log_in_once(self, login: Login, again: Callable[[], Session] | None) -> tuple[str, float]:
        session = self._asked(lambda: carry_out(self.AuthURL, login(), self.Timeout))
        self._sources.take(session, self.AuthURL or "", again)
        return session.username, (session.session_expires or session.expires).timestamp()

    def _by_discovered_token(self, username: str) -> Session:
        token = _discovered()
        if token is None:
            raise BearerTokenError("there is no bearer token any more")
        return log_in(self.AuthURL, functools.partial(login_steps.by_token, self.AuthURL, username, token))

    def _asked(self, ask: Callable[[], _Result]) -> _Result:
        """Ask auth, again while no service answers. Raises the documented error."""
        backoff = self._backoff()
        while True:
            try:
                return ask()
            except DraymanError as error:
                waited = error.reason == "IDENTITY_PROVIDER_AWAY"  # for the LDAP server or the issuer, by the service
                if waited or not (passing(error) and backoff.pause(error.retry_after)):
                    raise from_drayman_error(error, self._url(pb.LoginRequest())) from None


def _discovered() -> str | None:
    """Return the token that lies where the WLCG looks for one."""
    try:
        found = discover_bearer_token()
    except BearerTokenError:
        return None
    return found.token if found is not None else None
