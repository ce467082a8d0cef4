from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.client import DispatchClient, File, Project
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import handle_service_pb2_grpc
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess
from service.dispatch import raw_session
from service.dispatch.raw_session import Office

MakeProject = Callable[..., Awaitable[Project]]


@pytest.fixture(scope="session")
def user(stack: LocalStack) -> str:
    name = f"owner-{uuid4().hex[:8]}"
    stack.add_user(name)
    return name


@pytest_asyncio.fixture(scope="session")
async def dispatch(stack: LocalStack, user: str) -> AsyncIterator[DispatchClient]:
    """Dispatch as an ordinary user."""
    async with DispatchClient(stack.url, stack.token(user), timeout=30) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def admin(stack: LocalStack) -> AsyncIterator[DispatchClient]:
    async with DispatchClient(stack.url, stack.token(stack.admin[0]), timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def make(dispatch: DispatchClient) -> MakeProject:
    """Make a virtual project of so many files."""

    async def make_project(count: int, **options: object) -> Project:
        attributes = {"virtual": True} | dict(options.pop("attributes", {}))  # type: ignore[call-overload]
        files = [File("ns", f"f{number:06d}") for number in range(count)]
        return await dispatch.create_project(files, attributes=attributes, **options)  # type: ignore[arg-type]

    return make_project


@pytest.fixture
def replica(stack: LocalStack, tmp_path: Path) -> Iterator[tuple[ServiceProcess, str]]:
    """Another process of the same services on the stack's database, and its URL."""
    arguments = ["--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    process = ServiceProcess(arguments, stack.environment, tmp_path / "replica.log")
    yield process, process.await_ready(40)
    if process.running:
        process.terminate()


@pytest_asyncio.fixture(scope="session")
async def office(stack: LocalStack, user: str) -> AsyncIterator[Office]:
    async with open_channel(stack.url) as channel, asyncpg.create_pool(stack.dsn, min_size=1, max_size=2) as database:
        yield Office(channel, bearer(stack.token(user)), database)


@pytest.fixture(scope="session")
def twin_url(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second replica."""
    with raw_session.replica(stack, tmp_path_factory.mktemp("twin")) as (_, url):
        yield url


@pytest_asyncio.fixture(scope="session")
async def twin(twin_url: str) -> AsyncIterator[Any]:
    """Stub of the second replica."""
    async with open_channel(twin_url) as channel:
        yield handle_service_pb2_grpc.HandleServiceStub(channel)
