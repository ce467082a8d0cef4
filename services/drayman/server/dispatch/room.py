"""Opens dispatch: schema, connections, and everything that runs."""

from __future__ import annotations

import asyncpg

from drayman.dispatch.v1 import handle_service_pb2, history_service_pb2, project_service_pb2, storage_service_pb2
from drayman.server.dispatch import access
from drayman.server.dispatch.creation import Creator
from drayman.server.dispatch.growth import Grower
from drayman.server.dispatch.handle_servicer import HandleServicer
from drayman.server.dispatch.history_servicer import HistoryServicer
from drayman.server.dispatch.project_servicer import ProjectServicer
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.settler import Settler
from drayman.server.dispatch.storage_servicer import StorageServicer
from drayman.server.dispatch.store import HERE, Store
from drayman.server.dispatch.sweeper import Housekeeper, IdleSweeper, LeaseSweeper
from drayman.server.dispatch.watching import Watching
from drayman.server.platform.calls import Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.lifecycle import Part, Room, Surroundings
from drayman.server.platform.wakeups import WakeupBus

_CREATIONS_AT_ONCE = 4


class _Connections(Part):
    """Closes what the room opened, after everything that uses it."""

    def __init__(self, pools: list[asyncpg.Pool]) -> None:
        self._pools = pools

    async def stop(self) -> None:
        for pool in self._pools:
            await pool.close()


async def open_dispatch(surroundings: Surroundings) -> Room:
    """Bring the schema up to date and build the room."""
    settings, dsn = surroundings.settings, surroundings.database_url
    await migrate(dsn, "dispatch", HERE / "migrations")
    pool = await open_pool(dsn, settings.pool_size)
    hot = await open_pool(dsn, settings.hot_pool_size, hot=True)
    creations = await open_pool(dsn, _CREATIONS_AT_ONCE)
    bus = WakeupBus(dsn, "drayman_dispatch")
    store = Store(pool, hot)
    reserver = Reserver(store, bus.announce, settings.fallback_seconds)
    bus.subscribe(reserver.hear, reserver.missed)
    settler = Settler(store, reserver)
    watching = Watching(store, reserver)
    housekeeper = Housekeeper(store, settings.history_days)
    services = [
        Service(
            project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"],
            ProjectServicer(
                store, Creator(creations), Grower(creations, pool), reserver, watching, housekeeper, surroundings.auth
            ),
            access.PROJECT_SERVICE,
        ),
        Service(
            handle_service_pb2.DESCRIPTOR.services_by_name["HandleService"],
            HandleServicer(store, reserver, settler),
            access.HANDLE_SERVICE,
        ),
        Service(
            storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"],
            StorageServicer(store, reserver),
            access.STORAGE_SERVICE,
        ),
        Service(
            history_service_pb2.DESCRIPTOR.services_by_name["HistoryService"],
            HistoryServicer(store),
            access.HISTORY_SERVICE,
        ),
    ]
    parts = [
        _Connections([pool, hot, creations]),
        bus,
        housekeeper,
        reserver,
        settler,
        watching,
        LeaseSweeper(store, settler),
        IdleSweeper(store, reserver),
    ]
    return Room(services, parts)
