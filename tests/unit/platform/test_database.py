import asyncio
import sys
import textwrap
from pathlib import Path

import asyncpg
import pytest

from drayman.server.platform.database import MigrationError, load_queries, migrate, open_pool
from drayman.server.platform.settings import SettingsError


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name.removeprefix('m')}.sql").write_text(text)
    return path


async def ask(dsn: str, statement: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row.values()) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def test_queries_are_looked_up_by_name(tmp_path: Path) -> None:
    path = tmp_path / "queries.sql"
    path.write_text("-- a preamble\n\n-- name: one\n-- why\nSELECT 1;\n\n-- name: two\nSELECT ';', 2\n;\n")
    assert load_queries(path) == {"one": "-- why\nSELECT 1", "two": "SELECT ';', 2\n"}


def test_a_name_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "queries.sql"
    path.write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")
    with pytest.raises(ValueError, match="one is defined twice"):
        load_queries(path)


async def test_migrations_are_applied_once_and_in_order(database_url: str, tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "m", m0002_second="ALTER TABLE t ADD b int", m0001_first="CREATE TABLE t (a int)", mnotes="rubbish"
    )
    assert await migrate(database_url, "s", folder) == ["0001_first.sql", "0002_second.sql"]
    assert await migrate(database_url, "s", folder) == []
    folder_of(folder, m0003_third="INSERT INTO t (a, b) VALUES (1, 2)")
    assert await migrate(database_url, "s", folder) == ["0003_third.sql"]
    assert await ask(database_url, "SELECT a, b FROM t") == [(1, 2)]


async def test_services_do_not_see_each_others_migrations(database_url: str, tmp_path: Path) -> None:
    await migrate(database_url, "one", folder_of(tmp_path / "one", m0001_a="SELECT 1", m0002_b="SELECT 1"))
    assert await migrate(database_url, "two", folder_of(tmp_path / "two", m0001_c="SELECT 1")) == ["0001_c.sql"]


async def test_a_migration_that_was_changed_afterwards_is_refused(database_url: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", m0001_first="SELECT 1")
    await migrate(database_url, "s", folder)
    folder_of(folder, m0001_first="SELECT 2", m0002_second="CREATE TABLE t ()")
    with pytest.raises(MigrationError, match=r"0001_first\.sql is not the one that was applied"):
        await migrate(database_url, "s", folder)
    assert await ask(database_url, "SELECT to_regclass('t')::text") == [(None,)]


async def test_a_database_of_a_newer_version_is_refused(database_url: str, tmp_path: Path) -> None:
    await migrate(database_url, "s", folder_of(tmp_path / "new", m0001_first="SELECT 1", m0002_second="SELECT 1"))
    with pytest.raises(MigrationError, match="has migration 2, which this version does not know"):
        await migrate(database_url, "s", folder_of(tmp_path / "old", m0001_first="SELECT 1"))


async def test_a_migration_that_fails_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", m0001_first="CREATE TABLE t ()", m0002_second="CREATE TABLE u (); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database_url, "s", folder)
    assert await ask(database_url, "SELECT to_regclass('t')::text, to_regclass('u')::text") == [(None, None)]
    folder_of(folder, m0002_second="CREATE TABLE u ()")
    assert len(await migrate(database_url, "s", folder)) == 2


async def test_of_processes_that_migrate_at_once_one_does_it(database_url: str, tmp_path: Path) -> None:
    slow = "CREATE TABLE t (); SELECT pg_sleep(0.2)"
    folder = folder_of(tmp_path / "m", m0001_first=slow, m0002_second="CREATE TABLE u ()")
    program = textwrap.dedent("""
        import asyncio, pathlib, sys
        from drayman.server.platform.database import migrate
        print(len(asyncio.run(migrate(sys.argv[1], "s", pathlib.Path(sys.argv[2])))))
    """)
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, database_url, str(folder), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    async with asyncio.timeout(30):
        said = [(await process.communicate())[0].split()[-1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(said) == [b"0", b"2"]


@pytest.mark.parametrize(
    "dsn", ["hunter2", "mysql://u:hunter2@h/d", "postgresql://u:hunter2/@h/d", "postgresql://u:hunter2@h:port/d"]
)
async def test_a_url_that_cannot_be_read_is_refused_and_not_shown(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="DRAYMAN_DATABASE_URL") as caught:
        await migrate(dsn, "s", folder_of(tmp_path / "m", m0001_first="SELECT 1"))
    assert "hunter2" not in str(caught.value)


async def test_only_hot_connections_have_their_planner_pinned(database_url: str) -> None:
    for hot, expected in ((False, "on"), (True, "off")):
        pool = await open_pool(database_url, 2, hot=hot)
        try:
            assert await pool.fetchval("SHOW enable_seqscan") == expected
            assert await pool.fetchval("SHOW timezone") == "UTC"
        finally:
            await pool.close()
