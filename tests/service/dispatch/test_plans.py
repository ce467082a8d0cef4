"""The statements of the worker's path walk to single rows, whatever the tables looked like when they were planned."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from drayman.server.dispatch.store import HERE, SQL
from drayman.server.platform.database import migrate, open_pool

_FILL = """
WITH p AS (
    INSERT INTO dispatch.project (owner, virtual) SELECT 'o', true FROM generate_series(1, $1::int) RETURNING project_id
), f AS (
    INSERT INTO dispatch.file (project_id, handle_id, namespace, name)
    SELECT project_id, n, 'ns', 'f' || n FROM p, generate_series(1, $2::int) n
), t AS (
    INSERT INTO dispatch.tally (project_id, files) SELECT project_id, $2::int FROM p
), g AS (
    INSERT INTO dispatch.ready_group (project_id, attempts, location_id, ready, low) SELECT project_id, 0, 0, $2::int, 1 FROM p
)
INSERT INTO dispatch.handle (project_id, handle_id, location_id, state, attempts, worker_id, reserved_at, lease_until)
SELECT project_id, n, 0, $3::text::dispatch.handle_state, 1, 'w', now(), CASE WHEN $3 = 'reserved' THEN now() END
  FROM p, generate_series(1, $2::int) n
"""

#: Name of a statement -> types and values of its parameters.
_STATEMENTS = {
    "draw": (
        "bigint, int[], int[], int[], int[], text[], uuid[], text[], int[], int[]",
        "1, '{0}', '{0}', '{1}', '{0}', '{w}', '{NULL}', '{s}', '{}', '{}'",
    ),
    "settle": (
        "bigint, bigint[], int[], int[], text[], text[], uuid[], text[], text[]",
        "1, '{1}', '{1}', '{0}', '{w}', '{done}', '{NULL}', '{\"\"}', '{\"\"}'",
    ),
    "standing": ("bigint, bigint[]", "1, '{1}'"),
    "renew": ("bigint, text, bigint[], int[]", "1, 'w', '{1}', '{1}'"),
    "readable_replicas": ("bigint, bigint[]", "1, '{1}'"),
    "find_handles": ("bigint, text[], text[]", "1, '{ns}', '{f1}'"),
}


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    await migrate(database_url, "dispatch", HERE / "migrations")
    pool = await open_pool(database_url, 1, hot=True)
    async with pool.acquire() as connection:
        yield connection
    await pool.close()


@pytest.mark.parametrize(
    ("projects", "files", "state"),
    [
        (1, 0, "initial"),
        (1, 1, "initial"),
        (1, 5000, "initial"),
        (1, 5000, "reserved"),
        (1, 5000, "done"),
        (2000, 1, "done"),
    ],
)
async def test_no_hot_statement_walks_a_project(connection: Any, projects: int, files: int, state: str) -> None:
    await connection.execute(_FILL, projects, files, state)
    await connection.execute(
        "VACUUM ANALYZE dispatch.handle, dispatch.file, dispatch.tally, dispatch.ready_group, dispatch.project"
    )
    for name, (types, _) in _STATEMENTS.items():
        await connection.execute(f"PREPARE {name} ({types}) AS {SQL[name]}")
        await scans(connection, name)  # planned for the tables as they are
    async with connection.transaction():
        await connection.execute(_FILL, 1, 20_000, "initial")
        assert await connection.fetchval(SQL["statistics_are_stale"], 20_000)
        await connection.execute(SQL["renew_statistics"])
    for name in _STATEMENTS:
        for scan in await scans(connection, name):
            condition = scan.get("Index Cond", "nothing")
            assert "handle_id" in condition or "name = " in condition, (name, scan)


async def scans(connection: Any, name: str) -> list[dict[str, Any]]:
    """Every place of the statement's plan where handles, files or replicas are read."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({_STATEMENTS[name][1]})"))
    found = [
        node
        for node in nodes(plan[0]["Plan"])
        if node.get("Relation Name") in ("handle", "file", "replica") and node["Node Type"] != "ModifyTable"
    ]
    assert found
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
