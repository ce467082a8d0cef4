"""PostgreSQL as the services use it: connections, named statements, migrations.

Each service owns one schema. Statements live in its `queries.sql`, each under `-- name: word`, and are looked up by that name.
Migrations are its `migrations/NNNN_what.sql`, forward only, each in one transaction; what was applied is kept with a checksum.
"""

from __future__ import annotations

import errno
import hashlib
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import structlog

from drayman.server.platform.settings import SettingsError

log = structlog.get_logger(__name__)

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_MIGRATION_LOCK = 0x64726179  # "dray": one process migrates at a time

_LEDGER = """
CREATE TABLE IF NOT EXISTS public.drayman_migration (
    service    text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, number)
)
"""

#: Statements of the hot path are planned once, for any parameters, and only ever walk indexes: a plan made while the tables were
#: empty must still be right when a million rows are there.
_HOT = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "random_page_cost": "0.1",
}


#: What a database that is away, going or coming looks like. InternalClientError is asyncpg's for a connection that died half-way.
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
)
#: The same, where no class of exceptions says so.
_NO_WAY = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


def is_away(error: BaseException) -> bool:
    """Whether an exception means that the database cannot be reached just now, and not that we asked it something wrong."""
    if isinstance(error, OSError) and not isinstance(error, _AWAY):
        return error.filename is None and (error.errno in _NO_WAY or _is_failed_connect(error))
    return isinstance(error, _AWAY) and not isinstance(error, asyncpg.DataError)


def _is_failed_connect(error: OSError) -> bool:
    """Whether it is of a socket in a folder that is not there, or sums up what several addresses of a host said: that has no number."""
    return error.errno is None or isinstance(error, FileNotFoundError)


class MigrationError(Exception):
    """The database's schema is not what this version can work with."""


def load_queries(path: Path) -> Mapping[str, str]:
    """Read `queries.sql`: name -> statement. Raises ValueError on a name that occurs twice."""
    parts = _NAME.split(path.read_text())
    queries: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{path.name}: {name} is defined twice")
        queries[name] = text.strip().rstrip(";")
    return queries


async def _keep_as_is(_connection: object) -> None:
    """Skip asyncpg's reset query at each release: nothing here changes a session."""


async def open_pool(dsn: str, size: int, *, hot: bool = False) -> asyncpg.Pool:
    """Open a pool of connections; `hot` ones have their planner pinned for the statements that run per batch."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        reset=_keep_as_is,
        command_timeout=None if not hot else 60,
        max_inactive_connection_lifetime=0,
        server_settings={"application_name": "drayman", "timezone": "UTC", "jit": "off"} | (_HOT if hot else {}),
    )


async def migrate(dsn: str, service: str, folder: Path) -> list[str]:
    """Bring the service's schema up to date; returns what was applied.

    Raises MigrationError if the database is newer or was changed, SettingsError for a URL that cannot be read or leads nowhere.
    """
    files = {int(path.name[:4]): path for path in sorted(folder.glob("[0-9]*.sql"))}
    connection = await _connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_LEDGER)
            rows = await connection.fetch(
                "SELECT number, name, checksum FROM public.drayman_migration WHERE service = $1", service
            )
            applied = {row["number"]: row for row in rows}
            _check(service, files, applied)
            fresh = [number for number in files if number not in applied]
            for number in fresh:
                await _apply(connection, service, number, files[number])
    finally:
        await connection.close()
    return [files[number].name for number in fresh]


async def _connect(dsn: str) -> Any:
    try:
        return await asyncpg.connect(dsn)
    except ValueError as error:
        # What asyncpg says of it is not shown: a password with a slash in it is taken for a port.
        raise SettingsError(
            "DRAYMAN_DATABASE_URL cannot be read: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with special characters percent-encoded"
        ) from error
    except (OSError, TimeoutError) as error:
        address = urlsplit(dsn).netloc.rpartition("@")[2]
        raise SettingsError(
            f"the database at {address or 'a socket'} cannot be reached: {error or 'no answer'}"
        ) from error


async def _apply(connection: Any, service: str, number: int, path: Path) -> None:
    text = path.read_text()
    await connection.execute(text)
    await connection.execute(
        "INSERT INTO public.drayman_migration (service, number, name, checksum) VALUES ($1, $2, $3, $4)",
        service,
        number,
        path.stem,
        _checksum(text),
    )
    log.info("migrated", service=service, migration=path.name)


def _check(service: str, files: Mapping[int, Path], applied: Mapping[int, Any]) -> None:
    newer = applied.keys() - files.keys()
    if newer:
        raise MigrationError(f"{service}: the database has migration {max(newer)}, which this version does not know")
    for number, row in applied.items():
        if row["checksum"] != _checksum(files[number].read_text()):
            raise MigrationError(f"{service}: migration {files[number].name} is not the one that was applied")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
