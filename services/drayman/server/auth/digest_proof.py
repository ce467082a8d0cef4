"""Login by password, challenge and response: the password does not travel."""

from __future__ import annotations

import time

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import digest, names
from drayman.server.auth.digest import Secret
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.proof import NotProven, Proven, login_refused
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import invalid


class DigestProof:
    """Checks responses to the challenges that these nonces belong to."""

    guessable = True

    def __init__(self, store: Store, nonces: Nonces, realm: str) -> None:
        self._store = store
        self._nonces = nonces
        self._realm = realm

    def check_form(self, credential: pb.DigestCredential, _call: Call) -> None:
        """Raise Refusal (INVALID_FIELD) if a part is missing or malformed."""
        for part in ("username", "nonce", "cnonce", "algorithm", "response"):
            if not getattr(credential, part):
                raise invalid(f"digest.{part}", f"{part} is missing")
        if len(credential.cnonce) < digest.SHORTEST_CNONCE:
            raise invalid(
                "digest.cnonce", f"at least {digest.SHORTEST_CNONCE} characters, got {len(credential.cnonce)}"
            )
        if credential.algorithm not in digest.ALGORITHMS:
            shown = ascii(credential.algorithm[:32])
            raise invalid("digest.algorithm", f"{shown}: expected {' or '.join(digest.ALGORITHMS)}", value=shown)

    async def prove(self, credential: pb.DigestCredential, _call: Call) -> Proven:
        """Check a response. Raises NotProven."""
        nonce = self._nonces.recognise(credential.nonce, time.time())
        if nonce is None:
            raise NotProven(login_refused(), "nonce expired or never given out")
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
        if secret is None:
            raise NotProven(login_refused(), f"no {credential.algorithm} password, or no such user")
        if not rspauth:
            raise NotProven(login_refused(), "wrong password")
        if secret.disabled:
            raise NotProven(login_refused(), "disabled")
        if not await self._store.use_nonce(nonce.identity, nonce.expires):
            raise NotProven(login_refused(), "nonce used before")
        proved = Secret(credential.algorithm, self._realm, secret.ha1)
        return Proven(credential.username, "digest", login_refused(), rspauth=rspauth, secret=proved)
