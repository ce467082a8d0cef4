"""The auth service, opened."""

from __future__ import annotations

import asyncpg
import structlog

from drayman.auth.v1 import auth_service_pb2, user_service_pb2
from drayman.server.auth.access import AUTH_SERVICE, USER_SERVICE
from drayman.server.auth.auth_servicer import AuthServicer
from drayman.server.auth.first_start import first_start
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.sessions import Sessions
from drayman.server.auth.store import HERE, Store
from drayman.server.auth.user_servicer import UserServicer
from drayman.server.platform.calls import Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.lifecycle import Part, Repeating, Room, Surroundings

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 60.0


class OpenPool(Part):
    """The pool of the room, closed when everything that uses it has stopped."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def stop(self) -> None:
        """Close the connections, each when its statement has ended."""
        await self._pool.close()


async def open_auth(surroundings: Surroundings) -> Room:
    """Bring the schema up to date, make what a new deployment needs, and offer AuthService and UserService.

    Raises MigrationError, SettingsError, and what asyncpg raises for a database that cannot be used.
    """
    settings = surroundings.settings
    await migrate(surroundings.database_url, "auth", HERE / "migrations")
    pool = await open_pool(surroundings.database_url, settings.pool_size)
    try:
        store = Store(pool)
        await first_start(store, settings)
        nonces = Nonces(await store.nonce_key(), settings.nonce_lifetime)
    except BaseException:
        await pool.close()
        raise

    # the issuer names the deployment, and so does the realm: changing it ends sessions as it ends passwords
    sessions = Sessions(store, settings.realm, settings.token_lifetime)

    async def sweep() -> float:
        for key_id in await store.sweep():
            log.info("signing key removed", key_id=key_id)
        return _SWEEP_SECONDS

    auth = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]
    users = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
    return Room(
        services=[
            Service(auth, AuthServicer(store, nonces, sessions, settings.realm), AUTH_SERVICE),
            Service(users, UserServicer(store, sessions, settings.realm), USER_SERVICE),
        ],
        parts=[OpenPool(pool), Repeating("auth sweeper", sweep)],
    )
