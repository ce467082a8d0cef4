"""Everything that can be set, in one place: `DRAYMAN_*` environment variables."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

#: Fewer characters could be guessed.
_SHORTEST_SERVICE_KEY = 32


class SettingsError(Exception):
    """Settings that cannot be used; the text names all of them."""


def _setting(default: Any, text: str, *, secret: bool = False) -> Any:
    return dataclasses.field(default=default, metadata={"text": text, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one server process. Spans are in seconds, sizes in bytes."""

    listen: str = _setting("127.0.0.1:8600", "address to serve gRPC on; port 0 picks a free one")
    data_dir: Path = _setting(Path(".drayman"), "where the embedded PostgreSQL and the first credentials live")
    database_url: str = _setting("", "PostgreSQL to use; empty = an embedded one in the data directory", secret=True)
    postgres_bin: str = _setting("", "folder of the programs of the embedded PostgreSQL; empty = find one")
    auth_url: str = _setting("", "where auth is, if not in this process: grpc://HOST:PORT or grpcs://HOST:PORT")
    dispatch_url: str = _setting("", "where dispatch is, for the task service, if not in this process")
    registry_url: str = _setting("", "where the registry is, for the task service, if not in this process")
    service_key: str = _setting(
        "", "what the services of a deployment know each other by, if in several processes", secret=True
    )
    auth_silence: float = _setting(
        300.0, "how long a service goes on without a word of auth before it trusts no token any more"
    )
    metrics_listen: str = _setting("", "address to serve Prometheus /metrics on; empty = nowhere")
    tls_cert: str = _setting("", "PEM file with the certificate chain; with it the port speaks TLS")
    tls_key: str = _setting("", "PEM file with the private key")
    insecure_plaintext: bool = _setting(False, "allow plaintext beyond loopback")
    reuse_port: bool = _setting(False, "let several processes listen on one port")
    reflection: bool = _setting(True, "offer gRPC server reflection")
    log_level: str = _setting("info", "debug, info, warning or error")
    log_format: str = _setting("json", "json or console")
    drain_seconds: float = _setting(10.0, "how long running calls may take to end after SIGTERM")
    max_calls: int = _setting(50_000, "calls in progress beyond which new ones are refused")
    max_message_bytes: int = _setting(16 * 1024 * 1024, "largest message accepted")
    pool_size: int = _setting(8, "database connections for ordinary statements, per service")
    hot_pool_size: int = _setting(4, "database connections for reserving and reporting")
    admin_user: str = _setting("admin", "name of the administrator made at the first start")
    admin_password: str = _setting("", "the first administrator's password; empty = one is made up", secret=True)
    realm: str = _setting("drayman", "realm of password logins; changing it invalidates every password")
    token_lifetime: float = _setting(3600.0, "lifetime of session tokens; clients get the next one by themselves")
    session_lifetime: float = _setting(7 * 86400.0, "how long a session lasts without a refresh")
    refresh_grace: float = _setting(
        120.0, "how long a refresh token that was used is refused without ending its session"
    )
    nonce_lifetime: float = _setting(60.0, "lifetime of a login challenge")
    secrets_key_file: str = _setting(
        "", "keys that encrypt secrets at rest; empty = <data_dir>/secrets-keys, made at the first start"
    )
    audit_days: int = _setting(400, "how long the audit log is kept, in days")
    x509_listen: str = _setting("", "address to take logins by X.509 certificate on, by mutual TLS; empty = nowhere")
    x509_ca: str = _setting("", "PEM file or hashed folder of the authorities whose client certificates are trusted")
    x509_crls: bool = _setting(False, "check revocation lists, which lie in the hashed folder")
    ldap_url: str = _setting(
        "", "LDAP servers, ldaps://HOST[:PORT] or ldap:// (StartTLS), parted by blanks; empty = no LDAP"
    )
    ldap_dn_template: str = _setting("", "DN of a user, such as uid={username},ou=people,dc=example,dc=org")
    ldap_search_base: str = _setting("", "where to search the DN of a user, if there is no template")
    ldap_search_filter: str = _setting("(uid={username})", "filter of that search")
    ldap_bind_dn: str = _setting("", "DN to search as; empty = anonymously")
    ldap_bind_password: str = _setting("", "password of ldap_bind_dn", secret=True)
    ldap_ca_file: str = _setting(
        "", "PEM file of the authorities that LDAP servers are trusted by; empty = the system's"
    )
    ldap_timeout: float = _setting(5.0, "how long an LDAP server may take to answer")
    token_issuers: str = _setting("", "TOML file of the issuers whose tokens are taken for a login; empty = none")
    registry: str = _setting("", "folder of the registry, or s3://BUCKET/PREFIX; empty = <data_dir>/registry")
    registry_staging: str = _setting("", "folder for uploads by a shared file system; empty = there is none")
    registry_whitelist: str = _setting("", "file with folders, one a line, to which links may lead out of the registry")
    registry_spoof: str = _setting("", "file with who may act as whom: lines NAME:USER,USER or NAME:*")
    registry_baseline: int = _setting(1_000_000_000, "bytes that a new registry project may have")
    registry_growth_rate: int = _setting(1_000_000_000, "bytes more that it may have each year")
    probation_days: int = _setting(0, "days after which versions on probation are removed; 0 = never")
    upload_hours: float = _setting(24.0, "how long a broken upload can be resumed, in hours")
    sandboxes: str = _setting("", "folder of the sandboxes, or s3://BUCKET/PREFIX; empty = <data_dir>/sandboxes")
    sandbox_days: float = _setting(7.0, "days after which a sandbox that nobody used is removed")
    task_outputs: str = _setting("outputs", "registry project of the outputs whose dataset names no other one")
    task_limit: int = _setting(0, "active tasks that a user may have; 0 = any number")
    task_attempt_limit: int = _setting(50, "how often a task may be retried before it is exhausted")
    task_scouts: int = _setting(10, "jobs that run first, to see whether a task works")
    task_pending_interval: float = _setting(3600.0, "how often a pending task is looked at, if nothing else tells")
    task_pending_days: float = _setting(7.0, "days after which a pending task is given up")
    task_heartbeat_timeout: float = _setting(7200.0, "how long a job may be silent before it is lost")
    task_sent_timeout: float = _setting(1800.0, "how long a job that was fetched may take to begin")
    task_holding_timeout: float = _setting(3 * 3600.0, "how long a job may take to record its outputs")
    task_transferring_timeout: float = _setting(4 * 86400.0, "how long the outputs of a job may travel")
    task_activated_days: float = _setting(7.0, "days that a job may wait for a worker")
    task_running_days: float = _setting(21.0, "days that a job may run")
    public_reads: bool = _setting(True, "projects, handles and RSEs can be read without login")
    history_days: int = _setting(90, "how long the history of handles is kept, in days")
    fallback_seconds: float = _setting(5.0, "how often parked requests look for what a lost wake-up would have told")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read `DRAYMAN_<NAME>` for every setting; `overrides` (not None) win. Raises SettingsError naming every bad value."""
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        problems = []
        for name, kind in get_type_hints(cls).items():
            text = environment.get(f"DRAYMAN_{name.upper()}")
            if overrides.get(name) is not None:
                values[name] = overrides[name]
            elif text is not None:
                try:
                    values[name] = _parse(kind, text)
                except ValueError as error:
                    problems.append(f"DRAYMAN_{name.upper()}={text!r}: {error}")
        if problems:
            raise SettingsError("; ".join(problems))
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise SettingsError where settings contradict each other."""
        problems = []
        if self.log_level not in ("debug", "info", "warning", "error"):
            problems.append(f"log_level {self.log_level!r}: expected debug, info, warning or error")
        if self.log_format not in ("json", "console"):
            problems.append(f"log_format {self.log_format!r}: expected json or console")
        if self.x509_listen and not _is_address(self.x509_listen):
            problems.append(f"x509_listen {self.x509_listen!r}: expected HOST:PORT")
        if self.x509_listen and not (self.tls_cert and self.tls_key and self.x509_ca):
            problems.append("x509_listen needs tls_cert, tls_key and x509_ca")
        if 0 < len(self.service_key) < _SHORTEST_SERVICE_KEY:
            problems.append(f"service_key must have at least {_SHORTEST_SERVICE_KEY} characters")
        if bool(self.tls_cert) != bool(self.tls_key):
            problems.append("tls_cert and tls_key belong together")
        if self.metrics_listen and not _is_address(self.metrics_listen):
            problems.append(f"metrics_listen {self.metrics_listen!r}: expected HOST:PORT")
        host = self.listen.rpartition(":")[0]
        if not _is_address(self.listen):
            problems.append(f"listen {self.listen!r}: expected HOST:PORT")
        elif not _is_loopback(host) and not self.tls_cert and not self.insecure_plaintext:
            problems.append(
                f"listen {self.listen!r} is reachable by others: set tls_cert and tls_key, "
                "or allow plaintext in words (insecure_plaintext)"
            )
        problems += [
            f"{name} must be positive and finite"
            for name in (
                "max_message_bytes",
                "drain_seconds",
                "token_lifetime",
                "session_lifetime",
                "refresh_grace",
                "auth_silence",
                "audit_days",
                "upload_hours",
                "ldap_timeout",
                "nonce_lifetime",
                "max_calls",
                "pool_size",
                "hot_pool_size",
                "history_days",
                "sandbox_days",
                "task_attempt_limit",
                "task_scouts",
                "task_pending_interval",
                "task_pending_days",
                "task_heartbeat_timeout",
                "task_sent_timeout",
                "task_holding_timeout",
                "task_transferring_timeout",
                "task_activated_days",
                "task_running_days",
                "fallback_seconds",
            )
            if not 0 < getattr(self, name) < math.inf  # which is not true of NaN either
        ]
        if problems:
            raise SettingsError("; ".join(problems))

    def shown(self) -> list[tuple[str, str, str]]:
        """Name of the variable, value (secrets masked) and meaning of every setting."""
        return [
            (
                f"DRAYMAN_{field.name.upper()}",
                "***" if field.metadata["secret"] and getattr(self, field.name) else str(getattr(self, field.name)),
                field.metadata["text"],
            )
            for field in dataclasses.fields(self)
        ]


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) < 65536


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _parse(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off", ""):
            return False
        raise ValueError("expected true or false")
    return kind(text)
