"""HistoryService: what happened to projects and handles."""

from __future__ import annotations

from datetime import UTC, datetime

from drayman.dispatch.v1 import history_service_pb2 as pb
from drayman.dispatch.v1 import project_pb2
from drayman.server.dispatch.history import Filter, HistoryReader
from drayman.server.dispatch.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid


class HistoryServicer:
    """Histories, streamed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reader = HistoryReader(store)

    async def ListProjectEvents(self, request: pb.ListProjectEventsRequest, call: Call) -> None:
        """Stream what happened to a project."""
        await self._check_project(request.project_id)
        async for events in self._reader.of_project(request.project_id):
            await call.send(pb.ListProjectEventsResponse(events=events))

    async def ListHandleEvents(self, request: pb.ListHandleEventsRequest, call: Call) -> None:
        """Stream what happened to the handles of a project, or to one of them."""
        wanted = Filter(request.event or None, request.reason_code or None, _since(request))
        await self._check_project(request.project_id)
        if request.handle_id or request.HasField("did"):
            handle_id, did = await self._handle(request)
            pages = self._reader.of_handle(request.project_id, handle_id, did, wanted)
        else:
            pages = self._reader.of_handles(request.project_id, wanted)
        async for events in pages:
            await call.send(pb.ListHandleEventsResponse(events=events))

    async def _check_project(self, project_id: int) -> None:
        if not await self._store.project_exists(project_id):
            raise Refusal(
                "PROJECT_NOT_FOUND", f"project {project_id} not found", metadata={"project_id": str(project_id)}
            )

    async def _handle(self, request: pb.ListHandleEventsRequest) -> tuple[int, project_pb2.Did]:
        project_id, handle_id, did = request.project_id, request.handle_id, request.did
        if handle_id:
            row = (await self._store.names_of_handles(project_id, [handle_id])).get(handle_id)
            if row is not None:
                return handle_id, project_pb2.Did(namespace=row["namespace"], name=row["name"])
        else:
            found = await self._store.find_handles(project_id, [(did.namespace, did.name)])
            if found:
                return next(iter(found.values())), did
        handle = str(handle_id or f"{did.namespace}:{did.name}")
        raise Refusal(
            "HANDLE_NOT_FOUND",
            f"project {project_id} has no such handle: {handle}",
            metadata={"project_id": str(project_id), "handle": handle},
        )


def _since(request: pb.ListHandleEventsRequest) -> datetime | None:
    if not request.HasField("since"):
        return None
    try:
        return request.since.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid("since", f"since is no time: {error}") from error
