"""The task service's own parts in the process of the tests: a real database, a real port, and a collection service that is a dictionary.

`Shelf` stands for dispatch and the registry, which have tests of their own: what tasks read, and what is put together of what they made.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import jwt
from prometheus_client import CollectorRegistry

from drayman.client.channel import open_channel
from drayman.server.auth.keys import SigningKey, jwk_set
from drayman.server.platform.calls import Dispatcher, Service
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.grpc_server import server_options
from drayman.server.platform.metrics import CallMetrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.settings import Settings
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Trust
from drayman.server.task.dataset_names import Place
from drayman.server.task.job_store import JobStore, Limits
from drayman.server.task.plans import Plans
from drayman.server.task.splitting import InputFile
from drayman.server.task.task_store import HERE, TaskStore
from drayman.server.task.tasks_room import TasksRoom, open_tasks
from drayman.task.v1 import task_pb2, task_service_pb2_grpc
from drayman.task.v1 import task_service_pb2 as pb

_ISSUER = "test"


class Issuer:
    """Makes session tokens as auth does."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        self.trust = Trust(3600.0)
        self.trust.learn_keys(jwk_set([self._key.public()]), _ISSUER)
        self.trust.learn({}, (), complete=True)

    def token(self, username: str, *, admin: bool = False, roles: Sequence[str] = ()) -> str:
        now = time.time()
        claims = {"sub": username, "adm": admin, "iss": _ISSUER, "iat": now, "exp": now + 3600, "sid": username}
        claims["roles"] = list(roles)
        return jwt.encode(claims, self._key.private, algorithm="EdDSA", headers={"kid": self._key.key_id})


@dataclass
class Found:
    name: str
    growing: bool


@dataclass
class Shelf:
    """Collections by name, and what was put together."""

    lists: dict[str, list[InputFile]] = field(default_factory=dict)
    growing: set[str] = field(default_factory=set)
    opened: dict[str, list[str]] = field(default_factory=dict)
    assembled: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    gone: set[tuple[str, str]] = field(default_factory=set)  # (version, file)
    kept: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)

    def put(self, name: str, count: int, *, events: int = 0, first: int = 1) -> None:
        files = [InputFile(f"{name}.{number:05d}", size=10, events=events) for number in range(first, first + count)]
        self.lists.setdefault(name, []).extend(files)

    async def find(self, name: str) -> Found | None:
        return Found(name, name in self.growing) if name in self.lists else None

    async def files(self, collection: Found) -> AsyncIterator[InputFile]:
        for file in list(self.lists[collection.name]):
            yield file

    async def open(self, project: str, _user: str, assets: Sequence[str]) -> None:
        self.opened.setdefault(project, []).extend(assets)

    async def assemble(self, place: Place, parts: Sequence[str], _user: str) -> None:
        self.assembled[place.project, place.asset, place.assembled] = list(parts)

    async def present(self, project: str, asset: str, version: str) -> set[str] | None:
        names = self.kept.get((project, asset, version))
        return None if names is None else {name for name in names if (version, name) not in self.gone}

    def warrant(self, _place: Place, _user: str, _seconds: float) -> str:
        return "warrant"


@dataclass
class House:
    """A task service that runs: its database, its port, its parts."""

    url: str
    settings: Settings
    issuer: Issuer
    pool: asyncpg.Pool
    hot: asyncpg.Pool
    store: TaskStore
    job_store: JobStore
    room: TasksRoom
    shelf: Shelf
    ordered: list[int]
    lots_changed: list[Callable[[], None]]
    channels: AsyncExitStack

    async def tasks(self, user: str = "ann", *, admin: bool = False, roles: Sequence[str] = ()) -> Tasks:
        """Tasks as a user sees them."""
        channel = await self.channels.enter_async_context(open_channel(self.url))
        return Tasks(self, channel, self.issuer.token(user, admin=admin, roles=roles))

    async def one(self, statement: str, *values: Any) -> Any:
        return await self.pool.fetchval(statement, *values)


