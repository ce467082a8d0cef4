"""Whether the folder of a process is the one that its database is about.

Replicas on one database must share one folder, or object store. One with a folder of its own would be believed to have what the others
have: so a folder carries an id, in `..registry-id`, which the database knows, and a process with another one does not start.
"""

from __future__ import annotations

from uuid import UUID, uuid4

import asyncpg
import structlog

from drayman.server.platform.database import is_away, load_queries
from drayman.server.platform.settings import SettingsError
from drayman.server.registry.content import Content, ContentError, ContentLost
from drayman.server.registry.store import HERE

log = structlog.get_logger(__name__)

SQL = load_queries(HERE / "place_queries.sql")

ID = "..registry-id"


async def claim(pool: asyncpg.Pool, content: Content, address: str) -> None:
    """Make a place the one of this database, unless it has one; `address` is for people. Raises SettingsError for a second one.

    A place that has an id and comes to a database without one keeps it: the database is new, and the content is to be adopted.
    """
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock"])
            known = await connection.fetchrow(SQL["place"])
            found = await _id(content)
            if known is None:
                if found is None:
                    found = uuid4()
                    # first here: if the database does not get it, the next start finds it
                    await content.write_document(ID, f"{found}\n".encode())
                await connection.execute(SQL["insert_place"], found, address)
            elif found != known["place_id"]:
                raise _second(address, known["place_id"], known["address"])
    except (ContentError, OSError) as error:
        if is_away(error):
            raise
        # read-only, full, or a store that is away: whoever uses it is told, and the next start sees to it
        log.warning("the registry's id was not compared", registry=address, error=str(error))


async def _id(content: Content) -> UUID | None:
    try:
        (text,) = await content.read_small([ID])
    except ContentLost:
        return None
    try:
        return UUID(text.decode().strip())
    except ValueError:
        return None


def _second(address: str, place_id: UUID, first: str) -> SettingsError:
    return SettingsError(
        f"registry {address!r} is not the one of this database, which is at {first!r}: set DRAYMAN_REGISTRY to one place for all "
        f"processes that share the database. If this is that registry, moved or restored, say so: write {place_id} into "
        f"{address}/{ID}"
    )
