"""A real OpenLDAP server on loopback, with a small tree and an authority of its own."""

import base64
import hashlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drayman.server.platform.postgres_account import Account

SUFFIX = "dc=example,dc=org"
PEOPLE = f"ou=people,{SUFFIX}"
TEMPLATE = f"uid={{username}},{PEOPLE}"
#: The account that may search, and its password.
SEARCHER = f"cn=searcher,{SUFFIX}"
SEARCHER_PASSWORD = "search-me-not"
#: Users and their passwords; `twin` is twice in the tree, `mute` has no password.
PASSWORDS = {"ann": "ann's secret", "bob": "bob's secret", "twin": "twin's secret", "zoë": "geheim ✓"}
#: A user whose name is full of what DNs and filters are made of.
ODD, ODD_PASSWORD = ' #a,b+c="d";<e>\\f*(g)|&! ', "odd secret"
#: An entry kept elsewhere.
REFERRAL = f"uid=elsewhere,{PEOPLE}"

_PROGRAMS = ("/usr/sbin/slapd", "/usr/local/sbin/slapd", "/usr/local/libexec/slapd", "/usr/libexec/slapd")
_SCHEMAS = (
    "/etc/ldap/schema",
    "/etc/openldap/schema",
    "/usr/local/etc/openldap/schema",
    "/opt/homebrew/etc/openldap/schema",
)
_APPARMOR_PROFILE = Path("/etc/apparmor.d/usr.sbin.slapd")
_START_SECONDS = 30.0
_ATTEMPTS = 5


def find_slapd() -> Path | None:
    """The program, if it is installed."""
    on_path = shutil.which("slapd")
    candidates = [*_PROGRAMS, *([on_path] if on_path else [])]
    return next((Path(name) for name in candidates if os.access(name, os.X_OK)), None)


class Slapd:
    """A server in `folder`, an existing empty one, from `start` or `with` until `stop`.

    `hosts` are the names in its certificate, which has ended if `expired`. Without `tls` it offers neither LDAPS nor StartTLS.
    Everybody may search it if `anonymous_search`, else SEARCHER only. `elsewhere` is the server that REFERRAL refers to. A bind without a
    password succeeds, as with many a directory in the field.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        expired: bool = False,
        tls: bool = True,
        anonymous_search: bool = False,
        elsewhere: str = "ldap://127.0.0.1:1",
    ) -> None:
        program = find_slapd()
        assert program is not None, "slapd is not installed"
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.log = folder / "slapd.log"
        self.port = self.tls_port = 0
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._program = program
        if _APPARMOR_PROFILE.exists():
            # the profile goes by the program's path and allows no other folders than the distribution's
            self._program = Path(shutil.copy2(program, folder / "slapd"))
        _write_certificates(folder, hosts, expired=expired)
        self._configure(anonymous_search=anonymous_search, elsewhere=elsewhere)

    @property
    def ldap(self) -> str:
        """URL for StartTLS."""
        return f"ldap://localhost:{self.port}"

    @property
    def ldaps(self) -> str:
        """URL for TLS from the first byte."""
        return f"ldaps://localhost:{self.tls_port}"

    def start(self) -> None:
        """Start it on ports that are free, and return when it listens."""
        for _ in range(_ATTEMPTS):
            self.port, self.tls_port = _free_ports()
            urls = f"ldap://127.0.0.1:{self.port}/" + (f" ldaps://127.0.0.1:{self.tls_port}/" if self._tls else "")
            account = Account("own", os.geteuid(), os.getegid(), "self")
            with self.log.open("wb") as log:
                # in the foreground because of -d; 256 says when it is ready
                self._process = subprocess.Popen(
                    account.command(
                        self.folder, self._program, "-d", "256", "-h", urls, "-f", self.folder / "slapd.conf"
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            if self._listens():
                return
            # somebody else took a port in between
            self.kill()
        raise AssertionError(f"slapd does not start:\n{self.log.read_text(errors='replace')}")

    def stop(self) -> None:
        """Shut it down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it answer nothing any more, while the kernel still takes connections; until `kill`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_SECONDS)
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < until:
            # it says so when the ports are its own, and listens a moment later
            ports = (self.port, self.tls_port) if self._tls else (self.port,)
            if b"slapd starting" in self.log.read_bytes() and all(map(_is_open, ports)):
                return True
            time.sleep(0.01)
        return False

    def _configure(self, *, anonymous_search: bool, elsewhere: str) -> None:
        folder = self.folder
        schema = next(Path(name) for name in _SCHEMAS if Path(name, "core.schema").exists())
        data = folder / "data"
        data.mkdir()
        tls = (
            f"TLSCACertificateFile {self.ca_file}\nTLSCertificateFile {folder / 'server.pem'}\n"
            f"TLSCertificateKeyFile {folder / 'server.key'}\nTLSVerifyClient never\n"
        )
        # `database ldif` is part of the program: no modules to find
        (folder / "slapd.conf").write_text(
            f"include {schema / 'core.schema'}\n"
            f"pidfile {folder / 'slapd.pid'}\nargsfile {folder / 'slapd.args'}\n"
            "allow bind_anon_cred bind_anon_dn\n"
            f"{tls if self._tls else ''}"
            f'database ldif\nsuffix "{SUFFIX}"\ndirectory {data}\n'
            "access to attrs=userPassword by anonymous auth by * none\n"
            f'access to * by dn.exact="{SEARCHER}" read by anonymous {"read" if anonymous_search else "auth"} by * none\n'
        )
        subprocess.run(
            [self._program, "-T", "add", "-f", folder / "slapd.conf"],
            input=_tree(elsewhere).encode(),
            check=True,
            timeout=60,
            capture_output=True,
        )


