"""Whether a directory accepts a password: LDAP simple bind, over TLS, for logins.

A login is one connection: open, TLS, look the user up where there is no template, bind with the password, close. ldap3 blocks, so this
happens in a few threads. ldap3 is the extra `[ldap]` and is loaded only when a directory is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import math
import secrets
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from drayman.server.auth import ldap_names, names
from drayman.server.platform.settings import Settings, SettingsError

_THREADS = 8
_MOST_AT_ONCE = 200  # running and waiting for a thread
_LONGEST_PASSWORD = 4096  # bytes
_LONGEST_TIMEOUT = 600.0

_SUCCESS = 0
_PROTOCOL_ERROR = 2
_SIZE_LIMIT_EXCEEDED = 4
_INVALID_DN_SYNTAX = 34
#: Results of a bind that speak about the user. All others speak about the directory or its configuration.
_REFUSALS = frozenset(
    (
        10,  # referral: the entry is kept elsewhere; not followed, since the password would go where nobody configured it to go
        19,  # constraintViolation: locked by a password policy
        32,  # noSuchObject
        48,  # inappropriateAuthentication: the entry has no password
        49,  # invalidCredentials
        50,  # insufficientAccessRights: may not be bound to
        53,  # unwillingToPerform: account disabled
    )
)


class DirectoryAway(Exception):
    """The directory gave no answer that could be trusted: unreachable, silent, a bad certificate, no TLS, or refusing to serve.

    The text says which; it is for the site's administrators and has no password in it.
    """


@dataclass(frozen=True, slots=True)
class DirectoryUrl:
    """One server of the directory."""

    host: str
    port: int
    tls: bool  # from the first byte (ldaps); otherwise StartTLS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `ldaps://HOST[:PORT]` or `ldap://HOST[:PORT]`. Raises ValueError."""
        parts = urlsplit(text)
        if parts.scheme not in ("ldap", "ldaps"):
            raise ValueError("expected ldaps://HOST[:PORT] or ldap://HOST[:PORT]")
        if (
            not parts.hostname
            or parts.path not in ("", "/")
            or parts.query
            or parts.fragment
            or parts.username is not None
        ):
            raise ValueError("expected a host, perhaps a port, and nothing else")
        tls = parts.scheme == "ldaps"
        port = parts.port if parts.port is not None else 636 if tls else 389
        if not port:
            raise ValueError("port 0 cannot be connected to")
        return cls(parts.hostname.rstrip("."), port, tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'ldaps' if self.tls else 'ldap'}://{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class LdapSettings:
    """A directory and how to find a user's entry in it: by a template or by a search, never both. `timeout` is in seconds."""

    urls: tuple[DirectoryUrl, ...]
    dn_template: str = ""
    search_base: str = ""
    search_filter: str = "(uid={username})"
    bind_dn: str = ""
    bind_password: str = field(default="", repr=False)
    ca_file: str = ""
    timeout: float = 5.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Read the `ldap_*` settings; None if there is no directory. Raises SettingsError that names all that is wrong."""
        if not settings.ldap_url.strip():
            return None
        problems, urls = [], []
        for text in settings.ldap_url.split():
            try:
                urls.append(DirectoryUrl.parse(text))
            except ValueError as error:
                problems.append(f"ldap_url {text!r}: {error}")
        if settings.ldap_dn_template and settings.ldap_search_base:
            problems.append(
                "ldap_dn_template and ldap_search_base exclude each other: set the one by which users are to be found"
            )
        elif settings.ldap_dn_template:
            problems += _problem("ldap_dn_template", ldap_names.check_name, settings.ldap_dn_template)
            if settings.ldap_bind_dn:
                problems.append("ldap_bind_dn is for searches: set ldap_search_base instead of ldap_dn_template")
        elif settings.ldap_search_base:
            problems += _problem("ldap_search_filter", ldap_names.check_filter, settings.ldap_search_filter)
        else:
            problems.append("ldap_url needs ldap_dn_template or ldap_search_base")
        if bool(settings.ldap_bind_dn) != bool(settings.ldap_bind_password):
            problems.append("ldap_bind_dn and ldap_bind_password belong together")
        if not 0 < settings.ldap_timeout <= _LONGEST_TIMEOUT:  # which is not true of NaN either
            problems.append(f"ldap_timeout must be positive and at most {_LONGEST_TIMEOUT:g} seconds")
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(
            urls=tuple(urls),
            dn_template=settings.ldap_dn_template,
            search_base=settings.ldap_search_base,
            search_filter=settings.ldap_search_filter,
            bind_dn=settings.ldap_bind_dn,
            bind_password=settings.ldap_bind_password,
            ca_file=settings.ldap_ca_file,
            timeout=settings.ldap_timeout,
        )


def _problem(name: str, check: Callable[[str], None], template: str) -> list[str]:
    try:
        check(template)
    except ValueError as error:
        return [f"{name} {error}"]
    return []


class _Verification:
    """TLS as we want it in place of ldap3's, which has its own search for host names and no lowest version."""

    def __init__(self, context: ssl.SSLContext, host: str, timeout: float) -> None:
        self._context = context
        self._host = host
        self._timeout = timeout
        self.problem = ""

    def wrap_socket(self, connection: Any, do_handshake: bool = True) -> None:
        """Put TLS on a connection. ldap3 calls it, always with the handshake, and garbles what it raises: hence `problem`."""
        assert do_handshake
        _tune(connection, self._timeout)
        try:
            connection.socket = self._context.wrap_socket(connection.socket, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            self.problem = f"its certificate is not trusted: {error.verify_message}"
            raise
        except OSError as error:
            self.problem = f"TLS failed: {error}"
            raise


class LdapLogin:
    """Checks passwords against a directory. `close` it when no more logins come.

    Raises SettingsError when ldap3 is not installed or the file of certificate authorities cannot be used.
    """

    def __init__(self, settings: LdapSettings) -> None:
        self._settings = settings
        self._ldap3 = _load_ldap3()
        self._tls = _tls_context(settings.ca_file)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ldap")
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)

    async def check(self, username: str, password: str, registered_dn: str | None) -> bool:
        """Return whether the directory accepts a simple bind with this password.

        The entry is the one at `registered_dn`, if the user has one, else what the template or the search says. False means that the
        directory refused, or that name or password cannot be sent to one. Raises DirectoryAway when it could not be asked.
        """
        # An empty password is an unauthenticated bind (RFC 4513, 5.1.2): a directory may well call that a success.
        if (
            not username
            or len(username) > names.LONGEST
            or not password
            or "\0" in username + password + (registered_dn or "")
        ):
            return False
        try:
            # As it is, like most clients: ldap3 would prepare a text by SASLprep, and refuse some.
            secret = password.encode()
            (username + (registered_dn or "")).encode()
        except UnicodeEncodeError:
            return False
        if len(secret) > _LONGEST_PASSWORD:
            return False
        if not self._room.acquire(blocking=False):
            raise DirectoryAway(f"{_MOST_AT_ONCE} logins are waiting for the directory already")
        try:
            answer = self._threads.submit(self._ask_any, username, secret, (registered_dn or "").strip())
        except RuntimeError:
            self._room.release()
            raise DirectoryAway("no more logins: the service is shutting down") from None
        answer.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Take no more logins. Those under way end by themselves, within the time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask_any(self, username: str, password: bytes, registered_dn: str) -> bool:
        problems = []
        for url in self._settings.urls:
            try:
                return self._ask(url, username, password, registered_dn)
            except DirectoryAway as away:
                problems.append(f"{url}: {away}")
        raise DirectoryAway("; ".join(problems))

    def _ask(self, url: DirectoryUrl, username: str, password: bytes, registered_dn: str) -> bool:
        connection = self._open(url)
        try:
            if self._settings.search_base:
                # Also for a user whose entry is known, and a bind also for one who has none: time must not tell who is who.
                found = self._find(connection, username)
                dn = registered_dn or found or f"cn={secrets.token_hex(16)},{self._settings.search_base}"
            else:
                found = ldap_names.fill(self._settings.dn_template, username)
                dn = registered_dn or found
            code, description = self._bind(connection, dn, password)
        except Exception as error:
            raise DirectoryAway(self._explain(error)) from None
        finally:
            _close(connection)
        if code == _SUCCESS:
            return bool(registered_dn or found)
        if code in _REFUSALS or (code == _INVALID_DN_SYNTAX and registered_dn):
            return False
        raise DirectoryAway(f"a login was answered with {description}")

    def _open(self, url: DirectoryUrl) -> Any:
        """Return a connection with TLS, to the first address that gives one."""
        try:
            addresses = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise DirectoryAway(f"cannot resolve {url.host}: {error}") from None
        problems: dict[str, None] = {}
        # One address after the other, since ldap3 leaves sockets open when it tries several by itself.
        for address in dict.fromkeys(str(entry[4][0]) for entry in addresses):
            verification = _Verification(self._tls, url.host, self._settings.timeout)
            connection = self._prepare(url, address, verification)
            try:
                connection.open(read_server_info=False)
                _tune(connection, self._settings.timeout)
                if not url.tls:
                    self._start_tls(connection, optional=_is_loopback(url.host) and _is_loopback(address))
                return connection
            except Exception as error:
                _close(connection)
                problems[verification.problem or self._explain(error)] = None
        raise DirectoryAway(", ".join(problems))

    def _prepare(self, url: DirectoryUrl, address: str, verification: _Verification) -> Any:
        ldap3 = self._ldap3
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED)
        tls.wrap_socket = verification.wrap_socket
        server = ldap3.Server(
            address,
            url.port,
            use_ssl=url.tls,
            tls=tls,
            get_info=ldap3.NONE,
            connect_timeout=self._settings.timeout,
            allowed_referral_hosts=[],
        )
        return ldap3.Connection(
            server,
            authentication=ldap3.ANONYMOUS,
            client_strategy=ldap3.SYNC,
            auto_referrals=False,
            auto_escape=False,
            check_names=False,
            receive_timeout=math.ceil(self._settings.timeout),  # ldap3 cannot do fractions here
        )

    def _start_tls(self, connection: Any, *, optional: bool) -> None:
        """Begin TLS. Where it is optional a server that has none may go on without, but not one that fails in it."""
        try:
            connection.start_tls(read_server_info=False)
        except self._ldap3.core.exceptions.LDAPStartTLSError:
            if not (optional and connection.result and connection.result["result"] == _PROTOCOL_ERROR):
                raise
            return
        if not isinstance(connection.socket, ssl.SSLSocket):
            raise DirectoryAway("TLS did not start")

    def _find(self, connection: Any, username: str) -> str:
        """Return the name of the one entry the search finds; empty if there is none, or more than one."""
        if self._settings.bind_dn:
            code, description = self._bind(connection, self._settings.bind_dn, self._settings.bind_password.encode())
            if code != _SUCCESS:
                raise DirectoryAway(f"the account for searches was refused: {description}")
        connection.search(
            self._settings.search_base,
            ldap_names.fill(self._settings.search_filter, username),
            search_scope=self._ldap3.SUBTREE,
            dereference_aliases=self._ldap3.DEREF_NEVER,
            attributes=[self._ldap3.NO_ATTRIBUTES],
            size_limit=2,
            time_limit=math.ceil(self._settings.timeout),
        )
        if connection.result["result"] not in (_SUCCESS, _SIZE_LIMIT_EXCEEDED):
            raise DirectoryAway(
                f"the search in {self._settings.search_base!r} failed: {connection.result['description']}"
            )
        found = [entry["dn"] for entry in connection.response if entry["type"] == "searchResEntry"]
        return found[0] if len(found) == 1 else ""

    def _bind(self, connection: Any, dn: str, password: bytes) -> tuple[int, str]:
        connection.user, connection.password, connection.authentication = dn, password, self._ldap3.SIMPLE
        connection.bind(read_server_info=False)
        return connection.result["result"], connection.result["description"]

    def _explain(self, error: Exception) -> str:
        """Say what happened. Only of exceptions that are known to speak of sockets and protocol is the text repeated."""
        if isinstance(error, (DirectoryAway, OSError, self._ldap3.core.exceptions.LDAPException)):
            return str(error) or type(error).__name__
        return f"an answer that is not LDAP ({type(error).__name__})"


def _load_ldap3() -> Any:
    try:
        with warnings.catch_warnings():
            # it imports two names of pyasn1 that got others
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("ldap3")
    except ImportError:
        raise SettingsError("ldap_url is set, but ldap3 is not installed: pip install 'drayman[ldap]'") from None


def _tls_context(ca_file: str) -> ssl.SSLContext:
    try:
        folder = bool(ca_file) and Path(ca_file).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else ca_file or None, capath=ca_file if folder else None
        )
    except OSError as error:
        raise SettingsError(f"ldap_ca_file {ca_file!r}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _tune(connection: Any, timeout: float) -> None:
    connection.socket.settimeout(timeout)
    # or the bind would wait until the other side has acknowledged the end of the handshake, which takes it 40 ms
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close(connection: Any) -> None:
    with contextlib.suppress(Exception):  # the other side may be gone
        connection.unbind()
    # what did not become a connection is left open by ldap3
    if connection.socket is not None:
        connection.socket.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
