"""AuthService: logins, and what others need to check their result."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import digest, names
from drayman.server.auth.keys import jwk_set
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.sessions import Session, Sessions
from drayman.server.auth.standing import require_present
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid


class AuthServicer:
    """Turns a proof of identity into a session token."""

    def __init__(self, store: Store, nonces: Nonces, sessions: Sessions, realm: str) -> None:
        self._store = store
        self._nonces = nonces
        self._sessions = sessions
        self._realm = realm

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

    async def Login(self, request: pb.LoginRequest, _call: Call) -> pb.LoginResponse:
        """Prove an identity."""
        if request.WhichOneof("credential") != "digest":
            raise invalid("credential", "no credential; expected digest")
        return await self._login_by_digest(request.digest)

    async def _login_by_digest(self, credential: pb.DigestCredential) -> pb.LoginResponse:
        _require_parts(credential)
        nonce = self._nonces.recognise(credential.nonce, time.time())
        if nonce is None:
            raise _refused()
        # what cannot be a name is nobody's, and may hold what the database does not take
        secret = None
        if not names.problem(credential.username):
            secret = await self._store.login_secret(credential.username, credential.algorithm, self._realm)
        rspauth = digest.prove(
            secret.ha1 if secret else None,
            credential.nonce,
            credential.cnonce,
            credential.algorithm,
            credential.response,
        )
        # A nonce is remembered only once it came with a right response, so that strangers cannot fill the table.
        if not rspauth or secret is None or secret.disabled:
            raise _refused()
        if not await self._store.use_nonce(nonce.identity, nonce.expires):
            raise _refused()
        user = await self._store.user(credential.username)
        if user is None or user.disabled:
            raise _refused()
        session = await self._sessions.issue(user)
        return pb.LoginResponse(token=session_token(session), rspauth=rspauth)

    async def GetAuthInfo(self, _request: pb.GetAuthInfoRequest, call: Call) -> pb.GetAuthInfoResponse:
        """Tell what the caller's token says, if its user still exists."""
        await require_present(self._store, call.caller)
        return pb.GetAuthInfoResponse(
            username=call.caller.username,
            expire_time=timestamp(call.caller.expires),
            admin=call.caller.admin,
            roles=sorted(call.caller.roles),
        )

    async def GetKeySet(self, _request: pb.GetKeySetRequest, _call: Call) -> pb.GetKeySetResponse:
        """Return the public keys, as they are in the database now: a verifier that asks has met a key that it does not know."""
        keys = await self._store.published_keys()
        return pb.GetKeySetResponse(jwks_json=jwk_set(keys), issuer=self._sessions.issuer)


def session_token(session: Session) -> pb.SessionToken:
    """Shape a session for the wire."""
    return pb.SessionToken(token=session.token, username=session.username, expire_time=timestamp(session.expires))


def timestamp(seconds: float) -> Timestamp:
    """Shape seconds since 1970 for the wire, to the microsecond."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def _refused() -> Refusal:
    """Refuse a login: one answer whatever the cause, so that it tells nobody who exists."""
    return Refusal("LOGIN_REFUSED", "Authentication failed")


def _require_parts(credential: pb.DigestCredential) -> None:
    for part in ("username", "nonce", "cnonce", "algorithm", "response"):
        if not getattr(credential, part):
            raise invalid(f"digest.{part}", f"{part} is missing")
    if len(credential.cnonce) < digest.SHORTEST_CNONCE:
        raise invalid("digest.cnonce", f"at least {digest.SHORTEST_CNONCE} characters, got {len(credential.cnonce)}")
    if credential.algorithm not in digest.ALGORITHMS:
        shown = ascii(credential.algorithm[:32])
        raise invalid("digest.algorithm", f"{shown}: expected {' or '.join(digest.ALGORITHMS)}", value=shown)
