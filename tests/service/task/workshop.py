"""The half of the task service that is about jobs, in the process of the tests: on a database of one's own, behind a real port."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import jwt
from prometheus_client import CollectorRegistry

from drayman.server.auth.keys import SigningKey, jwk_set
from drayman.server.platform.calls import Dispatcher
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.grpc_server import server_options
from drayman.server.platform.metrics import CallMetrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.settings import Settings
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Trust
from drayman.server.platform.wakeups import WakeupBus
from drayman.server.task.job_store import HERE
from drayman.server.task.jobs_room import JobsRoom, open_jobs
from drayman.server.task.outputs import Outputs
from drayman.server.task.plans import Plans
from drayman.server.task.task_store import TaskStore
from drayman.task.v1 import (
    farm_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    pilot_service_pb2_grpc,
)
from drayman.task.v1 import pilot_service_pb2 as pb

_ISSUER = "test"
_numbers = itertools.count(1)


class Issuer:
    """Makes session tokens as auth does."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        self.trust = Trust(3600.0)
        self.trust.learn_keys(jwk_set([self._key.public()]), _ISSUER)
        self.trust.learn({}, (), complete=True)

    def token(self, username: str, *roles: str, admin: bool = False) -> str:
        now = time.time()
        claims = {
            "sub": username,
            "adm": admin,
            "roles": list(roles),
            "iss": _ISSUER,
            "iat": now,
            "exp": now + 3600,
            "sid": username,
        }
        return jwt.encode(claims, self._key.private, algorithm="EdDSA", headers={"kid": self._key.key_id})


class Secrets:
    """Secrets by user: what auth would deliver."""

    def __init__(self) -> None:
        self.by_user: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []

    async def of(self, user: str) -> dict[str, str]:
        self.asked.append(user)
        return self.by_user.get(user, {})


@dataclass
class Replica:
    """One process of the service."""

    address: str
    room: JobsRoom
    bus: WakeupBus
    dispatcher: Dispatcher
    kicked: list[int] = field(default_factory=list)


@dataclass
class Task:
    """A task as the engine would have left it: its jobs are made."""

    task_id: int
    lot_id: int
    job_ids: list[int]
    owner: str


class Pilot:
    """A worker with raw stubs."""

    def __init__(self, channel: grpc.aio.Channel, token: str, worker_id: str) -> None:
        self.stub: Any = pilot_service_pb2_grpc.PilotServiceStub(channel)
        self.worker_id = worker_id
        self.metadata = (("authorization", f"Bearer {token}"),)

    def ask(self, **wish: Any) -> Any:
        """Begin to wait."""
        timeout = wish.pop("timeout", 0)
        request = pb.NextJobRequest(worker_id=wish.pop("worker_id", self.worker_id), **wish)
        if timeout is not None:
            request.timeout.FromMilliseconds(round(timeout * 1000))
        return self.stub.NextJob(request, metadata=self.metadata, timeout=30)

    async def take(self, **wish: Any) -> list[pb.JobDescription]:
        """Return the jobs that a wish gets; without `timeout`, those that are there now."""
        events = [event async for event in self.ask(**wish)]
        return list(events[-1].jobs.jobs) if events[-1].HasField("jobs") else []

    async def update(self, *updates: pb.JobUpdate, worker_id: str = "") -> list[pb.JobAnswer]:
        request = pb.UpdateJobsRequest(worker_id=worker_id or self.worker_id, updates=updates)
        reply = await self.stub.UpdateJobs(request, metadata=self.metadata, timeout=30)
        return list(reply.answers)

    async def report(self, job: pb.JobDescription | int, state: int, **more: Any) -> pb.JobAnswer:
        """Report one job."""
        job_id = job if isinstance(job, int) else job.job_id
        (answer,) = await self.update(say(job_id, state, **more))
        return answer


def say(job_id: int, state: int, attempt: int = 1, **more: Any) -> pb.JobUpdate:
    fields = more.pop("fields", None)
    return pb.JobUpdate(
        job_id=job_id,
        attempt=attempt,
        state=state,  # type: ignore[arg-type] # an enum's values are whole numbers
        fields_json=json.dumps(fields) if fields else "",
        **more,
    )


