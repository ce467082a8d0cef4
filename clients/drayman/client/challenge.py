"""A password login's middle part, which needs no network: the response to a challenge, and the check of what comes back."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.client import digest
from drayman.client.errors import UnauthenticatedError

_KNOWN = ("SHA-256", "MD5")


@dataclass(frozen=True)
class Answer:
    """A response to a challenge. `credential` goes into a LoginRequest; `check` what comes back."""

    credential: pb.DigestCredential
    _rspauth: str = field(repr=False)

    def check(self, reply: pb.LoginResponse) -> str:
        """Return the session token. Raises UnauthenticatedError if the other side does not know the password either."""
        if not hmac.compare_digest(self._rspauth.encode(), reply.rspauth.encode()):
            raise UnauthenticatedError("the service could not prove that it knows the password: is the URL right?")
        return reply.token.token


def answer_challenge(username: str, password: str, challenge: pb.GetChallengeResponse) -> list[Answer]:
    """Return the responses to try, best first: one for each algorithm that both sides know.

    A challenge does not tell whether the user's hash is SHA-256 or an imported MD5, and a nonce serves until it succeeds.
    """
    cnonce = secrets.token_hex(16)
    answers = []
    for algorithm in (name for name in challenge.algorithms if name in _KNOWN):
        ha1 = digest.ha1(username, challenge.realm, password, algorithm)
        credential = pb.DigestCredential(
            username=username,
            nonce=challenge.nonce,
            cnonce=cnonce,
            algorithm=algorithm,
            response=digest.response(ha1, challenge.nonce, cnonce, algorithm),
        )
        answers.append(Answer(credential, digest.rspauth(ha1, challenge.nonce, cnonce, algorithm)))
    return answers
