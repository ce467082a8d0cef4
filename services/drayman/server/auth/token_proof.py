"""Login by a token: of a configured issuer, or a session token of this deployment."""

from __future__ import annotations

import time

import jwt

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import names
from drayman.server.auth.foreign_tokens import ForeignIdentity, ForeignTokenRefused
from drayman.server.auth.issuers import IssuerAway, Issuers
from drayman.server.auth.proof import NotProven, Proven
from drayman.server.auth.session_store import SessionStore
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.transport import is_private

_LONGEST = 16 * 1024


class TokenProof:
    """Finds the user whom a token names. The session ends when the token does."""

    guessable = False

    def __init__(
        self, issuers: Issuers, own: TokenVerifier, issuer: str, sessions: SessionStore, *, plaintext: bool
    ) -> None:
        """`own` verifies the tokens of this deployment, whose `iss` is `issuer`."""
        self._issuers = issuers
        self._own = own
        self._issuer = issuer
        self._sessions = sessions
        self._plaintext = plaintext

    def check_form(self, credential: pb.TokenCredential, call: Call) -> None:
        """Raise Refusal (TLS_REQUIRED, INVALID_FIELD)."""
        if not self._plaintext and not is_private(call.context):
            raise Refusal("TLS_REQUIRED", "a token must not travel in plaintext: use TLS")
        if not credential.token:
            raise invalid("token.token", "token is missing")
        if len(credential.token) > _LONGEST:
            raise invalid("token.token", f"at most {_LONGEST} characters, got {len(credential.token)}")

    async def prove(self, credential: pb.TokenCredential, _call: Call) -> Proven:
        """Verify the token, then find its user. Raises NotProven, Refusal (IDENTITY_PROVIDER_AWAY, UNAVAILABLE)."""
        if _claimed_issuer(credential.token) == self._issuer:
            return await self._own_token(credential)
        try:
            identity = await self._issuers.verify(credential.token, time.time())
        except ForeignTokenRefused as error:
            kind = "EXPIRED" if error.reason in ("expired", "immature") else "REFUSED"
            raise NotProven(
                Refusal(f"FOREIGN_TOKEN_{kind}", error.text, metadata={"why": error.reason}), error.text
            ) from error
        except IssuerAway as error:
            raise Refusal("IDENTITY_PROVIDER_AWAY", error.text, retry_after=5.0) from error
        unregistered = _unregistered(identity, credential.username)
        username = await self._user(identity, credential.username)
        if username is None:
            raise NotProven(unregistered, "not registered")
        detail = {"issuer": identity.issuer, "subject": identity.subject}
        return Proven(username, "token", unregistered, ends=identity.expires, detail=detail)

    async def _own_token(self, credential: pb.TokenCredential) -> Proven:
        try:
            caller = await self._own.verify(credential.token)
        except Refusal as problem:
            if problem.reason == "UNAVAILABLE":
                raise
            raise NotProven(problem, problem.message) from problem
        refusal = Refusal("FOREIGN_TOKEN_UNREGISTERED", "the token is not that user's")
        if credential.username not in ("", caller.username):
            raise NotProven(refusal, "another user's token")
        return Proven(caller.username, "token", refusal, ends=caller.expires, detail={"from_session": caller.session})

    async def _user(self, identity: ForeignIdentity, username: str) -> str | None:
        if not username:
            registered = await self._sessions.only_user("token", identity.identity)
            return registered or (
                identity.username if identity.username and not names.problem(identity.username) else None
            )
        if names.problem(username):
            return None
        if identity.username == username or identity.identity in await self._sessions.registered(username, "token"):
            return username
        return None


def _claimed_issuer(token: str) -> str:
    """Return what a token says of its issuer, unverified: only to know who is to verify it."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
    except (jwt.PyJWTError, ValueError):
        return ""


def _unregistered(identity: ForeignIdentity, username: str) -> Refusal:
    """Say that the token is nobody's: the same whether or not there is such a user."""
    whose = f"for user {username}" if username else "for exactly one user"
    message = f"the subject of this token of {identity.issuer} is not registered {whose}"
    return Refusal(
        "FOREIGN_TOKEN_UNREGISTERED", message, metadata={"issuer": identity.issuer, "subject": identity.subject}
    )
