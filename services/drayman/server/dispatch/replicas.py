"""Replicas come and go, and handles follow their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drayman.dispatch.v1 import project_pb2
from drayman.server.dispatch.did import check_did
from drayman.server.dispatch.store import SQL, Row, Store
from drayman.server.platform.errors import Refusal, invalid

_MOST = 10_000


class ReplicaBook:
    """Applies changes of replicas, one message at a time, and moves the handles of the files to where they can be read now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def apply(
        self, upserts: Sequence[project_pb2.Replica], deletes: Sequence[project_pb2.Replica]
    ) -> tuple[int, int, list[int]]:
        """Apply one message as a whole. Returns replicas written, replicas removed, projects whose handles moved."""
        await self._check(upserts, deletes)
        dids = sorted({(r.did.namespace, r.did.name) for r in (*upserts, *deletes)})
        names = [did[0] for did in dids], [did[1] for did in dids]
        # the last word counts where a message names a replica twice
        written = list({(r.did.namespace, r.did.name, r.rse): r for r in upserts}.values())
        async with self._store.transaction() as connection:
            await connection.execute(SQL["placement_is_written"])
            removed = 0
            if deletes:
                status = await connection.execute(
                    SQL["delete_replicas"],
                    [r.did.namespace for r in deletes],
                    [r.did.name for r in deletes],
                    [r.rse for r in deletes],
                )
                removed = int(status.split()[-1])
            if written:
                await connection.execute(
                    SQL["upsert_replicas"],
                    [r.did.namespace for r in written],
                    [r.did.name for r in written],
                    [r.rse for r in written],
                    [r.path if r.HasField("path") else None for r in written],
                    [json.dumps(list(r.urls)) for r in written],
                    [r.preference for r in written],
                    [r.available for r in written],
                )
            await connection.execute(SQL["intern_locations"], *names)
            placed = await connection.fetch(SQL["place_files"], *names)
            moved: list[int] = []
            if placed:
                moved = await self._move(connection, placed)
        return len(upserts), removed, moved

    async def _move(self, connection: Any, placed: Sequence[Row]) -> list[int]:
        names = [row["namespace"] for row in placed], [row["name"] for row in placed]
        projects = [row["project_id"] for row in await connection.fetch(SQL["projects_holding"], *names)]
        if not projects:
            return []
        await connection.execute(SQL["lock_tally"], projects)
        await connection.execute(SQL["lock_groups"], projects)
        rows = await connection.fetch(SQL["move_handles"], *names, [row["location_id"] for row in placed], projects)
        return [row["project_id"] for row in rows]

    async def _check(self, upserts: Sequence[project_pb2.Replica], deletes: Sequence[project_pb2.Replica]) -> None:
        if len(upserts) + len(deletes) > _MOST:
            raise invalid("upserts", f"{len(upserts) + len(deletes)} replicas in one message: at most {_MOST}")
        for replica in (*upserts, *deletes):
            check_did(replica.did.namespace, replica.did.name, "did", f"replica at {replica.rse[:80]!r}")
            if any("\x00" in text for text in (replica.path, replica.rse, *replica.urls)):
                raise invalid(
                    "urls", f"replica of {replica.did.namespace}:{replica.did.name}: NUL in its path, RSE or URLs"
                )
        names = sorted({replica.rse for replica in upserts})
        unknown = await self._store.unknown_rses(names)
        if unknown:
            raise Refusal("RSE_NOT_FOUND", f"no RSE {', '.join(unknown[:10])}", "rse", {"rse": ", ".join(unknown[:10])})
