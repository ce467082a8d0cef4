"""Opens the task service: schema, connections, neighbours, and everything that runs."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import grpc.aio
import structlog

from drayman.server.platform.calls import Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.lifecycle import Part, Room, Surroundings
from drayman.server.platform.settings import Settings, SettingsError
from drayman.server.platform.wakeups import WakeupBus
from drayman.server.task import access
from drayman.server.task.collections import Collections
from drayman.server.task.jobs_room import JobsRoom, open_jobs
from drayman.server.task.outputs import Outputs
from drayman.server.task.plans import Plans
from drayman.server.task.sandbox_bytes import SandboxBytes
from drayman.server.task.sandbox_servicer import SandboxServicer, SandboxSweeper
from drayman.server.task.sandbox_store import SandboxStore
from drayman.server.task.secrets_delivery import SecretDelivery
from drayman.server.task.task_store import HERE, TaskStore
from drayman.server.task.tasks_room import TasksRoom, open_tasks
from drayman.task.v1 import sandbox_service_pb2

log = structlog.get_logger(__name__)


class _Connections(Part):
    """Closes what the room opened, after everything that uses it."""

    def __init__(self, pools: Sequence[asyncpg.Pool]) -> None:
        self._pools = pools

    async def stop(self) -> None:
        """Close them."""
        for pool in self._pools:
            await pool.close()


async def open_task(surroundings: Surroundings) -> Room:
    """Bring the schema up to date and build the room. Raises MigrationError, SettingsError, and what asyncpg raises."""
    settings, dsn = surroundings.settings, surroundings.database_url
    sandboxes = _sandboxes(settings)
    await migrate(dsn, "task", HERE / "migrations")
    pool = await open_pool(dsn, settings.pool_size)
    hot = await open_pool(dsn, settings.hot_pool_size, hot=True)
    steps = await open_pool(dsn, settings.pool_size, hot=True)  # a step may keep a connection for long

    bus = WakeupBus(dsn, "drayman_task")
    registry = _neighbour(surroundings, "registry")
    outputs = Outputs(registry, surroundings.identity, settings.task_outputs)
    store = TaskStore(steps)
    plans = Plans(store, settings)
    jobs = open_jobs(
        pool,
        hot,
        settings,
        announce=bus.announce,
        plans=plans,
        outputs=outputs,
        secrets=SecretDelivery(surroundings.auth, surroundings.identity),
        engine_kick=lambda task_id: tasks.kick(task_id),  # noqa: PLW0108 - there is none yet: each half tells the other
    )
    tasks = open_tasks(
        store,
        plans,
        settings,
        announce=bus.announce,
        collections=Collections(
            _neighbour(surroundings, "dispatch"), registry, surroundings.identity, settings.task_outputs
        ),
        outputs=outputs,
        lots_changed=jobs.hand_out.lots_changed,
        orders=jobs.orders.given,
    )
    _listen(bus, jobs, tasks)
    sandbox_store = SandboxStore(pool)
    services = [
        *tasks.services,
        *jobs.services,
        Service(
            sandbox_service_pb2.DESCRIPTOR.services_by_name["SandboxService"],
            SandboxServicer(sandbox_store, sandboxes),
            access.SANDBOX_SERVICE,
        ),
    ]
    parts = [
        _Connections([pool, hot, steps]),
        bus,
        *jobs.parts,
        SandboxSweeper(sandbox_store, sandboxes, settings.sandbox_days),
        *tasks.parts,
    ]
    return Room(services, parts)


def _listen(bus: WakeupBus, jobs: JobsRoom, tasks: TasksRoom) -> None:
    def hear(word: str) -> None:
        jobs.hear(word)
        tasks.hear(word)

    def missed() -> None:
        jobs.missed()
        tasks.missed()

    bus.subscribe(hear, missed)


def _sandboxes(settings: Settings) -> SandboxBytes:
    place = settings.sandboxes or str(settings.data_dir / "sandboxes")
    try:
        return SandboxBytes(place)
    except (ValueError, OSError) as error:
        raise SettingsError(f"sandboxes {place!r}: {error}") from error


def _neighbour(surroundings: Surroundings, name: str) -> grpc.aio.Channel | None:
    """Return the channel to another service; None where the deployment has none, as far as this process knows."""
    try:
        return surroundings.peer(name)
    except SettingsError as error:
        log.info("no neighbour", service=name, reason=str(error))
        return None