def parameters(**changes: Any) -> dict[str, Any]:
    """Parameters of a small task without input; a key that is None is left out."""
    found = {
        "taskName": f"task.{uuid4().hex[:10]}",
        "userName": "somebody",
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "test",
        "taskPriority": 100,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "bash",
        "jobParameters": [{"type": "constant", "value": "-c true"}],
        "noInput": True,
        "nEvents": 3,
        "nEventsPerJob": 1,
        "maxAttempt": 3,
        "maxFailure": 3,
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def reading(dataset: str, **changes: Any) -> dict[str, Any]:
    """Parameters of a task over a collection."""
    items = [{"type": "template", "param_type": "input", "value": "-i ${IN}", "dataset": dataset}]
    return parameters(
        **{"noInput": None, "nEvents": None, "nEventsPerJob": None, "nFilesPerJob": 1, "jobParameters": items} | changes
    )


class Tasks:
    """The task service over a channel, as one user."""

    def __init__(self, house: House, channel: grpc.aio.Channel, token: str) -> None:
        self.house = house
        self.stub = task_service_pb2_grpc.TaskServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def call(self, name: str, request: Any) -> Any:
        return await getattr(self.stub, name)(request, metadata=self._metadata, timeout=30)

    def stream(self, name: str, request: Any) -> Any:
        return getattr(self.stub, name)(request, metadata=self._metadata, timeout=40)

    async def submit(self, given: dict[str, Any], *, parent: int = 0, request_id: str = "") -> pb.SubmitTaskResponse:
        request = pb.SubmitTaskRequest(parameters_json=json.dumps(given), parent_task_id=parent, request_id=request_id)
        return await self.call("SubmitTask", request)

    async def made(self, given: dict[str, Any], *, parent: int = 0) -> int:
        """Submit a task that has to be new."""
        answer = await self.submit(given, parent=parent)
        assert answer.code == 0, answer
        return answer.task_id

    async def command(self, task_id: int, command: str, **options: Any) -> pb.CommandTaskResponse:
        number = pb.TaskCommand.Value(f"TASK_COMMAND_{command.upper()}")
        if "parameters" in options:
            options["new_parameters_json"] = json.dumps(options.pop("parameters"))
        return await self.call("CommandTask", pb.CommandTaskRequest(task_id=task_id, command=number, **options))

    async def get(self, task_id: int) -> task_pb2.Task:
        return (await self.call("GetTask", pb.GetTaskRequest(task_id=task_id))).task

    async def state(self, task_id: int) -> str:
        return _state((await self.get(task_id)).state)

    async def inputs(self, task_id: int, *states: str) -> list[task_pb2.TaskInput]:
        request = pb.ListTaskInputsRequest(task_id=task_id, states=states)
        return [found async for reply in self.stream("ListTaskInputs", request) for found in reply.inputs]

    async def wait(self, task_id: int, *states: str, until: Callable[[task_pb2.Task], bool] | None = None) -> Any:
        """Watch a task until it is in one of the states (and `until` says so)."""
        request = pb.WatchTaskRequest(task_id=task_id, forever=True)
        request.interval.FromMilliseconds(100)
        seen = "nothing"
        try:
            async for reply in self.stream("WatchTask", request):
                seen = str(reply.task)
                if (not states or _state(reply.task.state) in states) and (until is None or until(reply.task)):
                    return reply.task
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"task {task_id} did not become {states}: {error.details()}\n{seen}") from error
        raise AssertionError(f"the stream of task {task_id} ended")


def _state(number: int) -> str:
    return task_pb2.TaskState.Name(number).removeprefix("TASK_STATE_").lower()


async def _nothing() -> None:
    """The keys are all there."""


@asynccontextmanager
async def house(
    database_url: str,
    folder: Path,
    *,
    shelf: Shelf | None = None,
    services: Callable[[House], Sequence[Service]] = lambda _: (),
    make_store: Callable[[asyncpg.Pool], TaskStore] = TaskStore,
    engine: bool = True,
    **settings: Any,
) -> AsyncIterator[House]:
    """Run a task service. `services` makes further services of its parts; without `engine` nothing happens to tasks by itself."""
    chosen = Settings(data_dir=folder, **{"fallback_seconds": 1.0} | settings)
    await migrate(database_url, "task", HERE / "migrations")
    issuer, found_shelf = Issuer(), shelf or Shelf()
    async with AsyncExitStack() as stack:
        pool = await open_pool(database_url, 8)
        stack.push_async_callback(pool.close)
        hot = await open_pool(database_url, 4, hot=True)
        stack.push_async_callback(hot.close)
        tasks = await open_pool(database_url, 8, hot=True)
        stack.push_async_callback(tasks.close)
        store = make_store(tasks)
        limits = Limits(
            chosen.task_sent_timeout,
            chosen.task_heartbeat_timeout,
            chosen.task_holding_timeout,
            chosen.task_transferring_timeout,
        )
        ordered: list[int] = []
        listeners: list[Callable[[], None]] = []
        room = open_tasks(
            store,
            Plans(store, chosen),
            chosen,
            announce=lambda _word: None,
            collections=found_shelf,  # type: ignore[arg-type]
            outputs=found_shelf,  # type: ignore[arg-type]
            lots_changed=lambda: [listener() for listener in listeners] and None,
            orders=ordered.extend,
        )
        running = House(
            "",
            chosen,
            issuer,
            pool,
            hot,
            store,
            JobStore(hot, limits),
            room,
            found_shelf,
            ordered,
            listeners,
            stack,
        )
        metrics = CollectorRegistry()
        dispatcher = Dispatcher(
            issuer.trust,
            TokenVerifier(issuer.trust, _nothing),
            ServiceIdentity("k" * 40),
            CallMetrics(metrics),
            max_calls=10_000,
            public_reads=True,
        )
        for service in (*room.services, *services(running)):
            dispatcher.add(service)
        server = grpc.aio.server(options=server_options(chosen))
        server.add_generic_rpc_handlers((dispatcher,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        running.url = f"grpc://127.0.0.1:{port}"
        for part in room.parts:
            if engine or part is not room.engine:
                stack.push_async_callback(part.stop)
                await part.start()
        yield running


async def settle(running: House, most: int = 1000) -> None:
    """Do what the engine would do by itself, until there is nothing to do: for houses without one."""
    for _ in range(most):
        due = await running.store.claim([], 10)
        if not due:
            return
        await asyncio.gather(*(running.room.engine.look_after(task_id, claimed) for task_id, claimed in due))
    raise AssertionError("there is always something to do")
