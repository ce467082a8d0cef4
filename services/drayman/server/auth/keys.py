"""Keys that sign session tokens: Ed25519, named by their RFC 7638 thumbprint."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What everybody may know of a key: its id and its 32 bytes."""

    key_id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that can sign."""

    key_id: str
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        private = Ed25519PrivateKey.generate()
        return cls(_thumbprint(private.public_key().public_bytes_raw()), private)

    @classmethod
    def from_bytes(cls, key_id: str, raw: bytes) -> SigningKey:
        """Read a key as `to_bytes` wrote it."""
        return cls(key_id, Ed25519PrivateKey.from_private_bytes(raw))

    def to_bytes(self) -> bytes:
        """Return the private part: 32 bytes."""
        return self.private.private_bytes_raw()

    def public(self) -> PublicKey:
        """Return the public part."""
        return PublicKey(self.key_id, self.private.public_key().public_bytes_raw())


def jwk_set(keys: Iterable[PublicKey]) -> str:
    """Return a JWK Set (RFC 7517, RFC 8037) as JSON."""
    entries = [_required(key.raw) | {"kid": key.key_id, "use": "sig", "alg": "EdDSA"} for key in keys]
    return json.dumps({"keys": entries})


def _required(raw: bytes) -> dict[str, str]:
    """Return the members that make a public key what it is, in the order in which RFC 7638 hashes them."""
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}


def _thumbprint(raw: bytes) -> str:
    return _base64url(hashlib.sha256(json.dumps(_required(raw), separators=(",", ":")).encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
