"""Rules of password logins: what may be stored, what is offered, and whether a response proves the password."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from drayman.client import digest as rfc7616

SHA256 = "SHA-256"
MD5 = "MD5"

#: Algorithm -> length of its hashes in hex digits; best first.
ALGORITHMS: Mapping[str, int] = {SHA256: 64, MD5: 32}

SHORTEST_CNONCE = 8

#: Stands in for the secret of a user who does not exist: refusing them costs the same work. Nobody can know its password.
_NOBODY: Mapping[str, str] = {algorithm: secrets.token_hex(length // 2) for algorithm, length in ALGORITHMS.items()}


@dataclass(frozen=True, slots=True)
class Secret:
    """A stored password hash: HA1 of RFC 7616 over its own realm."""

    algorithm: str
    realm: str
    ha1: str = field(repr=False)


def problem(secret: Secret, realm: str) -> tuple[str, str]:
    """Say which part of a secret cannot be stored in a deployment of this realm, and why; ("", "") if it can.

    The hash of another realm could never be checked: a challenge has one realm, and telling it per user would tell who exists.
    """
    length = ALGORITHMS.get(secret.algorithm)
    if length is None:
        return "algorithm", f"{secret.algorithm[:32]!a}: expected {' or '.join(ALGORITHMS)}"
    if secret.realm != realm:
        return "realm", (
            f"{secret.realm[:64]!a}: this deployment's realm is {realm!a}; "
            "to import hashes of another realm, start auth with DRAYMAN_REALM set to it"
        )
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", secret.ha1):
        return "ha1", f"expected {length} lower-case hex digits"
    return "", ""


def offered(*, md5_in_use: bool) -> list[str]:
    """Return the algorithms of a challenge, best first."""
    return [SHA256, MD5] if md5_in_use else [SHA256]


def prove(ha1: str | None, nonce: str, cnonce: str, algorithm: str, response: str) -> str:
    """Return `rspauth` if the response proves knowledge of HA1, else an empty text.

    HA1 None = there is no such secret; the work and the time are the same. `algorithm` is one of ALGORITHMS.
    """
    stored = ha1 if ha1 is not None else _NOBODY[algorithm]
    expected = rfc7616.response(stored, nonce, cnonce, algorithm)
    answer = rfc7616.rspauth(stored, nonce, cnonce, algorithm)
    proved = hmac.compare_digest(expected.encode(), response.encode())
    return answer if proved and ha1 is not None else ""