def _tree(elsewhere: str) -> str:
    entries = [
        _entry(SUFFIX, "dcObject", "organization", dc="example", o="Example"),
        _entry(SEARCHER, "person", cn="searcher", sn="searcher", userPassword=SEARCHER_PASSWORD),
        _entry(REFERRAL, "referral", "extensibleObject", uid="elsewhere", ref=f"{elsewhere}/{REFERRAL}"),
    ]
    entries[1:1] = [_entry(f"ou={name},{SUFFIX}", "organizationalUnit", ou=name) for name in ("people", "guests")]
    for name, password in PASSWORDS.items():
        # one with a hash, the others in the clear: a server takes both
        entries.append(_person(name, f"uid={name},{PEOPLE}", _ssha(password) if name == "ann" else password))
    entries.append(_person("twin", f"uid=twin,ou=guests,{SUFFIX}", PASSWORDS["twin"]))
    entries.append(_person("mute", f"uid=mute,{PEOPLE}", None))
    entries.append(
        _person(ODD, "uid=" + "".join(f"\\{octet:02X}" for octet in ODD.encode()) + f",{PEOPLE}", ODD_PASSWORD)
    )
    return "\n".join(entries)


def _person(name: str, dn: str, password: str | None) -> str:
    secret = {"userPassword": password} if password is not None else {}
    return _entry(dn, "person", "uidObject", uid=name, cn="somebody", sn="somebody", **secret)


def _entry(dn: str, *classes: str, **attributes: str) -> str:
    lines = [("dn", dn), *(("objectClass", name) for name in classes), *attributes.items()]
    return "".join(f"{name}:: {base64.b64encode(value.encode()).decode()}\n" for name, value in lines)


def _ssha(password: str) -> str:
    salt = os.urandom(8)
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password.encode() + salt).digest() + salt).decode()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), _START_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def _write_certificates(folder: Path, hosts: tuple[str, ...], *, expired: bool) -> None:
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=2), now + (timedelta(days=-1) if expired else timedelta(days=1))
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of a test directory")])
    key_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        x509.CertificateBuilder()
        .subject_name(authority_name)
        .issuer_name(authority_name)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(key_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    server = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test directory")]))
        .issuer_name(authority_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    for name, certificate in (("ca", authority), ("server", server)):
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
