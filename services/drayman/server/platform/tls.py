"""The server's certificate: read again when its files change, without a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from drayman.server.platform.settings import SettingsError

log = structlog.get_logger(__name__)

_Stamp = tuple[int, int, int]


class ServerCertificate:
    """A certificate chain and its key, in two PEM files. gRPC offers TLS 1.2 and later with it."""

    def __init__(self, cert: str, key: str) -> None:
        """Raises SettingsError if the files cannot be used."""
        self._files = (Path(key), Path(cert))
        self._problem = ""
        try:
            self._stamps = self._look()
            self._pair = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"tls_cert {cert}, tls_key {key}: {error}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files: gRPC asks before each handshake."""
        fetch = cast(
            "Callable[[], grpc.ServerCertificateConfiguration]", self._fetch
        )  # its stubs forget that there may be nothing new
        return grpc.dynamic_ssl_server_credentials(self._configuration(), fetch, require_client_authentication=False)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair])

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is new; None = nothing. Files that cannot be used (just being replaced, say) leave the old ones in use."""
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return None
            self._pair = self._read()
        except (OSError, ValueError) as error:
            if str(error) != self._problem:  # once, not with every connection
                log.warning("new TLS certificate not usable", error=str(error))
            self._problem = str(error)
            return None
        self._stamps, self._problem = stamps, ""
        log.info("TLS certificate read again")
        return self._configuration()

    def _look(self) -> list[_Stamp]:
        return [(s.st_mtime_ns, s.st_ino, s.st_size) for s in (file.stat() for file in self._files)]

    def _read(self) -> tuple[bytes, bytes]:
        key, chain = (file.read_bytes() for file in self._files)
        leaf = x509.load_pem_x509_certificates(chain)[0]
        try:
            public = load_pem_private_key(key, None).public_key()
        except TypeError as error:
            raise ValueError("the key is encrypted: expected one without a password") from error
        if _encoded(public) != _encoded(leaf.public_key()):
            raise ValueError("the key does not belong to the certificate")
        return key, chain


def _encoded(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined] # every kind of public key has it
    return encoded
