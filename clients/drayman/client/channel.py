"""Channels to a Drayman deployment, with what every client of one needs: keepalive, retries, balancing."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
import grpc.aio

#: Where a deployment is if nobody says so.
DEFAULT_URL = "grpc://127.0.0.1:8600"
DEFAULT_PORT = 8600

#: Set to `true` by whoever knows that nobody else hears what goes over the network in the clear.
INSECURE_PLAINTEXT = "DRAYMAN_INSECURE_PLAINTEXT"

_YES = ("true", "yes", "on", "1")

_AUTH = "drayman.auth.v1"
_DISPATCH = "drayman.dispatch.v1"
_REGISTRY = "drayman.registry.v1"
_TASK = "drayman.task.v1"
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        # UNAVAILABLE is the one code after which every call of ours may be sent again: calls that a replay would harm carry a request id.
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2.5,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        # Not streams: one that is repeated while its server shuts down can be lost inside gRPC (1.85), so that it neither ends nor minds
        # its deadline. Who waits for files repeats the wish; other streams are the caller's to repeat.
        {
            "name": [
                {"service": f"{_DISPATCH}.HandleService", "method": "NextFile"},
                {"service": f"{_DISPATCH}.HandleService", "method": "Work"},
                {"service": f"{_DISPATCH}.HandleService", "method": "ListReserved"},
                {"service": f"{_DISPATCH}.ProjectService", "method": "CreateProject"},
                {"service": f"{_DISPATCH}.ProjectService", "method": "AddFiles"},
                {"service": f"{_DISPATCH}.ProjectService", "method": "WatchProject"},
                {"service": f"{_DISPATCH}.ProjectService", "method": "ListHandles"},
                {"service": f"{_DISPATCH}.StorageService", "method": "UpdateReplicas"},
                {"service": f"{_DISPATCH}.HistoryService", "method": "ListProjectEvents"},
                {"service": f"{_DISPATCH}.HistoryService", "method": "ListHandleEvents"},
                {"service": f"{_REGISTRY}.RegistryService", "method": "ListEntries"},
                {"service": f"{_REGISTRY}.RegistryService", "method": "ListChanges"},
                {"service": f"{_REGISTRY}.RegistryService", "method": "AdoptRegistry"},
                {"service": f"{_REGISTRY}.ContentService", "method": "Upload"},
                {"service": f"{_REGISTRY}.ContentService", "method": "Download"},
                {"service": f"{_TASK}.TaskService", "method": "ListTasks"},
                {"service": f"{_TASK}.TaskService", "method": "ListTaskInputs"},
                {"service": f"{_TASK}.TaskService", "method": "WatchTask"},
                {"service": f"{_TASK}.TaskService", "method": "ListJobMetadata"},
                {"service": f"{_TASK}.JobService", "method": "GetJobs"},
                {"service": f"{_TASK}.JobService", "method": "ListJobs"},
                {"service": f"{_TASK}.JobService", "method": "WatchOutput"},
                {"service": f"{_TASK}.PilotService", "method": "NextJob"},
                {"service": f"{_TASK}.PilotService", "method": "Attend"},
                {"service": f"{_TASK}.SandboxService", "method": "PutSandbox"},
                {"service": f"{_TASK}.SandboxService", "method": "GetSandbox"},
                {"service": f"{_AUTH}.TrustService", "method": "WatchTrust"},
                {"service": f"{_AUTH}.SecretService", "method": "ListSecrets"},
                {"service": f"{_AUTH}.SecretService", "method": "DeliverSecrets"},
                {"service": f"{_AUTH}.AuditService", "method": "ListAuditEvents"},
            ],
        },
        # Not the last step of a login: a nonce serves once, so that a repetition of what did arrive would be called a wrong password.
        # Who logs in begins anew, with a new nonce.
        {"name": [{"service": f"{_AUTH}.AuthService", "method": "Login"}]},
    ],
}
_OPTIONS: list[tuple[str, int | str]] = [
    # Firewalls drop idle flows silently: a ping keeps them, or shows that they are gone.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A service that was restarted is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
]


class UrlError(ValueError):
    """A URL that names no Drayman deployment."""


@dataclass(frozen=True)
class Address:
    """Where to connect: gRPC's target and whether it is by TLS."""

    target: str
    tls: bool

    @property
    def readable(self) -> bool:
        """Whether others could read what is sent there: no TLS, and not this machine."""
        return not self.tls and not all(map(_is_loopback, self.target.removeprefix("dns:///").split(",")))


