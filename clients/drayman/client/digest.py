"""The arithmetic of RFC 7616 with qop `auth`, as Drayman's logins use it (see AuthService.Login)."""

from __future__ import annotations

import hashlib

METHOD = "POST"
URI = "/drayman.auth.v1.AuthService/Login"
#: The nonce count: a nonce serves once.
NC = "00000001"
QOP = "auth"

_HASHES = {"SHA-256": "sha256", "MD5": "md5"}


def ha1(username: str, realm: str, password: str, algorithm: str = "SHA-256") -> str:
    """Return what a server stores in place of a password, in lower-case hex. `algorithm` is `SHA-256` or `MD5`."""
    return _hash(algorithm, username, realm, password)


def response(ha1: str, nonce: str, cnonce: str, algorithm: str = "SHA-256") -> str:
    """Return the client's proof that it knows the password behind `ha1`."""
    return _hash(algorithm, ha1, nonce, NC, cnonce, QOP, _hash(algorithm, METHOD, URI))


def rspauth(ha1: str, nonce: str, cnonce: str, algorithm: str = "SHA-256") -> str:
    """Return the server's proof that it knows `ha1`."""
    return _hash(algorithm, ha1, nonce, NC, cnonce, QOP, _hash(algorithm, "", URI))


def _hash(algorithm: str, *parts: str) -> str:
    # MD5 is for hashes imported from RFC 2617 systems; the service offers it only where there are any.
    digest = hashlib.new(_HASHES[algorithm], ":".join(parts).encode(), usedforsecurity=algorithm != "MD5")
    return digest.hexdigest()
