"""Certificates and grid proxies of users: read from files as they are, and shown in a channel's TLS handshake."""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from drayman.client.channel import _OPTIONS, UrlError, _roots, parse_url

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATES = (b"CERTIFICATE", b"X509 CERTIFICATE")
_LARGEST = 1024 * 1024


class IdentityFileError(ValueError):
    """A file that holds no usable certificate or key."""


@dataclass(frozen=True)
class ClientIdentity:
    """A certificate with those that issued it, and its key; all PEM."""

    chain: bytes
    key: bytes = field(repr=False)


def read_identity(certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> ClientIdentity:
    """Read a certificate, with its chain if the file has one, and its key: from `key`, else from the same file, as in proxy files.

    Raises IdentityFileError that says what is wrong with which file.
    """
    blocks = _blocks(certificate)
    certificates = [block for label, block in blocks if label in _CERTIFICATES]
    if not certificates:
        raise IdentityFileError(f"{os.fspath(certificate)}: no certificate in it (expected PEM)")
    identity = ClientIdentity(b"".join(certificates), _key(certificate, key, blocks))
    _check_pair(certificate, key)
    return identity


def open_x509_channel(
    url: str | None, identity: ClientIdentity, *, root_certificates: bytes | None = None
) -> grpc.Channel:
    """Open a channel for threads to a deployment's port for X.509 logins (`grpcs://HOST:PORT`); it connects with the first call.

    `root_certificates` (PEM) replace the system's. Raises UrlError if the URL is none, or without TLS.
    """
    address = parse_url(url)
    if not address.tls:
        raise UrlError("certificates are shown over TLS only: expected grpcs://HOST:PORT of the port for X.509 logins")
    credentials = grpc.ssl_channel_credentials(root_certificates or _roots(), identity.key, identity.chain)
    return grpc.secure_channel(address.target, credentials, options=_OPTIONS)


def _blocks(path: str | os.PathLike[str]) -> list[tuple[bytes, bytes]]:
    """Return the PEM blocks of a file with their labels, without what stands between them."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise IdentityFileError(f"{name}: {error.strerror or error}") from error
    if len(content) > _LARGEST:
        raise IdentityFileError(f"{name}: too large for a certificate or key")
    blocks = []
    for match in _BLOCK.finditer(content):
        label = match.group(1)
        if label in _CERTIFICATES:
            try:
                base64.b64decode(b"".join(match.group(2).split()), validate=True)
            except binascii.Error as error:
                raise IdentityFileError(f"{name}: a certificate in it is damaged") from error
        blocks.append((label, match.group().replace(b"\r\n", b"\n") + b"\n"))
    return blocks


def _key(
    certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None, blocks: list[tuple[bytes, bytes]]
) -> bytes:
    name = os.fspath(certificate if key is None else key)
    keys = [
        (label, block) for label, block in (blocks if key is None else _blocks(key)) if label.endswith(b"PRIVATE KEY")
    ]
    if not keys:
        hint = "; name the file that has it" if key is None else " (expected PEM)"
        raise IdentityFileError(f"{name}: no private key in it{hint}")
    label, block = keys[0]
    if label.startswith(b"ENCRYPTED") or b"\nProc-Type: 4,ENCRYPTED" in block:
        raise IdentityFileError(
            f"{name}: the private key is encrypted; make a proxy, or write the key without its password: openssl pkey -in ..."
        )
    return block


def _check_pair(certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None) -> None:
    # gRPC says of a key that does not fit only that it cannot connect
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        files = os.fspath(certificate) + (f" and {os.fspath(key)}" if key is not None else "")
        if error.reason and "MISMATCH" in error.reason:
            raise IdentityFileError(f"{files}: the private key is not the certificate's") from error
        raise IdentityFileError(f"{files}: not usable ({error.reason or 'damaged'})") from error
