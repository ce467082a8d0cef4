"""A registry without its servers, on a database and a folder of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drayman.server.platform.database import migrate, open_pool
from drayman.server.registry.adopting import Adopter, Outcome
from drayman.server.registry.assembly import Registry, assemble
from drayman.server.registry.content_stores import open_content
from drayman.server.registry.store import HERE


@asynccontextmanager
async def bare_registry(database_url: str, root: Path) -> AsyncIterator[Registry]:
    """Open one until the end of the block."""
    await migrate(database_url, "registry", HERE / "migrations")
    pool = await open_pool(database_url, 4, hot=True)
    content = await open_content(root)
    try:
        yield assemble(pool, content)
    finally:
        await pool.close()
        await content.close()


async def adopt(registry: Registry, *, verify: bool = False, dry_run: bool = False) -> dict[str, Outcome]:
    """Take over what is in the folder."""
    adopter = Adopter(registry.store, registry.repairs, registry.content, 10**9, 10**9)
    return {each.path: each async for each in adopter.run(verify=verify, dry_run=dry_run)}
