"""Login by the client certificate of the connection."""

from __future__ import annotations

import time
from contextlib import suppress

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import distinguished_names, names
from drayman.server.auth.certificates import PeerCertificate
from drayman.server.auth.proof import NotProven, Proven
from drayman.server.auth.session_store import SessionStore
from drayman.server.auth.x509_port import X509Port
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal
from drayman.server.platform.transport import is_tls

_REASON = {
    "expired": "CERTIFICATE_EXPIRED",
    "not yet valid": "CERTIFICATE_EXPIRED",
    "untrusted": "CERTIFICATE_UNTRUSTED",
}


class X509Proof:
    """Looks up who a certificate is registered for. `port` None = not offered here.

    A session lasts as long as the certificate, or as `lifetime` seconds if that is longer: a proxy of half a day begins a usual one.
    """

    guessable = False

    def __init__(self, port: X509Port | None, sessions: SessionStore, lifetime: float) -> None:
        self._port = port
        self._sessions = sessions
        self._lifetime = lifetime

    def check_form(self, _credential: pb.X509Credential, _call: Call) -> None:
        """Raise Refusal (NOT_OFFERED)."""
        if self._port is None:
            raise Refusal("NOT_OFFERED", "no login by certificate: x509_listen is not set here")

    async def prove(self, credential: pb.X509Credential, call: Call) -> Proven:
        """Judge the certificate, then find its user. Raises NotProven."""
        assert self._port is not None, "check_form comes first"
        # by TLS it came by another port: its peer may have the number of somebody's connection behind the port for certificates
        certificate = None if is_tls(call.context) else self._port.certificate_of(call.context.peer())
        if certificate is None:
            message = "the connection has no client certificate: is it the port for them?"
            raise NotProven(
                Refusal("CERTIFICATE_MISSING", message, metadata={"port": str(self._port.port)}), "no certificate"
            )
        if certificate.problem:
            refusal = Refusal(_REASON[certificate.problem], certificate.explanation, metadata=_described(certificate))
            raise NotProven(refusal, certificate.explanation)
        unregistered = _unregistered(certificate, credential.username)
        username = await self._user(certificate, credential.username)
        if username is None:
            raise NotProven(unregistered, "not registered")
        ends = max(certificate.expires.timestamp(), time.time() + self._lifetime)
        return Proven(username, "x509", unregistered, ends=ends, detail={"certificate": str(certificate.subject)})

    async def _user(self, certificate: PeerCertificate, username: str) -> str | None:
        identity = certificate.identity
        if not username:
            return await self._sessions.only_user("x509", str(identity.person))
        if names.problem(username):
            return None
        for registered in await self._sessions.registered(username, "x509"):
            with suppress(ValueError):
                if distinguished_names.matches(distinguished_names.parse(registered), identity):
                    return username
        return None


def _unregistered(certificate: PeerCertificate, username: str) -> Refusal:
    """Say that the certificate is nobody's: the same whether or not there is such a user."""
    whose = f"for user {username}" if username else "for exactly one user"
    message = f"the certificate of {certificate.identity} is not registered {whose}"
    return Refusal("CERTIFICATE_UNREGISTERED", message, metadata=_described(certificate))


def _described(certificate: PeerCertificate) -> dict[str, str]:
    return {
        "subject": certificate.subject.slashed,
        "issuer": certificate.issuer.slashed,
        "identity": certificate.identity.slashed,
        "expires": certificate.expires.isoformat(),
    }
