"""AuthService: logins, sessions, and what others need to check their result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import digest, names
from drayman.server.auth.audit import Author, Event, author_of, peer_address
from drayman.server.auth.foreign_tokens import IssuerSettings
from drayman.server.auth.key_store import KeyStore
from drayman.server.auth.keys import jwk_set
from drayman.server.auth.login_limits import LoginLimits
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.proof import NotProven, Proof
from drayman.server.auth.refresh_tokens import RefreshToken
from drayman.server.auth.session_store import SessionStore
from drayman.server.auth.sessions import Grant, Sessions, Token
from drayman.server.auth.standing import require_present
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.transport import is_tls


@dataclasses.dataclass(frozen=True)
class LoginOptions:
    """What a deployment offers besides passwords by challenge and response. `x509_port` is asked when somebody wants to know."""

    ldap: bool
    x509_port: Callable[[], int]
    issuers: Sequence[IssuerSettings]


class AuthServicer:
    """Turns a proof of identity into a session."""

    def __init__(
        self,
        store: Store,
        stored: SessionStore,
        keys: KeyStore,
        sessions: Sessions,
        nonces: Nonces,
        limits: LoginLimits,
        proofs: Mapping[str, Proof],
        options: LoginOptions,
        realm: str,
        address_of: Callable[[str], str | None],
    ) -> None:
        """`proofs` by the name of the field in LoginRequest; `address_of` knows the address behind a peer that came by another port."""
        self._store = store
        self._stored = stored
        self._keys = keys
        self._sessions = sessions
        self._nonces = nonces
        self._limits = limits
        self._proofs = proofs
        self._options = options
        self._realm = realm
        self._address_of = address_of

    async def GetLoginOptions(self, _request: pb.GetLoginOptionsRequest, _call: Call) -> pb.GetLoginOptionsResponse:
        """Tell which logins there are."""
        issuers = [
            pb.TokenIssuer(
                issuer=each.issuer, audiences=each.audiences, client_id=each.client_id, scopes=each.device_scopes
            )
            for each in self._options.issuers
        ]
        return pb.GetLoginOptionsResponse(
            ldap=self._options.ldap, x509_port=self._options.x509_port(), token_issuers=issuers
        )

    async def GetChallenge(self, request: pb.GetChallengeRequest, _call: Call) -> pb.GetChallengeResponse:
        """Begin a password login. Nothing in the answer depends on the user: it must not tell who exists."""
        if not request.username:
            raise invalid("username", "a user name is required")
        nonce, expires = self._nonces.new(time.time())
        return pb.GetChallengeResponse(
            realm=self._realm,
            nonce=nonce,
            algorithms=digest.offered(md5_in_use=await self._store.md5_in_use(self._realm)),
            expire_time=timestamp(expires),
        )

    async def Login(self, request: pb.LoginRequest, call: Call) -> pb.LoginResponse:
        """Prove an identity."""
        kind = request.WhichOneof("credential")
        if kind is None:
            raise invalid("credential", f"no credential; expected {', '.join(self._proofs)}")
        proof, credential = self._proofs[kind], getattr(request, kind)
        proof.check_form(credential, call)
        author = self._author(call, credential.username)
        claimed = credential.username if proof.guessable else None
        async with self._limits.attempt(claimed, author.peer, client=author.client, method=kind) as attempt:
            try:
                proven = await proof.prove(credential, call)
                grant = await self._sessions.begin(proven, author)
            except NotProven as problem:
                await self._note_refusal("LOGIN", author, credential.username, kind, problem)
                raise problem.refusal from problem
            except Refusal as refusal:
                if refusal.code is grpc.StatusCode.UNAVAILABLE:
                    attempt.void()  # whose fault it is, it is not theirs
                raise
            attempt.succeeded(proven.username)
        reply = pb.LoginResponse(
            token=session_token(grant.token),
            rspauth=proven.rspauth,
            refresh_token=grant.refresh.text,
            session_expire_time=timestamp(grant.expires),
        )
        if grant.ends is not None:
            reply.session_end_time.CopyFrom(timestamp(grant.ends))
        return reply

    async def RefreshSession(self, request: pb.RefreshSessionRequest, call: Call) -> pb.RefreshSessionResponse:
        """Get the next tokens of a session."""
        request_id = names.check_uuid("request_id", request.request_id)
        presented = RefreshToken.parse(request.refresh_token)
        if presented is None:
            raise invalid("refresh_token", "not a refresh token")
        author = self._author(call, "")
        async with self._limits.attempt(None, author.peer, client=author.client, method="refresh") as attempt:
            try:
                grant = await self._sessions.refresh(presented, request_id, author)
            except NotProven as problem:
                await self._note_refusal("LOGIN", author, str(presented.session), "refresh", problem)
                raise problem.refusal from problem
            attempt.succeeded(grant.token.username)
        return _refreshed(grant)

    async def Logout(self, _request: pb.LogoutRequest, call: Call) -> pb.LogoutResponse:
        """End the caller's session."""
        caller = call.caller
        if caller.session:
            author = self._author(call, caller.username)
            async with self._store.changes() as changes:
                if await changes.end_session(caller.username, UUID(caller.session)):
                    await changes.record(Event("LOGOUT", author, caller.username, detail={"session": caller.session}))
        return pb.LogoutResponse()

    async def GetAuthInfo(self, _request: pb.GetAuthInfoRequest, call: Call) -> pb.GetAuthInfoResponse:
        """Tell what the caller may do, if they still exist."""
        caller = call.caller
        await require_present(self._store, caller)
        reply = pb.GetAuthInfoResponse(
            username=caller.username,
            expire_time=timestamp(caller.expires),
            admin=caller.admin,
            roles=sorted(caller.roles),
            session_id=caller.session,
        )
        session = await self._stored.session(UUID(caller.session)) if caller.session else None
        ends = session.expires_at.timestamp() if session else caller.expires
        reply.session_expire_time.CopyFrom(timestamp(ends))
        return reply

    async def GetKeySet(self, _request: pb.GetKeySetRequest, _call: Call) -> pb.GetKeySetResponse:
        """Return the public keys, as they are in the database now: a verifier that asks has met a key that it does not know."""
        keys = await self._keys.published_keys()
        return pb.GetKeySetResponse(jwks_json=jwk_set(keys), issuer=self._sessions.issuer)

    def _author(self, call: Call, name: str) -> Author:
        author = author_of(call, name)
        behind = None if is_tls(call.context) else self._address_of(call.context.peer())
        return dataclasses.replace(author, peer=peer_address(behind)) if behind else author

    async def _note_refusal(self, action: str, author: Author, subject: str, method: str, problem: NotProven) -> None:
        reason = f"{problem.refusal.reason}: {problem.why}"
        await self._store.record(Event(action, author, subject, refused=True, reason=reason, method=method))


def session_token(token: Token) -> pb.SessionToken:
    """Shape a session token for the wire."""
    return pb.SessionToken(token=token.text, username=token.username, expire_time=timestamp(token.expires))


def timestamp(seconds: float) -> Timestamp:
    """Shape seconds since 1970 for the wire, to the microsecond."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def _refreshed(grant: Grant) -> pb.RefreshSessionResponse:
    reply = pb.RefreshSessionResponse(
        token=session_token(grant.token),
        refresh_token=grant.refresh.text,
        session_expire_time=timestamp(grant.expires),
    )
    if grant.ends is not None:
        reply.session_end_time.CopyFrom(timestamp(grant.ends))
    return reply
