"""The registry's stores and what works with them, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from drayman.server.registry.change_feed import ChangeFeed
from drayman.server.registry.content import Content
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.maintenance_store import MaintenanceStore
from drayman.server.registry.probation_store import ProbationStore
from drayman.server.registry.publication import Publisher
from drayman.server.registry.removal import Remover
from drayman.server.registry.removal_store import RemovalStore
from drayman.server.registry.store import Store
from drayman.server.registry.sweeping import Recovery
from drayman.server.registry.version_store import LEASE, VersionStore


@dataclass(frozen=True, slots=True)
class Registry:
    """What the servicers are made of."""

    content: Content
    store: Store
    versions: VersionStore
    repairs: MaintenanceStore
    documenter: Documenter
    remover: Remover
    publisher: Publisher
    feed: ChangeFeed
    recovery: Recovery


def assemble(
    pool: asyncpg.Pool,
    content: Content,
    *,
    upload_hours: float = 24.0,
    lease: float = LEASE,
    announce: Callable[[], None] = lambda: None,
) -> Registry:
    """Put a registry together; `pool` is opened with `hot=True`.

    `announce` is called after each commit that adds to the log of changes: to tell the other replicas, whose `feed.hear` it shall reach.
    """
    feed = ChangeFeed(pool)

    def changed() -> None:
        feed.hear()
        announce()

    store = Store(pool)
    versions = VersionStore(pool, upload_hours, lease=lease, changed=changed)
    removals = RemovalStore(pool, changed=changed)
    documenter = Documenter(pool, content)
    remover = Remover(ProbationStore(pool, changed=changed), removals, content, documenter)
    publisher = Publisher(store, versions, removals, content, remover, documenter)
    return Registry(
        content=content,
        store=store,
        versions=versions,
        repairs=MaintenanceStore(pool, changed=changed),
        documenter=documenter,
        remover=remover,
        publisher=publisher,
        feed=feed,
        recovery=Recovery(versions, publisher, remover, documenter, content),
    )
