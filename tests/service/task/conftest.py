"""A task service in this process for everybody who only adds to it, and databases for those who need their own."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.server.platform.embedded import EmbeddedPostgres
from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, house


async def make_database(postgres: EmbeddedPostgres) -> str:
    name = f"task_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres.dsn.replace("@/drayman?", f"@/{name}?")


@pytest_asyncio.fixture(scope="session")
async def task_house(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A task service for the whole run: use names of your own."""
    async with house(await make_database(postgres), tmp_path_factory.mktemp("task")) as running:
        yield running


@pytest_asyncio.fixture
async def ann(task_house: House) -> Tasks:
    """An ordinary user."""
    return await task_house.tasks(f"ann-{uuid4().hex[:6]}")


@pytest_asyncio.fixture
async def bob(task_house: House) -> Tasks:
    """Somebody else."""
    return await task_house.tasks(f"bob-{uuid4().hex[:6]}")


@pytest_asyncio.fixture
async def boss(task_house: House) -> Tasks:
    """Somebody with the production role."""
    return await task_house.tasks("boss", roles=["production"])


@pytest.fixture
def worker(task_house: House) -> Worker:
    return Worker(task_house)