class Workshop:
    """The service, and what the tests ask of it and put into its tables."""

    def __init__(self, dsn: str, pool: asyncpg.Pool, issuer: Issuer, secrets: Secrets, stack: AsyncExitStack) -> None:
        self.dsn = dsn
        self.pool = pool
        self.issuer = issuer
        self.secrets = secrets
        self.replicas: list[Replica] = []
        self._stack = stack
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, replica: int = 0) -> grpc.aio.Channel:
        address = self.replicas[replica].address
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
            self._stack.push_async_callback(self._channels[address].close)
        return self._channels[address]

    def pilot(self, user: str, *roles: str, worker_id: str = "", admin: bool = False, replica: int = 0) -> Pilot:
        token = self.issuer.token(user, *roles, admin=admin)
        return Pilot(self.channel(replica), token, worker_id or f"worker-{next(_numbers)}")

    def jobs(self, replica: int = 0) -> Any:
        return job_service_pb2_grpc.JobServiceStub(self.channel(replica))

    def farm(self) -> Any:
        return farm_service_pb2_grpc.FarmServiceStub(self.channel())

    def login(self, user: str, *roles: str, admin: bool = False) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.issuer.token(user, *roles, admin=admin)}"),)

    def user(self) -> str:
        """Return a name that nobody has."""
        return f"user-{uuid4().hex[:8]}"

    async def get(self, *job_ids: int, files: bool = True, user: str = "") -> list[job_pb2.Job]:
        request = job_service_pb2.GetJobsRequest(job_ids=job_ids, files=files)
        metadata = self.login(user) if user else ()
        return [job async for reply in self.jobs().GetJobs(request, metadata=metadata) for job in reply.jobs]

    # --- what the engine would do ------------------------------------------------------------------------------------

    async def task(
        self,
        owner: str,
        count: int = 1,
        *,
        files_per_job: int = 1,
        scouts: int = 0,
        max_attempts: int = 3,
        max_failures: int | None = None,
        priority: int = 1000,
        cores: int = 1,
        memory_mb: int = 0,
        sites: Sequence[str] = (),
        label: str = "user",
        kind: str = "run",
        announce: bool = True,
        parameters: dict[str, Any] | None = None,
    ) -> Task:
        """Write a running task with `count` jobs that are ready, over `files_per_job` inputs each."""
        text = json.dumps(_parameters(owner) | (parameters or {}))
        async with self.pool.acquire() as connection, connection.transaction():
            task_id = await connection.fetchval(
                "INSERT INTO task.task (name, owner, vo, label, type, request_no, state, priority, current_priority, submitted, parameters,"
                " scouts_until) VALUES ('t', $1, 'wlcg', $2, 'anal', 0, 'running', $3, $3, $4, $4, $5) RETURNING task_id",
                owner,
                label,
                priority,
                text,
                scouts,
            )
            inputs = count * files_per_job
            await connection.execute(
                "INSERT INTO task.tally (task_id, inputs, picked, jobs, live, serial)"
                " VALUES ($1, $2::bigint, $2::bigint, $3::int, $3::int, $3::int)",
                task_id,
                inputs,
                count,
            )
            await connection.execute(
                "INSERT INTO task.dataset (task_id, dataset_no, stream_no, name) VALUES ($1, 1, 1, 'outputs/data/v1')",
                task_id,
            )
            lot_id = await connection.fetchval(
                "INSERT INTO task.lot (task_id, owner, label, priority, ready, cores, memory_mb, sites)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING lot_id",
                task_id,
                owner,
                label,
                priority,
                count,
                cores,
                memory_mb,
                list(sites),
            )
            rows = await connection.fetch(
                "INSERT INTO task.job (task_id, lot_id, serial, inputs, kind)"
                " SELECT $1, $2, n, ARRAY(SELECT i FROM generate_series((n - 1) * $4::int + 1, n * $4::int) i), $5::text::task.job_kind"
                " FROM generate_series(1, $3::int) n ORDER BY n RETURNING job_id, serial",
                task_id,
                lot_id,
                count,
                files_per_job,
                kind,
            )
            job_ids = [row["job_id"] for row in sorted(rows, key=lambda row: row["serial"])]
            await connection.execute(
                "INSERT INTO task.input (task_id, input_no, stream_no, dataset_no, state, name, size, attempts, max_attempts,"
                " max_failures,"
                " place, job_id) SELECT $1, n, 1, 1, 'picked', 'file' || n || '.dat', n, 1, $3::int, $4::int,"
                " 'outputs/data/v1/file' || n || '.dat',"
                " ($5::bigint[])[(n - 1) / $6::int + 1] FROM generate_series(1, $2::int) n",
                task_id,
                inputs,
                max_attempts,
                max_failures,
                job_ids,
                files_per_job,
            )
        if announce:
            self.replicas[0].room.hand_out.lots_changed()
        return Task(task_id, lot_id, job_ids, owner)

    async def row(self, job_id: int) -> Any:
        return await self.pool.fetchrow("SELECT *, state::text AS s FROM task.job WHERE job_id = $1", job_id)

    async def tally(self, task_id: int) -> Any:
        return await self.pool.fetchrow("SELECT * FROM task.tally WHERE task_id = $1", task_id)

    async def inputs(self, task_id: int) -> list[Any]:
        return list(
            await self.pool.fetch(
                "SELECT *, state::text AS s FROM task.input WHERE task_id = $1 ORDER BY input_no", task_id
            )
        )

    async def ready(self, lot_id: int) -> int:
        """What the lot says of how many are ready: it must be how many there are."""
        row = await self.pool.fetchrow(
            "SELECT ready, (SELECT count(*) FROM task.job j WHERE j.lot_id = l.lot_id AND state = 'activated'"
            " AND job_id >= l.low) AS there FROM task.lot l WHERE lot_id = $1",
            lot_id,
        )
        assert row is not None
        assert row["ready"] == row["there"]
        return int(row["ready"])

    # --- replicas ----------------------------------------------------------------------------------------------------

    async def open_replica(self, **settings: Any) -> Replica:
        chosen = Settings(**({"fallback_seconds": 30.0} | settings))
        pool = await open_pool(self.dsn, 6)
        hot = await open_pool(self.dsn, 4, hot=True)
        self._stack.push_async_callback(pool.close)
        self._stack.push_async_callback(hot.close)
        identity = ServiceIdentity("k" * 40)
        metrics = CollectorRegistry()
        verifier = TokenVerifier(self.issuer.trust, _nothing)
        dispatcher = Dispatcher(
            self.issuer.trust, verifier, identity, CallMetrics(metrics), max_calls=20_000, public_reads=True
        )
        bus = WakeupBus(self.dsn, "drayman_task")
        kicked: list[int] = []
        room = open_jobs(
            pool,
            hot,
            chosen,
            announce=bus.announce,
            plans=Plans(TaskStore(pool), chosen),
            outputs=Outputs(None, identity, chosen.task_outputs),
            secrets=self.secrets,
            engine_kick=kicked.append,
        )
        bus.subscribe(room.hear, room.missed)
        for service in room.services:
            dispatcher.add(service)
        for part in (bus, *room.parts):
            self._stack.push_async_callback(part.stop)
            await part.start()
        server = grpc.aio.server(options=server_options(chosen))
        server.add_generic_rpc_handlers((dispatcher,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        self.replicas.append(Replica(f"127.0.0.1:{port}", room, bus, dispatcher, kicked))
        return self.replicas[-1]


async def _nothing() -> None:
    """The keys are all there."""


@asynccontextmanager
async def workshop(database_url: str, **settings: Any) -> AsyncIterator[Workshop]:
    """Run one replica."""
    await migrate(database_url, "task", HERE / "migrations")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(database_url, min_size=1, max_size=4))
        shop = Workshop(database_url, pool, Issuer(), Secrets(), stack)
        await shop.open_replica(**settings)
        yield shop


def _parameters(owner: str) -> dict[str, Any]:
    return {
        "taskName": "t",
        "userName": owner,
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "test",
        "taskPriority": 1000,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "bash",
        "nFilesPerJob": 1,
        "jobParameters": [
            {"type": "constant", "value": "-c run"},
            {"type": "template", "param_type": "input", "value": "${IN}", "dataset": "outputs/data/v1"},
            {
                "type": "template",
                "param_type": "output",
                "value": "out.${SN}.txt",
                "dataset": "user.x.out",
                "container": "user.x.out/",
            },
        ],
        "log": {
            "type": "template",
            "param_type": "log",
            "value": "log.${SN}.tgz",
            "dataset": "user.x.log",
            "container": "user.x.log/",
        },
    }
