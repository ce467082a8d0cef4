"""The statements of the worker's path walk to single rows, whatever the tables looked like when they were planned."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from drayman.server.platform.database import migrate, open_pool
from drayman.server.task.job_store import HERE, REPORT, SQL, WITHDRAW

_FILL = """
WITH t AS (
    INSERT INTO task.task (name, owner, vo, label, type, request_no, state, priority, current_priority, submitted, parameters)
    SELECT 't', 'o', 'v', 'user', 'anal', 0, 'running', 1, 1, '{}', '{}' FROM generate_series(1, $1::int) RETURNING task_id
), y AS (
    INSERT INTO task.tally (task_id, inputs, picked, jobs, live) SELECT task_id, $2::int, $2::int, $2::int, $2::int FROM t
), d AS (
    INSERT INTO task.dataset (task_id, dataset_no, stream_no, name) SELECT task_id, 1, 1, 'd' FROM t
), l AS (
    INSERT INTO task.lot (task_id, owner, label, priority, ready) SELECT task_id, 'o', 'user', 1, $2::int FROM t RETURNING task_id, lot_id
), j AS (
    INSERT INTO task.job (task_id, lot_id, serial, inputs, state, worker_id, worker_user, request_id, lease_until, ended_at)
    SELECT task_id, lot_id, n, ARRAY[n], $3::text::task.job_state, 'w', 'u', gen_random_uuid(),
           CASE WHEN $3 IN ('sent', 'running') THEN now() END, CASE WHEN $3 IN ('finished', 'failed') THEN now() END
      FROM l, generate_series(1, $2::int) n RETURNING job_id, task_id, serial
), o AS (
    INSERT INTO task.output (job_id, name, task_id, stream, type, dataset, project, asset, version)
    SELECT job_id, 'f', task_id, 'OUTPUT0', 'output', 'd', 'p', 'a', 'v' FROM j WHERE $3 = 'finished'
)
INSERT INTO task.input (task_id, input_no, stream_no, dataset_no, state, name, job_id)
SELECT task_id, serial, 1, 1, 'picked', 'f' || serial, job_id FROM j
"""
_LIST = "'{1}'"
_TEXT = "'{w}'"
_NULL = "'{NULL}'"
_EMPTY = ", ".join(["'{}'"] * 11)

#: Name -> statement, types and values of its parameters.
_STATEMENTS = {
    "draw": (
        SQL["draw"],
        "bigint[], int[], int[], text[], text[], text[], text[], uuid[], int[], float8",
        f"{_LIST}, {_LIST}, '{{0}}', {_TEXT}, {_TEXT}, {_TEXT}, {_TEXT}, {_NULL}, {_LIST}, 60",
    ),
    "held_again": (SQL["held_again"], "text[], text[], uuid[]", f"{_TEXT}, {_TEXT}, {_NULL}"),
    "deliver_again": (SQL["deliver_again"], "text, uuid, text", "'w', gen_random_uuid(), 'u'"),
    "give_back": (
        SQL["give_back"],
        "bigint[], int[], text[], text[], timestamptz[]",
        f"{_LIST}, {_LIST}, {_TEXT}, {_TEXT}, {_NULL}",
    ),
    "touch": (
        SQL["touch"],
        "bigint[], int[], text[], text[], text[], text[], text[], float8, float8, float8",
        f"{_LIST}, {_LIST}, {_TEXT}, {_TEXT}, '{{running}}', {_NULL}, {_NULL}, 1, 1, 1",
    ),
    "standing": (SQL["standing"], "bigint[]", _LIST),
    "report": (
        REPORT,
        f"bigint[], int[], {', '.join(['text[]'] * 6)}, int[], {', '.join(['text[]'] * 7)}, bigint[], text[], bigint[]",
        f"{_LIST}, {_LIST}, {_TEXT}, {_TEXT}, '{{finished}}', {_NULL}, {_NULL}, {_NULL}, {_EMPTY}",
    ),
    "withdraw": (
        WITHDRAW,
        "bigint[], text[], text[], text[], text[], bool[]",
        f"{_LIST}, '{{cancelled}}', '{{\"{{}}\"}}', {_TEXT}, {_NULL}, '{{false}}'",
    ),
    "orders_of_workers": (SQL["orders_of_workers"], "text[], text[]", f"{_TEXT}, {_TEXT}"),
    "whose_jobs": (SQL["whose_jobs"], "bigint[]", _LIST),
    "orders": (SQL["orders"], "bigint[]", _LIST),
    "jobs": (SQL["jobs"], "bigint[], bool, bool", f"{_LIST}, true, true"),
    "ids_of_task": (SQL["ids_of_task"], "bigint, bigint, text[], int", "1, 0, NULL, 10"),
    "set_debug": (SQL["set_debug"], "bigint, bool", "1, true"),
    "output_tail": (SQL["output_tail"], "bigint", "1"),
}
_WATCHED = ("job", "input", "output", "dataset", "job_tail")
#: Any of these in what an index is searched for leads to few rows.
_KEYS = ("job_id", "input_no", "lot_id =", "request_id =", "worker_id =", "dataset_no", "task_id = ")


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    await migrate(database_url, "task", HERE / "migrations")
    pool = await open_pool(database_url, 1, hot=True)
    async with pool.acquire() as connection:
        yield connection
    await pool.close()


@pytest.mark.parametrize(
    ("tasks", "jobs", "state"),
    [
        (1, 0, "activated"),
        (1, 1, "activated"),
        (1, 5000, "activated"),
        (1, 5000, "sent"),
        (1, 5000, "running"),
        (1, 5000, "finished"),
        (2000, 1, "finished"),
    ],
)
async def test_no_hot_statement_walks_a_task(connection: Any, tasks: int, jobs: int, state: str) -> None:
    await connection.execute(_FILL, tasks, jobs, state)
    await connection.execute(
        "VACUUM ANALYZE task.job, task.input, task.tally, task.lot, task.task, task.dataset, task.output"
    )
    for name, (statement, types, _) in _STATEMENTS.items():
        await connection.execute(f"PREPARE {name} ({types}) AS {statement}")
        await scans(connection, name)  # planned for the tables as they are
    await connection.execute(_FILL, 1, 20_000, "activated")
    for name in _STATEMENTS:
        for scan in await scans(connection, name):
            condition = scan.get("Index Cond", "nothing")
            assert any(key in condition for key in _KEYS), json.dumps([name, scan])
            if scan["Relation Name"] == "job" and name not in ("ids_of_task", "draw"):
                assert "job_id" in condition or "worker_id =" in condition, json.dumps([name, scan])
            if scan["Relation Name"] == "input":
                assert "input_no" in condition, json.dumps([name, scan])
            assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), (name, scan)


async def test_the_draw_sorts_no_task(connection: Any) -> None:
    """From its bound on a lot is read as far as jobs are taken, and no further."""
    await connection.execute(_FILL, 1, 20_000, "activated")
    statement, types, values = _STATEMENTS["draw"]
    await connection.execute(f"PREPARE draw ({types}) AS {statement}")
    values = values.replace(_LIST, "'{1}'", 1)
    plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) EXECUTE draw ({values})"))
    for node in nodes(plan[0]["Plan"]):
        assert node["Actual Rows"] < 10, node


async def scans(connection: Any, name: str) -> list[dict[str, Any]]:
    """Every place of the statement's plan where rows of jobs, inputs or outputs are read."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({_STATEMENTS[name][2]})"))
    found = [
        node
        for node in nodes(plan[0]["Plan"])
        if node.get("Relation Name") in _WATCHED and node["Node Type"] != "ModifyTable"
    ]
    assert found
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
