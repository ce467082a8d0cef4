"""The auth service, opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from drayman.auth.v1 import (
    audit_service_pb2,
    auth_service_pb2,
    secret_service_pb2,
    session_service_pb2,
    trust_service_pb2,
    user_service_pb2,
)
from drayman.server.auth import access
from drayman.server.auth.audit_servicer import AuditServicer
from drayman.server.auth.audit_store import AuditStore
from drayman.server.auth.auth_servicer import AuthServicer, LoginOptions
from drayman.server.auth.digest_proof import DigestProof
from drayman.server.auth.first_start import first_start
from drayman.server.auth.issuers import Issuers, load_issuers
from drayman.server.auth.key_store import KeyStore
from drayman.server.auth.ldap_login import LdapLogin, LdapSettings
from drayman.server.auth.ldap_proof import LdapProof
from drayman.server.auth.login_limits import LoginLimits
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.proof import Proof
from drayman.server.auth.secret_servicer import SecretServicer
from drayman.server.auth.secret_store import SecretStore, open_keys
from drayman.server.auth.session_servicer import SessionServicer
from drayman.server.auth.session_store import SessionStore
from drayman.server.auth.sessions import Lifetimes, Sessions
from drayman.server.auth.store import HERE, Store
from drayman.server.auth.token_proof import TokenProof
from drayman.server.auth.trust_feed import TrustFeed, TrustServicer
from drayman.server.auth.user_servicer import UserServicer
from drayman.server.auth.x509_port import Credentials, X509Port
from drayman.server.auth.x509_proof import X509Proof
from drayman.server.platform.calls import Rule, Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.lifecycle import Part, Repeating, Room, Surroundings
from drayman.server.platform.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 60.0
_SECRETS_KEYS = "secrets-keys"


@dataclass
class Providers(Part):
    """Who else is asked about identities: an LDAP server, issuers of tokens, and the authorities behind client certificates."""

    ldap: LdapLogin | None
    issuers: Issuers
    x509: X509Port | None

    async def start(self) -> None:
        """Take client certificates from now on. Raises SettingsError, OSError."""
        if self.x509 is not None:
            try:
                await self.x509.start()
            except ValueError as error:
                raise SettingsError(f"x509_ca, tls_cert, tls_key: {error}") from error
            log.info("logins by certificate", port=self.x509.port)

    async def drain(self) -> None:
        """Take no more connections for client certificates."""
        if self.x509 is not None:
            await self.x509.drain()

    async def stop(self) -> None:
        """Let go of all of them."""
        if self.x509 is not None:
            await self.x509.stop()
        if self.ldap is not None:
            self.ldap.close()
        await self.issuers.close()


class OpenPool(Part):
    """The pool of the room, closed when everything that uses it has stopped."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def stop(self) -> None:
        """Close the connections, each when its statement has ended."""
        await self._pool.close()


async def open_auth(surroundings: Surroundings) -> Room:
    """Bring the schema up to date, make what a new deployment needs, and offer the services of auth.

    Raises MigrationError, SettingsError, OSError, and what asyncpg raises for a database that cannot be used.
    """
    settings = surroundings.settings
    await migrate(surroundings.database_url, "auth", HERE / "migrations")
    issuers = load_issuers(Path(settings.token_issuers)) if settings.token_issuers else []
    ldap = LdapSettings.from_settings(settings)
    providers = Providers(LdapLogin(ldap) if ldap else None, Issuers(issuers), _x509_port(surroundings))
    pool = await open_pool(surroundings.database_url, settings.pool_size)
    try:
        keys = await _open_keys(pool, settings)
        await first_start(Store(pool), keys.sealing, settings)
        if await keys.any_in_the_clear():
            await SecretStore(pool, Store(pool), keys.sealing).reencrypt()
        own_key = await keys.nonce_key()
    except BaseException:
        await pool.close()
        raise

    # the issuer names the deployment, and so does the realm: changing it ends sessions as it ends passwords
    stored = SessionStore(pool)
    feed = TrustFeed(keys, stored, settings.realm)
    store = Store(pool, feed.hasten)
    lifetimes = Lifetimes(settings.token_lifetime, settings.session_lifetime, settings.refresh_grace)
    sessions = Sessions(store, stored, keys, settings.realm, own_key, lifetimes)
    nonces = Nonces(own_key, settings.nonce_lifetime)
    limits = LoginLimits(pool)
    audit = AuditStore(pool)
    secrets = SecretStore(pool, store, keys.sealing)
    ldap_proof = LdapProof(providers.ldap, stored, plaintext=settings.insecure_plaintext)
    proofs: dict[str, Proof] = {
        "digest": DigestProof(store, nonces, settings.realm),
        "ldap": ldap_proof,
        "x509": X509Proof(providers.x509, stored, settings.session_lifetime),
        "token": TokenProof(
            providers.issuers, surroundings.verifier, settings.realm, stored, plaintext=settings.insecure_plaintext
        ),
    }
    x509 = providers.x509
    options = LoginOptions(ldap_proof.offered, lambda: x509.port if x509 else 0, issuers)
    auth = AuthServicer(
        store,
        stored,
        keys,
        sessions,
        nonces,
        limits,
        proofs,
        options,
        settings.realm,
        address_of=x509.address_of if x509 else lambda _peer: None,
    )

    async def sweep() -> float:
        await store.sweep()
        await stored.sweep()
        await limits.sweep()
        await audit.sweep(settings.audit_days)
        for key_id in await keys.sweep():
            log.info("signing key removed", key_id=key_id)
        return _SWEEP_SECONDS

    audit_servicer = AuditServicer(store, audit)
    return Room(
        services=[
            _service(auth_service_pb2, "AuthService", auth, access.AUTH_SERVICE),
            _service(session_service_pb2, "SessionService", SessionServicer(store, stored), access.SESSION_SERVICE),
            _service(trust_service_pb2, "TrustService", TrustServicer(feed), access.TRUST_SERVICE),
            _service(
                user_service_pb2, "UserService", UserServicer(store, sessions, settings.realm), access.USER_SERVICE
            ),
            _service(secret_service_pb2, "SecretService", SecretServicer(store, secrets), access.SECRET_SERVICE),
            _service(audit_service_pb2, "AuditService", audit_servicer, access.AUDIT_SERVICE),
        ],
        parts=[OpenPool(pool), providers, feed, audit_servicer, Repeating("auth sweeper", sweep)],
    )


async def _open_keys(pool: asyncpg.Pool, settings: Settings) -> KeyStore:
    path = Path(settings.secrets_key_file) if settings.secrets_key_file else settings.data_dir / _SECRETS_KEYS
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with Store(pool).changes() as changes:
        return KeyStore(pool, await open_keys(changes.connection, path))


def _x509_port(surroundings: Surroundings) -> X509Port | None:
    settings = surroundings.settings
    if not settings.x509_listen:
        return None
    credentials = Credentials(settings.tls_cert, settings.tls_key, settings.x509_ca, settings.x509_crls)
    return X509Port(settings.x509_listen, ("127.0.0.1", surroundings.inner_port), credentials)


def _service(module: Any, name: str, servicer: object, rules: Mapping[str, Rule]) -> Service:
    return Service(module.DESCRIPTOR.services_by_name[name], servicer, rules)
