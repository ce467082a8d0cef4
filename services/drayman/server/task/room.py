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
from drayman.server.task.commands import Commands
from drayman.server.task.desk import Desk
from drayman.server.task.engine import Engine
from drayman.server.task.jobs_room import JobsRoom, open_jobs
from drayman.server.task.outputs import Outputs
from drayman.server.task.plans import Plans
from drayman.server.task.recovery import LostFiles
from drayman.server.task.sandbox_bytes import SandboxBytes
from drayman.server.task.sandbox_servicer import SandboxServicer, SandboxSweeper
from drayman.server.task.sandbox_store import SandboxStore
from drayman.server.task.secrets_delivery import SecretDelivery
from drayman.server.task.submission import Submission
from drayman.server.task.task_servicer import TaskServicer
from drayman.server.task.task_store import HERE, TaskStore
from drayman.server.task.task_watching import TaskWatching
from drayman.task.v1 import sandbox_service_pb2, task_service_pb2

log = structlog.get_logger(__name__)


class _Connections(Part):
    """Closes what the room opened, after everything that uses it."""

    def __init__(self, pools: Sequence[asyncpg.Pool]) -> None:
        self._pools = pools

    async def stop(self) -> None:
        """Close them."""
        for pool in self._pools:
            await pool.close()


class _Word:
    """Where a word about a task goes: to the other replicas, and to whoever minds it here. What minds it is there when all is."""

    def __init__(self, bus: WakeupBus) -> None:
        self._bus = bus
        self.engine: Engine | None = None
        self.watching: TaskWatching | None = None

    def announce(self, word: str) -> None:
        """Tell everybody."""
        self._bus.announce(word)
        if self.watching is not None:
            self.watching.hear(word)

    def task(self, task_id: int) -> None:
        """A task changed, and has to be looked after."""
        self.announce(f"t{task_id}")
        if self.engine is not None:
            self.engine.kick(task_id)


async def open_task(surroundings: Surroundings) -> Room:
    """Bring the schema up to date and build the room. Raises MigrationError, SettingsError, and what asyncpg raises."""
    settings, dsn = surroundings.settings, surroundings.database_url
    sandboxes = _sandboxes(settings)
    await migrate(dsn, "task", HERE / "migrations")
    pool = await open_pool(dsn, settings.pool_size)
    hot = await open_pool(dsn, settings.hot_pool_size, hot=True)
    steps = await open_pool(dsn, settings.pool_size, hot=True)  # a step may keep a connection for long

    bus = WakeupBus(dsn, "drayman_task")
    word = _Word(bus)
    registry = _neighbour(surroundings, "registry")
    outputs = Outputs(registry, surroundings.identity, settings.task_outputs)
    store = TaskStore(steps)
    plans = Plans(store, settings)
    jobs = open_jobs(
        pool,
        hot,
        settings,
        announce=word.announce,
        plans=plans,
        outputs=outputs,
        secrets=SecretDelivery(surroundings.auth, surroundings.identity),
        engine_kick=word.task,
    )
    desk = Desk(
        store=store,
        plans=plans,
        collections=Collections(
            _neighbour(surroundings, "dispatch"), registry, surroundings.identity, settings.task_outputs
        ),
        outputs=outputs,
        settings=settings,
        announce=word.announce,
        lots_changed=jobs.hand_out.lots_changed,
        orders=jobs.orders.given,
    )
    word.engine = engine = Engine(desk)
    word.watching = watching = TaskWatching(store, plans)
    _listen(bus, jobs, watching, engine)

    def changed(task_id: int) -> None:
        desk.tell(task_id)
        engine.kick(task_id)

    tasks = TaskServicer(
        store,
        plans,
        Submission(store, settings),
        Commands(store, settings),
        watching,
        LostFiles(store, outputs, changed),
        changed,
    )
    sandbox_store = SandboxStore(pool)
    services = [
        Service(task_service_pb2.DESCRIPTOR.services_by_name["TaskService"], tasks, access.TASK_SERVICE),
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
        watching,
        SandboxSweeper(sandbox_store, sandboxes, settings.sandbox_days),
        engine,
    ]
    return Room(services, parts)


def _listen(bus: WakeupBus, jobs: JobsRoom, watching: TaskWatching, engine: Engine) -> None:
    def hear(word: str) -> None:
        jobs.hear(word)
        watching.hear(word)

    def missed() -> None:
        jobs.missed()
        watching.missed()
        engine.hasten()

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