def parse_url(url: str | None = None) -> Address:
    """Read `grpc://host[:port][,host:port...]` (plaintext) or `grpcs://...` (TLS); None = `DRAYMAN_URL`, else the default.

    `http` and `https` are taken for the same, for scripts that have such a URL. Without a scheme it is plaintext on loopback and TLS
    beyond. Plaintext beyond loopback is refused unless `DRAYMAN_INSECURE_PLAINTEXT` is `true`. Raises UrlError.
    """
    text = url or os.environ.get("DRAYMAN_URL") or DEFAULT_URL
    bare = "://" not in text
    try:
        parts = urlsplit(f"grpc://{text}" if bare else text)
    except ValueError as error:
        # not shown, as below: there may be a password in it
        raise UrlError("the URL cannot be read: expected grpc://HOST:PORT or grpcs://HOST:PORT") from error
    if parts.username or parts.password:
        raise UrlError("a URL must not hold a user name or a password")
    if parts.scheme not in ("grpc", "grpcs", "http", "https"):
        raise UrlError(f"{text!r}: expected grpc://HOST:PORT or grpcs://HOST:PORT")
    hosts = [_with_port(text, host) for host in parts.netloc.split(",")]
    nearby = all(map(_is_loopback, hosts))
    tls = not nearby if bare else parts.scheme in ("grpcs", "https")
    if not (tls or nearby or os.environ.get(INSECURE_PLAINTEXT, "").lower() in _YES):
        raise UrlError(
            f"{text!r}: others could read what is sent there; use grpcs://, or set {INSECURE_PLAINTEXT}=true if nobody can listen"
        )
    return Address(_target(text, hosts), tls)


def open_channel(url: str | None = None, *, root_certificates: bytes | None = None) -> grpc.aio.Channel:
    """Open a channel for asyncio; it connects with the first call. `root_certificates` (PEM) replace the system's. Raises UrlError."""
    address = parse_url(url)
    if address.tls:
        credentials = grpc.ssl_channel_credentials(root_certificates or _roots())
        return grpc.aio.secure_channel(address.target, credentials, options=_OPTIONS)
    return grpc.aio.insecure_channel(address.target, options=_OPTIONS)


def open_sync_channel(
    url: str | Address | None = None, *, root_certificates: bytes | None = None, retries: bool = True
) -> grpc.Channel:
    """Open a channel for threads; it connects with the first call.

    `root_certificates` (PEM) replace the system's. Without `retries` the caller repeats calls, gRPC does not. Raises UrlError.
    """
    address = url if isinstance(url, Address) else parse_url(url)
    options = _OPTIONS if retries else [*_OPTIONS, ("grpc.enable_retries", 0)]
    if address.tls:
        credentials = grpc.ssl_channel_credentials(root_certificates or _roots())
        return grpc.secure_channel(address.target, credentials, options=options)
    return grpc.insecure_channel(address.target, options=options)


def _target(url: str, hosts: list[str]) -> str:
    if len(hosts) == 1:
        return f"dns:///{hosts[0]}"
    kind = "ipv6" if all(host.startswith("[") for host in hosts) else "ipv4"
    if kind == "ipv4" and not all(host.rpartition(":")[0].replace(".", "").isdigit() for host in hosts):
        raise UrlError(f"{url!r}: several hosts must be given by IP address; or give one name that resolves to all")
    return f"{kind}:{','.join(hosts)}"


def _is_loopback(host: str) -> bool:
    """Whether `host:port` is this machine."""
    name = host.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _roots() -> bytes | None:
    # gRPC has its own list of authorities; a site's own one is given as for other programs.
    path = os.environ.get("DRAYMAN_CA_FILE")
    if not path:
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - no need of pathlib for one read
        return file.read()


def _with_port(url: str, host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not host or (colon and not name):
        raise UrlError(f"{url!r}: a host is missing")
    if not colon or host.endswith("]"):
        return f"{host}:{DEFAULT_PORT}"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UrlError(f"{url!r}: {port!r} is no port")
    return host
