"""What the certificates say that a peer presents: who it is, until when, and what is wrong with them.

Whether they are good is OpenSSL's to decide. The handshake goes on whatever it finds, so that what is wrong can be told in a proper answer;
`PeerCertificate.problem` is empty only if it found nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL, crypto

from drayman.server.auth.distinguished_names import COMMON_NAME, DistinguishedName

Problem: TypeAlias = Literal["", "expired", "not yet valid", "untrusted"]
#: An error of OpenSSL's verification: its code (0 = none), and the certificate's place in the chain, counted from the peer's own.
Finding: TypeAlias = tuple[int, int]

_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
#: The extension of proxies between Globus 2 and RFC 3820.
_DRAFT_PROXY = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222")
# Policies of RFC 3820 that pass on their owner's rights, as DER: inheritAll, and Globus' "limited", which only bars starting jobs.
# Others ("independent", restricted ones) must not be taken for their owner.
_INHERITING = frozenset(bytes.fromhex(der) for der in ("06082b06010505071501", "060b2b060104019b5001010109"))

_MOST_DEPTH = 16
#: What is shown of a name in an explanation, in characters; and the longest one that is read, in bytes: answers travel in trailers of
#: 8 KiB, and a stranger's certificate may hold names of any length.
_SHOWN_NAME = 300
_LONGEST_NAME = 1000
_NEVER = datetime.fromtimestamp(0, UTC)

_NOT_YET_VALID, _EXPIRED, _NO_AUTHORITY = 9, 10, 79
#: What OpenSSL's verification finds, by code. {date} is the certificate's start or end, whichever it is about.
_SAID = {
    2: "was issued by an authority that is not trusted here",
    3: "cannot be checked: there is no revocation list of its issuer here",
    7: "was not signed by the issuer that it names",
    8: "cannot be checked: the revocation list of its issuer has a bad signature",
    _NOT_YET_VALID: "is not valid before {date}",
    _EXPIRED: "expired on {date}",
    11: "cannot be checked: the revocation list of its issuer is not valid yet",
    12: "cannot be checked: the revocation list of its issuer is out of date",
    18: "is self-signed and not trusted here",
    19: "leads to a self-signed certificate that is not trusted here",
    20: "was issued by an authority that is not trusted here, or certificates between the two were not sent",
    21: "was issued by an authority that is not trusted here, or certificates between the two were not sent",
    22: "has too many certificates above it",
    23: "was revoked by its issuer",
    25: "has more authorities above it than one of them allows",
    26: "is not meant for this use",
    27: "leads to an authority that is not trusted for this use",
    28: "leads to an authority that is rejected for this use",
    32: "must not sign other certificates, yet it did",
    33: "cannot be checked: there is no revocation list of its issuer here",
    34: "has a critical extension that is not understood",
    37: "is an authority's, which may not act as a user",
    38: "has more proxies below it than it allows",
    39: "must not be used for signatures, so it cannot have proxies",
    41: "has an extension that cannot be read",
    47: "has a name that its authority may not certify",
    48: "has a name that its authority may not certify",
    66: "has a key that is too weak",
    67: "has a key that is too weak",
    68: "is signed with a digest that is too weak",
    72: "does not bear its owner's name with one more part",
    _NO_AUTHORITY: "is not an authority's, yet another certificate was issued with it",
}


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A certificate that a peer presented and proved to hold the key of.

    `identity` names whom it speaks for: its `subject`, or the owner's if it is a proxy, or a proxy's proxy. `expires` is the earliest
    end of the proxies and the owner's certificate. `problem` is empty if OpenSSL found nothing wrong, else `explanation` says for
    people which certificate it is about and what is wrong. Nobody may be logged in by a certificate with a problem.
    """

    subject: DistinguishedName
    issuer: DistinguishedName
    identity: DistinguishedName
    expires: datetime
    proxies: int
    problem: Problem
    explanation: str


