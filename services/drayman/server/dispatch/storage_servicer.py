"""StorageService: RSEs, replicas, proximities."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from drayman.dispatch.v1 import storage_service_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.replicas import ReplicaBook
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid

_MOST_DIDS = 1000
_FIELDS = (
    "description",
    "is_enabled",
    "is_available",
    "is_tape",
    "pin_url",
    "poll_url",
    "remove_prefix",
    "add_prefix",
    "pin_prefix",
    "preference",
    "type",
    "max_running",
)


class StorageServicer:
    """Where files are, and how far."""

    def __init__(self, store: Store, reserver: Reserver) -> None:
        self._store = store
        self._reserver = reserver
        self._book = ReplicaBook(store)

    async def CreateRse(self, request: pb.CreateRseRequest, _call: Call) -> pb.CreateRseResponse:
        """Create an RSE."""
        rse = request.rse
        if not rse.name or not rse.name.isprintable() or len(rse.name) > 255:
            raise invalid("rse.name", f"RSE name {rse.name[:80]!r}: expected 1 to 255 printable characters")
        fields: list[Any] = [getattr(rse, name) for name in _FIELDS[:4]]
        fields += [getattr(rse, name) if rse.HasField(name) else None for name in _FIELDS[4:9]]
        row = await self._store.insert_rse(
            rse.name,
            *fields,
            rse.preference,
            rse.type if rse.type in ("native", "wlcg") else None,
            _limit(rse.max_running),
        )
        if row is None:
            raise Refusal("RSE_EXISTS", f"RSE {rse.name} exists", "rse.name", {"rse": rse.name})
        await self._reserver.storage_changed()
        return pb.CreateRseResponse(rse=messages.rse(row))

    async def GetRse(self, request: pb.GetRseRequest, _call: Call) -> pb.GetRseResponse:
        """Return one RSE."""
        rows = await self._store.rses(request.name)
        if not rows:
            raise _not_found(request.name)
        return pb.GetRseResponse(rse=messages.rse(rows[0]))

    async def ListRses(self, _request: pb.ListRsesRequest, _call: Call) -> pb.ListRsesResponse:
        """Return all RSEs."""
        return pb.ListRsesResponse(rses=[messages.rse(row) for row in await self._store.rses(None)])

    async def UpdateRse(self, request: pb.UpdateRseRequest, _call: Call) -> pb.UpdateRseResponse:
        """Change an RSE; files come into reach and go out of it at once."""
        _limit(request.max_running)
        fields = [getattr(request, name) if request.HasField(name) else None for name in _FIELDS]
        row = await self._store.update_rse(request.name, *fields)
        if row is None:
            raise _not_found(request.name)
        await self._reserver.storage_changed()
        return pb.UpdateRseResponse(rse=messages.rse(row))

    async def DeleteRse(self, request: pb.DeleteRseRequest, _call: Call) -> pb.DeleteRseResponse:
        """Remove an RSE and its replicas."""
        replicas = await self._store.delete_rse(request.name)
        if replicas is None:
            raise _not_found(request.name)
        await self._reserver.storage_changed()
        return pb.DeleteRseResponse(replicas_deleted=replicas)

    async def UpdateReplicas(
        self, requests: AsyncIterator[pb.UpdateReplicasRequest], _call: Call
    ) -> pb.UpdateReplicasResponse:
        """Apply a stream of changes, message by message."""
        upserted = deleted = 0
        async for request in requests:
            wrote, removed, moved = await self._book.apply(request.upserts, request.deletes)
            upserted += wrote
            deleted += removed
            if moved:
                await self._reserver.renew_storage()
                for project_id in moved:
                    self._reserver.changed(project_id)
        return pb.UpdateReplicasResponse(upserted=upserted, deleted=deleted)

    async def ListReplicas(self, request: pb.ListReplicasRequest, _call: Call) -> pb.ListReplicasResponse:
        """Return the replicas of files."""
        if len(request.dids) > _MOST_DIDS:
            raise invalid("dids", f"{len(request.dids)} DIDs in one request: at most {_MOST_DIDS}")
        rows = await self._store.replicas_of([(did.namespace, did.name) for did in request.dids])
        return pb.ListReplicasResponse(replicas=map(messages.replica, rows))

    async def UpdateProximity(self, request: pb.UpdateProximityRequest, _call: Call) -> pb.UpdateProximityResponse:
        """Change the proximity map."""
        for entry in (*request.upserts, *request.deletes):
            for name in (entry.cpu_site, entry.rse):
                if not name or "\x00" in name or len(name) > 255:
                    raise invalid("upserts", f"proximity: {name[:80]!r}: expected 1 to 255 characters without NUL")
        upserts = list({(e.cpu_site, e.rse): (e.cpu_site, e.rse, e.proximity) for e in request.upserts}.values())
        await self._store.change_proximities(upserts, [(e.cpu_site, e.rse) for e in request.deletes])
        await self._reserver.storage_changed()
        return pb.UpdateProximityResponse()

    async def ListProximity(self, request: pb.ListProximityRequest, _call: Call) -> pb.ListProximityResponse:
        """Return the proximity map."""
        rows = await self._store.proximities(request.cpu_site or None)
        entries = [pb.Proximity(cpu_site=r["cpu_site"], rse=r["rse"], proximity=r["proximity"]) for r in rows]
        return pb.ListProximityResponse(entries=entries)


def _not_found(name: str) -> Refusal:
    return Refusal("RSE_NOT_FOUND", f"RSE {name} not found", "name", {"rse": name})


def _limit(value: int) -> int:
    if value < 0:
        raise invalid("max_running", f"max_running {value}: expected a positive number, or 0 for no limit")
    return value
