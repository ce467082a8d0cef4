"""Logins and tokens.

Data Dispatcher, sections 2.5 and 12 of its behaviour.
"""

from __future__ import annotations

import contextlib

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.challenge import answer_challenge
from drayman.client.errors import UnauthenticatedError
from drayman.data_dispatcher import shapes
from drayman.data_dispatcher.core import ClientCore
from drayman.data_dispatcher.exceptions import AuthenticationError
from drayman.system.v1 import system_service_pb2, system_service_pb2_grpc


class LoginCalls(ClientCore):
    """The methods about who one is. A login returns (user name, when its token expires: seconds since 1970)."""

    def login_digest(self, username: str, password: str, save_token: bool = False) -> tuple[str, float]:
        """Log in by challenge and response: the password does not travel. Returns (user name, expiration).

        Calls carry the new token from now on. It is put into the token library whatever `save_token` says; where the library cannot
        be written it serves this client only. Raises AuthenticationError if the login is refused, or if the other side cannot prove
        that it knows the password.

        Sections 2.5 and 12; section 18, trap 25.
        """
        stub = self._auth()
        request = pb.GetChallengeRequest(username=username)
        challenge = self._call(stub.GetChallenge, request)
        refusal = AuthenticationError(self._url(request), 401, "Authentication failed: no algorithm in common")
        for answer in answer_challenge(username, password, challenge):
            login = pb.LoginRequest(digest=answer.credential)
            try:
                # a second try of ours would only meet a nonce that is used
                reply = self._call(stub.Login, login, budget=0)
                token = answer.check(reply)
            except AuthenticationError as error:
                refusal = error
                continue
            except UnauthenticatedError as error:
                raise AuthenticationError(self._url(login), 401, error.message) from None
            with contextlib.suppress(OSError):
                self._sources.keep(token)
            return reply.token.username, shapes.seconds_since_1970(reply.token.expire_time)
        raise refusal

    def login_password(self, username: str, password: str) -> tuple[str, float]:
        """Log in by password: by digest, since there is no LDAP. Otherwise as login_digest. Section 2.5."""
        return self.login_digest(username, password)

    def login_ldap(self, username: str, password: str) -> tuple[str, float]:
        """Refuse: there is no LDAP login. Raises ServerError with status 501. Section 2.5."""
        raise self._missing("login by LDAP; see login_digest")

    def login_token(self, username: str, encoded_token: str | bytes) -> tuple[str, float]:
        """Refuse: there is no login by a foreign token. Raises ServerError with status 501. Section 2.5."""
        raise self._missing("login by token; see login_digest")

    def login_x509(self, username: str, cert: str, key: str | None = None) -> tuple[str, float]:
        """Refuse: there is no login by certificate. Raises ServerError with status 501. Section 2.5."""
        raise self._missing("login by X.509 certificate; see login_digest")

    def my_x509_dn(self, cert: str, key: str | None = None) -> tuple[str, str]:
        """Refuse: there is no login by certificate. Raises ServerError with status 501. Section 2.5."""
        raise self._missing("names of X.509 certificates")

    def auth_info(self) -> tuple[str, float]:
        """Ask the service whose the token is: (user name, expiration). Raises AuthenticationError without a valid one. Section 2.5."""
        request = pb.GetAuthInfoRequest()
        if self.Token is None:
            raise AuthenticationError(self._url(request), 401, "No token found")
        reply = self._call(self._auth().GetAuthInfo, request)
        return reply.username, shapes.seconds_since_1970(reply.expire_time)

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