def server_context(certificate: str, key: str, authorities: str, *, revocation_lists: bool) -> SSL.Context:
    """Make the TLS side of a server that takes any client certificate, or none; connections are to come from `open_connection`.

    `authorities` is a PEM file or a folder hashed by OpenSSL's rules. With `revocation_lists` the lists in it are checked, and a
    certificate whose issuer has no valid one there is untrusted. Raises ValueError with what is wrong with the files.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # A resumed session would bring a certificate along that nobody checks again.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_alpn_select_callback(_select_protocol)
    _load("the server's certificate", certificate, context.use_certificate_chain_file)
    private = _private_key(key)
    try:
        context.use_privatekey(private)
        context.check_privatekey()
    except SSL.Error as error:
        raise ValueError(f"{key}: not the key of the server's certificate {certificate}") from error
    if Path(authorities).is_dir():
        context.load_verify_locations(None, authorities)
    else:
        _load("authorities", authorities, context.load_verify_locations)
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.ALLOW_PROXY_CERTS)
    if revocation_lists:
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    context.set_verify_depth(_MOST_DEPTH)
    context.set_verify(SSL.VERIFY_PEER, _note)
    return context


def open_connection(context: SSL.Context) -> SSL.Connection:
    """Begin a server's connection over memory buffers that notes what is found about the peer's certificates."""
    connection = SSL.Connection(context, None)
    connection.set_app_data([])
    connection.set_accept_state()
    return connection


def peer_certificate(connection: SSL.Connection) -> PeerCertificate | None:
    """Tell what the peer presented, once the handshake is done; None if it was nothing. Never raises because of a certificate."""
    leaf = connection.get_peer_certificate()
    if leaf is None:
        return None
    findings: list[Finding] = connection.get_app_data()
    try:
        chain = connection.get_verified_chain(as_cryptography=True) or [leaf.to_cryptography()]
        return judge(chain, findings)
    except Exception as error:  # whatever a stranger's certificate makes a parser raise
        return unreadable(error)


def unreadable(error: Exception) -> PeerCertificate:
    """Return the verdict about certificates that cannot be read."""
    nobody = DistinguishedName(())
    explanation = f"the certificate cannot be read ({type(error).__name__})"
    return PeerCertificate(nobody, nobody, nobody, _NEVER, 0, "untrusted", explanation)


def judge(chain: Sequence[x509.Certificate], findings: Sequence[Finding]) -> PeerCertificate:
    """Tell what a chain, the peer's own certificate first, says with what OpenSSL found about it.

    May raise anything on certificates that cannot be read.
    """
    proxies = 0
    while proxies < len(chain) and _is_proxy(chain, proxies):
        proxies += 1
    # without the owner's certificate, the last proxy says who it was
    identity = _name(chain[proxies].subject) if proxies < len(chain) else _name(chain[-1].issuer)
    problem, explanation = _problem(chain, findings, proxies)
    return PeerCertificate(
        subject=_name(chain[0].subject),
        issuer=_name(chain[0].issuer),
        identity=identity,
        expires=min(certificate.not_valid_after_utc for certificate in chain[: proxies + 1]),
        proxies=proxies,
        problem=problem,
        explanation=explanation,
    )


def _problem(chain: Sequence[x509.Certificate], findings: Sequence[Finding], proxies: int) -> tuple[Problem, str]:
    wrong: dict[Problem, str] = {}
    for code, depth in findings:
        if code:
            kind = _kind(code, depth, proxies)
            wrong.setdefault(kind, _explain(chain, code, min(depth, len(chain) - 1), proxies))
    if "untrusted" not in wrong:
        for depth, certificate in enumerate(chain[:proxies]):
            # The next certificate up is what makes it a proxy of somebody; OpenSSL has looked at signature and name.
            if depth + 1 == len(chain) or not _inherits(certificate):
                text = f"{_described(chain, depth, proxies)} does not pass on its owner's rights"
                wrong.setdefault("untrusted", text)
    if not wrong and (0, 0) not in findings:
        wrong["untrusted"] = f"{_described(chain, 0, proxies)} was not checked"
    for kind in ("untrusted", "expired", "not yet valid"):
        if kind in wrong:
            return kind, wrong[kind]
    return "", ""


def _kind(code: int, depth: int, proxies: int) -> Problem:
    # an authority that expired is not the user's to renew
    if depth <= proxies:
        if code == _EXPIRED:
            return "expired"
        if code == _NOT_YET_VALID:
            return "not yet valid"
    return "untrusted"


def _explain(chain: Sequence[x509.Certificate], code: int, depth: int, proxies: int) -> str:
    if code in (_NO_AUTHORITY, 26, 32, 34) and any(_is_old_proxy(chain, place) for place in range(proxies)):
        return (
            f"{_described(chain, 0, proxies)} is a proxy of a kind older than RFC 3820: make one with the option -rfc"
        )
    certificate = chain[depth]
    date = certificate.not_valid_before_utc if code == _NOT_YET_VALID else certificate.not_valid_after_utc
    said = _SAID.get(code, f"is not valid (OpenSSL's verification error {code})")
    return f"{_described(chain, depth, proxies)} {said.format(date=f'{date:%Y-%m-%d %H:%M:%S} UTC')}"


def _described(chain: Sequence[x509.Certificate], depth: int, proxies: int) -> str:
    what = "proxy certificate" if depth < proxies else "certificate" if depth == proxies else "authority's certificate"
    subject, issuer = (str(_name(name)) for name in (chain[depth].subject, chain[depth].issuer))
    return f"the {what} {_shortened(subject)} (issued by {_shortened(issuer)})"


def _shortened(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "..."


def _is_proxy(chain: Sequence[x509.Certificate], depth: int) -> bool:
    return _has(chain[depth], _PROXY_CERT_INFO) or _is_old_proxy(chain, depth)


def _is_old_proxy(chain: Sequence[x509.Certificate], depth: int) -> bool:
    """Tell whether name and issuer make a certificate a proxy of Globus 2, or its extension one of the drafts of RFC 3820."""
    certificate = chain[depth]
    if _has(certificate, _PROXY_CERT_INFO):
        return False
    if _has(certificate, _DRAFT_PROXY):
        return True
    subject, issuer = _name(certificate.subject), _name(certificate.issuer)
    if not subject.extends(issuer) or len(subject.parts) != len(issuer.parts) + 1:
        return False
    ((kind, value), *more) = subject.parts[-1]
    named = value in ("proxy", "limited proxy") or (isinstance(value, str) and value.isascii() and value.isdecimal())
    if kind != COMMON_NAME or more or not named:
        return False
    # an authority may certify such a name too
    return depth + 1 == len(chain) or not _is_authority(chain[depth + 1])


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _has(certificate: x509.Certificate, extension: x509.ObjectIdentifier) -> bool:
    return any(present.oid == extension for present in certificate.extensions)


def _inherits(proxy: x509.Certificate) -> bool:
    """Tell whether a proxy has its owner's rights: the policy in ProxyCertInfo (RFC 3820, section 3.8).

    SEQUENCE { path length INTEGER OPTIONAL, SEQUENCE { language OBJECT IDENTIFIER, policy OCTET STRING OPTIONAL } }
    """
    for extension in proxy.extensions:
        if extension.oid == _PROXY_CERT_INFO:
            members = _members(extension.value.public_bytes())
            policy = members[-1] if members else b""
            return policy[:1] == b"\x30" and _members(policy)[:1] in ([language] for language in _INHERITING)
    return False


def _members(der: bytes) -> list[bytes]:
    """Split the content of a DER value. Raises ValueError."""
    _, content, rest = _split(der)
    if rest:
        raise ValueError("bytes after the value")
    members = []
    while content:
        member, _, content = _split(content)
        members.append(member)
    return members


def _split(der: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the first DER value, its content, and what comes after it. Raises ValueError."""
    start = 2
    length = der[1] if len(der) > 1 else -1
    if 0x81 <= length <= 0x83:
        start += length & 0x7F
        length = int.from_bytes(der[2:start])
    end = start + length
    if length < 0 or (length == 0x80 and start == 2) or end > len(der):
        raise ValueError("no DER")
    return der[:end], der[start:end], der[end:]


