"""Opens the registry: schema, content, connections, and everything that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg

from drayman.registry.v1 import content_service_pb2, output_service_pb2, registry_service_pb2
from drayman.server.platform.calls import Rule, Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.lifecycle import Part, Room, Surroundings
from drayman.server.platform.settings import Settings, SettingsError
from drayman.server.platform.wakeups import WakeupBus
from drayman.server.registry import access
from drayman.server.registry.adopting import Adopter
from drayman.server.registry.assembly import assemble
from drayman.server.registry.content import Content
from drayman.server.registry.content_servicer import ContentServicer
from drayman.server.registry.content_stores import open_content
from drayman.server.registry.downloading import Downloads
from drayman.server.registry.maintenance import Maintenance
from drayman.server.registry.output_servicer import OutputServicer
from drayman.server.registry.place import claim
from drayman.server.registry.registry_servicer import Deployment, RegistryServicer
from drayman.server.registry.reroute_run import Rerouter
from drayman.server.registry.spoofing import Spoofing
from drayman.server.registry.staging import Staging
from drayman.server.registry.store import HERE
from drayman.server.registry.sweeping import LogSweeper, Presence, ProbationSweeper
from drayman.server.registry.upload_session import Uploads
from drayman.server.registry.whitelist import Whitelist

_CHANGED = "changed"


class _Opened(Part):
    """What the room opened, closed when everything that uses it has stopped."""

    def __init__(self, pool: asyncpg.Pool, content: Content) -> None:
        self._pool = pool
        self._content = content
        self._open = True

    async def stop(self) -> None:
        """Close both."""
        if self._open:
            self._open = False
            await self._pool.close()
            await self._content.close()


async def open_registry(surroundings: Surroundings) -> Room:
    """Bring the schema up to date, open the place where the bytes are, and offer the services of the registry.

    Raises MigrationError, SettingsError, OSError, and what asyncpg raises for a database that cannot be used.
    """
    settings, dsn = surroundings.settings, surroundings.database_url
    spoofing, whitelist = Spoofing.load(settings.registry_spoof), Whitelist.load(settings.registry_whitelist)
    staging = _staging(settings)
    place = settings.registry or str(settings.data_dir / "registry")
    await migrate(dsn, "registry", HERE / "migrations")
    try:
        content = await open_content(place, whitelist=whitelist.folders)
    except (ValueError, OSError) as error:
        raise SettingsError(f"registry {place!r}: {error}") from error
    try:
        pool = await open_pool(dsn, settings.pool_size, hot=True)
    except BaseException:
        await content.close()
        raise
    opened = _Opened(pool, content)
    try:
        await claim(pool, content, str(content.local_root or place))
    except BaseException:
        await opened.stop()
        raise

    bus = WakeupBus(dsn, "drayman_registry")
    registry = assemble(pool, content, upload_hours=settings.upload_hours, announce=lambda: bus.announce(_CHANGED))
    bus.subscribe(registry.feed.hear, registry.feed.hear)
    uploads = Uploads(registry.store, registry.versions, registry.publisher, content)
    servicer = RegistryServicer(
        registry.store,
        registry.remover,
        registry.documenter,
        registry.feed,
        Maintenance(registry.store, registry.repairs, content, registry.documenter),
        Rerouter(registry.repairs, content, registry.documenter),
        Adopter(registry.store, registry.repairs, content, settings.registry_baseline, settings.registry_growth_rate),
        spoofing,
        Deployment(
            registry=str(content.local_root or place),
            staging=str(staging or ""),
            probation_days=settings.probation_days,
            baseline=settings.registry_baseline,
            growth_rate=settings.registry_growth_rate,
        ),
        content,
    )
    content_servicer = ContentServicer(
        uploads,
        Staging(uploads, staging, whitelist),
        Downloads(registry.store, content),
        spoofing,
        surroundings.identity,
    )
    output_servicer = OutputServicer(registry, settings.registry_baseline, settings.registry_growth_rate)
    return Room(
        services=[
            _service(registry_service_pb2, "RegistryService", servicer, access.REGISTRY_SERVICE),
            _service(content_service_pb2, "ContentService", content_servicer, access.CONTENT_SERVICE),
            _service(output_service_pb2, "OutputService", output_servicer, access.OUTPUT_SERVICE),
        ],
        parts=[
            opened,
            registry.documenter,
            bus,
            Presence(dsn, registry.versions),
            uploads,
            servicer,
            registry.recovery,
            ProbationSweeper(registry.remover, settings.probation_days),
            LogSweeper(content),
        ],
    )


def _staging(settings: Settings) -> Path | None:
    """Return the staging folder, which is made if it is not there. Raises SettingsError."""
    if not settings.registry_staging:
        return None
    folder = Path(settings.registry_staging).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"registry_staging {str(folder)!r}: {error.strerror}") from error
    return folder


def _service(module: Any, name: str, servicer: object, rules: Mapping[str, Rule]) -> Service:
    return Service(module.DESCRIPTOR.services_by_name[name], servicer, rules)
