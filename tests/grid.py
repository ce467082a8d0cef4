"""Certificates as grids have them: an authority, people, hosts, proxies of both kinds, revocation lists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier
from OpenSSL import crypto

PROXY_CERT_INFO = ObjectIdentifier("1.3.6.1.5.5.7.1.14")
INHERIT_ALL = "1.3.6.1.5.5.7.21.1"
INDEPENDENT = "1.3.6.1.5.5.7.21.2"
LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"

#: A relative name as pairs of type and value: one pair, or several for a part with several values.
Part = Sequence[tuple[ObjectIdentifier, str]]

_serials = itertools.count(1000)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key and the certificates that lead up to (without) the root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return _pem(self.certificate)

    @property
    def chain_pem(self) -> bytes:
        """The certificate, then its issuers."""
        return b"".join(_pem(certificate) for certificate in (self.certificate, *self.issuers))

    @property
    def key_pem(self) -> bytes:
        """The key, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def proxy_pem(self) -> bytes:
        """One file as proxy tools write it: certificate, key, issuers."""
        return self.certificate_pem + self.key_pem + b"".join(_pem(certificate) for certificate in self.issuers)

    def encrypted_key_pem(self, password: bytes = b"secret") -> bytes:
        """The key, encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem (chain) and NAME.key, and return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        return certificate, key

    def write_proxy(self, path: Path) -> Path:
        """Write one file as proxy tools do."""
        path.write_bytes(self.proxy_pem)
        path.chmod(0o600)
        return path


class Grid:
    """An authority with its own root. Names are under `/DC=org/DC=grid/O=<site>`."""

    def __init__(self, site: str = "Site") -> None:
        self.site = site
        key = _new_key()
        name = _name([*self._root(), [(NameOID.COMMON_NAME, "Grid CA")]])
        self.root = Identity(_sign(name, key, name, key, _authority(), _span()), key)

    @property
    def root_pem(self) -> bytes:
        """The root certificate."""
        return self.root.certificate_pem

    def user(
        self,
        name: str = "Jane Doe",
        *,
        parts: Sequence[Part] | None = None,
        days: tuple[float, float] = (-1, 30),
        signer: Identity | None = None,
    ) -> Identity:
        """Issue a personal certificate; `parts` replace `CN=name`, `days` are its ends from now, `signer` replaces the root."""
        signer = signer or self.root
        key = _new_key()
        subject = _name([*self._root(), *(parts or [[(NameOID.COMMON_NAME, name)]])])
        extensions = [(x509.BasicConstraints(ca=False, path_length=None), True), (_usage(), True)]
        certificate = _sign(subject, key, signer.certificate.subject, signer.key, extensions, _span(days))
        return Identity(certificate, key, self._above(signer))

    def host(
        self,
        name: str = "localhost",
        *,
        days: tuple[float, float] = (-1, 30),
        addresses: Sequence[str] = ("127.0.0.1",),
    ) -> Identity:
        """Issue a server's certificate."""
        key = _new_key()
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        names += [x509.IPAddress(ip_address(address)) for address in addresses]
        extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.SubjectAlternativeName(names), False)]
        subject = _name([*self._root(), [(NameOID.COMMON_NAME, f"host/{name}")]])
        root = self.root
        return Identity(_sign(subject, key, root.certificate.subject, root.key, extensions, _span(days)), key)

    def authority(self, name: str = "Sub CA") -> Identity:
        """Issue an intermediate authority."""
        key = _new_key()
        subject = _name([*self._root(), [(NameOID.COMMON_NAME, name)]])
        return Identity(_sign(subject, key, self.root.certificate.subject, self.root.key, _authority(), _span()), key)

    def proxy(
        self,
        owner: Identity,
        *,
        policy: str = INHERIT_ALL,
        path_length: int | None = None,
        days: tuple[float, float] = (-1, 0.5),
        signing_key: ec.EllipticCurvePrivateKey | None = None,
        name: str | None = None,
    ) -> Identity:
        """Make an RFC 3820 proxy; with a `signing_key` that is not the owner's it is forged."""
        info = x509.UnrecognizedExtension(PROXY_CERT_INFO, proxy_cert_info(policy, path_length))
        return self._proxy(owner, name or str(next(_serials)), [(_usage(), True), (info, True)], days, signing_key)

    def legacy_proxy(self, owner: Identity, name: str = "proxy", *, days: tuple[float, float] = (-1, 0.5)) -> Identity:
        """Make a proxy as Globus 2 did: nothing but its name says so."""
        return self._proxy(owner, name, [(_usage(), True)], days, None)

    def revocation_list(self, *revoked: Identity, days: tuple[float, float] = (-1, 30)) -> bytes:
        """Return the root's revocation list."""
        start, end = _span(days)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.root.certificate.subject)
            .last_update(start)
            .next_update(end)
        )
        for identity in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(identity.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(start).build())
        return builder.sign(self.root.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def write_hashed(self, folder: Path, revocation_list: bytes = b"") -> Path:
        """Write the root, and its revocation list if there is one, as OpenSSL looks for them in a folder."""
        folder.mkdir(exist_ok=True)
        name = f"{crypto.X509.from_cryptography(self.root.certificate).subject_name_hash():08x}"
        (folder / f"{name}.0").write_bytes(self.root_pem)
        if revocation_list:
            (folder / f"{name}.r0").write_bytes(revocation_list)
        return folder

    def _root(self) -> list[Part]:
        component = NameOID.DOMAIN_COMPONENT
        return [[(component, "org")], [(component, "grid")], [(NameOID.ORGANIZATION_NAME, self.site)]]

    def _above(self, signer: Identity) -> tuple[x509.Certificate, ...]:
        return () if signer is self.root else (signer.certificate, *signer.issuers)

    def _proxy(
        self,
        owner: Identity,
        name: str,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        days: tuple[float, float],
        signing_key: ec.EllipticCurvePrivateKey | None,
    ) -> Identity:
        key = _new_key()
        part = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = owner.certificate.subject
        subject = x509.Name([*issuer.rdns, part])
        certificate = _sign(subject, key, issuer, signing_key or owner.key, extensions, _span(days))
        return Identity(certificate, key, (owner.certificate, *owner.issuers))


def proxy_cert_info(policy: str, path_length: int | None) -> bytes:
    """Write the extension of RFC 3820, section 3.8, as DER."""
    language = x509.ObjectIdentifier(policy)
    numbers = [int(number) for number in language.dotted_string.split(".")]
    content = bytes([numbers[0] * 40 + numbers[1]]) + b"".join(_base128(number) for number in numbers[2:])
    inner = _der(0x30, _der(0x06, content))
    length = b"" if path_length is None else _der(0x02, bytes([path_length]))
    return _der(0x30, length + inner)


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(parts: Sequence[Part]) -> x509.Name:
    return x509.Name(
        [x509.RelativeDistinguishedName([x509.NameAttribute(kind, value) for kind, value in part]) for part in parts]
    )


def _span(days: tuple[float, float] = (-1, 30)) -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    return now + timedelta(days=days[0]), now + timedelta(days=days[1])


def _usage(*, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _authority() -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.BasicConstraints(ca=True, path_length=None), True), (_usage(authority=True), True)]


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    span: tuple[datetime, datetime],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(span[0])
        .not_valid_after(span[1])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())