def _name(name: x509.Name) -> DistinguishedName:
    found = DistinguishedName.of([_attribute(attribute) for attribute in part] for part in name.rdns)
    if max(len(str(found).encode()), len(found.slashed.encode())) > _LONGEST_NAME:
        raise ValueError("too long a name")
    return found


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> tuple[str, str | bytes]:
    value = attribute.value
    # cryptography gives bytes for bit strings only, without the tag
    if isinstance(value, bytes) and len(value) < 0x80:
        value = bytes([0x03, len(value)]) + value
    return attribute.oid.dotted_string, value


def _note(connection: SSL.Connection, _certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    """Note what OpenSSL says of a certificate, and let it go on."""
    findings: list[Finding] = connection.get_app_data()
    findings.append((0 if ok else code or 1, depth))
    return True


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    return b"h2" if b"h2" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _load(what: str, path: str, load: Callable[[str], None]) -> None:
    if not Path(path).is_file():
        raise ValueError(f"{path}: {what} cannot be read: no such file")
    try:
        load(path)
    except SSL.Error as error:
        raise ValueError(f"{path}: {what} cannot be read: no PEM of certificates") from error


def _private_key(path: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    # by ourselves, since OpenSSL would ask at the terminal for the password of an encrypted one
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    except TypeError as error:
        raise ValueError(f"{path}: the server's key is encrypted") from error
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: the server's key cannot be read: {type(error).__name__}") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: the server's key is neither RSA nor of an elliptic curve")  # noqa: TRY004 - a value of a setting
    return key
