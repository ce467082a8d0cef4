"""A registry in this process for everybody who only adds to it."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.client.registry import RegistryClient
from drayman.server.platform.embedded import EmbeddedPostgres
from service.registry.house import House, house


async def _make_database(postgres: EmbeddedPostgres) -> str:
    name = f"registry_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres.dsn.replace("@/drayman?", f"@/{name}?")


@pytest_asyncio.fixture(scope="module")
async def module_database(postgres: EmbeddedPostgres) -> str:
    """A database for the tests of a module."""
    return await _make_database(postgres)


@pytest_asyncio.fixture(scope="session")
async def registry(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A registry for the whole run: use projects of your own."""
    async with house(await _make_database(postgres), tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def owner(registry: House) -> AsyncIterator[RegistryClient]:
    """The client of `ann`, who owns every project of the fixture `project`."""
    async with registry.client("ann") as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def administrator(registry: House) -> AsyncIterator[RegistryClient]:
    async with registry.client("root", admin=True) as client:
        yield client


@pytest_asyncio.fixture
async def project(administrator: RegistryClient) -> str:
    """A project of ann's own."""
    name = f"p-{uuid4().hex[:10]}"
    await administrator.create_project(name, owners=["ann"])
    return name
