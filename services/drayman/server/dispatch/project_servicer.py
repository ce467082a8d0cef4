"""ProjectService: check who is asking, call the rule, shape the reply."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from drayman.auth.v1 import user_service_pb2 as auth_pb
from drayman.auth.v1 import user_service_pb2_grpc as auth_grpc
from drayman.dispatch.v1 import project_pb2
from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch import attributes, messages, searching
from drayman.server.dispatch.creation import Creator, Rules, check_attributes
from drayman.server.dispatch.growth import Grower
from drayman.server.dispatch.hindrance import summary
from drayman.server.dispatch.reading import HandleReader
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Row, Store
from drayman.server.dispatch.sweeper import Housekeeper
from drayman.server.dispatch.watching import Watching
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid

_LARGEST_PAGE = 1000
_MOST_DIDS = 10_000
_LONGEST_SPAN = 100 * 365 * 86400.0


class ProjectServicer:
    """Projects: made, read and steered."""

    def __init__(
        self,
        store: Store,
        creator: Creator,
        grower: Grower,
        reserver: Reserver,
        watching: Watching,
        housekeeper: Housekeeper,
        auth: grpc.aio.Channel,
    ) -> None:
        self._store = store
        self._creator = creator
        self._grower = grower
        self._reserver = reserver
        self._watching = watching
        self._reader = HandleReader(store)
        self._housekeeper = housekeeper
        self._users = auth_grpc.UserServiceStub(auth)

    async def CreateProject(
        self, requests: AsyncIterator[pb.CreateProjectRequest], call: Call
    ) -> pb.CreateProjectResponse:
        """Make a project out of a stream."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "spec":
            raise invalid("part", "the first message must be `spec`")
        spec = first.spec
        check_attributes(spec.attributes_json, "spec.attributes_json", "the project")
        await self._check_names(spec, call)
        rules = Rules(
            call.caller.username,
            spec.attributes_json,
            spec.query if spec.HasField("query") else None,
            _span(spec.worker_timeout, "spec.worker_timeout"),
            _span(spec.idle_timeout, "spec.idle_timeout"),
            spec.users,
            spec.roles,
            messages.request_uuid(spec.request_id, "spec.request_id"),
            spec.open,
            _cap(spec.max_attempts, "spec.max_attempts"),
            _cap(spec.max_running, "spec.max_running"),
        )
        project_id = await self._creator.create(rules, requests)
        return pb.CreateProjectResponse(project=messages.project(await self._project(project_id)))

    async def AddFiles(self, requests: AsyncIterator[pb.AddFilesRequest], call: Call) -> pb.AddFilesResponse:
        """Add streamed files to a project."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "begin":
            raise invalid("part", "the first message must be `begin`")
        begin = first.begin
        await self._owned(begin.project_id, call)
        request_id = messages.request_uuid(begin.request_id, "begin.request_id")
        added = await self._grower.add(begin, request_id, call.caller.username, requests)
        project = await self._after(begin.project_id)
        return pb.AddFilesResponse(project=project, added=added.added, skipped=added.skipped)

    async def CopyProject(self, request: pb.CopyProjectRequest, call: Call) -> pb.CopyProjectResponse:
        """Make a project out of another one."""
        original = await self._project(request.project_id)
        check_attributes(request.project_attributes_json, "project_attributes_json", "the project")
        check_attributes(request.file_attributes_json, "file_attributes_json", "the files")
        rules = Rules(
            call.caller.username,
            attributes.overlay(original["attributes"], request.project_attributes_json),
            original["query"],
            _changed(request, "worker_timeout", original["worker_timeout"]),
            _changed(request, "idle_timeout", original["idle_timeout"]),
            request_id=messages.request_uuid(request.request_id, "request_id"),
            max_attempts=original["max_attempts"],
            max_running=original["max_running"],
        )
        project_id = await self._creator.copy(request.project_id, rules, request.file_attributes_json)
        return pb.CopyProjectResponse(project=messages.project(await self._project(project_id)))

    async def GetProject(self, request: pb.GetProjectRequest, _call: Call) -> pb.GetProjectResponse:
        """Return one project."""
        return pb.GetProjectResponse(project=messages.project(await self._project(request.project_id)))

    async def ListProjects(self, request: pb.ListProjectsRequest, _call: Call) -> pb.ListProjectsResponse:
        """Return a page of projects."""
        if request.page_size < 0:
            raise invalid("page_size", f"page_size {request.page_size} is negative")
        limit = min(request.page_size or 100, _LARGEST_PAGE)
        wanted = check_attributes(request.attributes_json, "attributes_json", "the filter")
        rows = await self._store.projects(
            owner=request.owner or None,
            state=messages.PROJECT_STATE_NAME.get(request.state),
            not_state=messages.PROJECT_STATE_NAME.get(request.not_state),
            facts=attributes.searchable(wanted) if wanted else None,
            after=_read_page_token(request.page_token),
            limit=limit + 1,
        )
        token = _page_token(rows[limit - 1]["project_id"]) if len(rows) > limit else ""
        return pb.ListProjectsResponse(projects=map(messages.project, rows[:limit]), next_page_token=token)

    async def SearchProjects(self, request: pb.SearchProjectsRequest, _call: Call) -> pb.SearchProjectsResponse:
        """Find projects."""
        rows, token = await searching.page(self._store, request)
        return pb.SearchProjectsResponse(projects=map(messages.project, rows), next_page_token=token)

    async def WatchProject(self, request: pb.WatchProjectRequest, call: Call) -> None:
        """Stream how a project stands."""
        interval = messages.seconds(request.interval) if request.HasField("interval") else 1.0
        if interval < 0:
            raise invalid("interval", f"interval of {interval:g} s is negative")
        async with aclosing(self._watching.watch(request.project_id, interval)) as views:
            async for view in views:
                await call.send(view)

    async def ExplainProject(self, request: pb.ExplainProjectRequest, _call: Call) -> pb.ExplainProjectResponse:
        """Say what stands in the way."""
        project = await self._project(request.project_id)
        queue = self._reserver.queue(request.project_id)
        queue.changed()  # what other replicas handed out since the last look counts too
        found = await self._reserver.hindrances(queue, request.cpu_site)
        return pb.ExplainProjectResponse(
            project=messages.project(project),
            hindrances=messages.hindrances(found),
            summary=summary(await queue.standing(), found),
        )

    async def ListHandles(self, request: pb.ListHandlesRequest, call: Call) -> None:
        """Stream handles."""
        await self._project(request.project_id)
        batches = self._reader.listed(
            request.project_id,
            state=messages.HANDLE_STATE_NAME.get(request.state),
            not_state=messages.HANDLE_STATE_NAME.get(request.not_state),
            after=request.after_handle_id,
            limit=request.limit,
            with_replicas=request.with_replicas,
            reason_code=request.reason_code or None,
        )
        async for batch in batches:
            await call.send(pb.ListHandlesResponse(handles=batch))

    async def CancelProject(self, request: pb.CancelProjectRequest, call: Call) -> pb.CancelProjectResponse:
        """Stop handing out."""
        await self._owned(request.project_id, call)
        for field in ("code", "message"):
            if "\x00" in getattr(request, field):
                raise invalid(field, f"{field} contains NUL")
        await self._store.cancel(request.project_id, call.caller.username, request.code, request.message)
        return pb.CancelProjectResponse(project=await self._after(request.project_id))

    async def ActivateProject(self, request: pb.ActivateProjectRequest, call: Call) -> pb.ActivateProjectResponse:
        """Make active again."""
        await self._owned(request.project_id, call)
        await self._store.activate(request.project_id, call.caller.username)
        return pb.ActivateProjectResponse(project=await self._after(request.project_id))

    async def RestartHandles(self, request: pb.RestartHandlesRequest, call: Call) -> pb.RestartHandlesResponse:
        """Put handles back."""
        if len(request.dids) > _MOST_DIDS:
            raise invalid("dids", f"{len(request.dids)} DIDs in one request: at most {_MOST_DIDS}")
        await self._owned(request.project_id, call)
        handle_ids = None
        if request.dids:
            dids = [(did.namespace, did.name) for did in request.dids]
            handle_ids = list((await self._store.find_handles(request.project_id, dids)).values())
        states = [messages.HANDLE_STATE_NAME.get(state, "") for state in request.states]
        restarted = await self._store.restart(request.project_id, states, handle_ids, call.caller.username)
        self._reserver.leases_ended(request.project_id)
        return pb.RestartHandlesResponse(project=await self._after(request.project_id), restarted=restarted)

    async def DeleteProject(self, request: pb.DeleteProjectRequest, call: Call) -> pb.DeleteProjectResponse:
        """Remove a project at once; its files follow in the background, and after a crash."""
        await self._owned(request.project_id, call)
        if not await self._store.delete_project(request.project_id):
            raise _not_found(request.project_id)
        self._reserver.changed(request.project_id)
        self._reserver.room_at_rses()
        self._housekeeper.hasten()
        return pb.DeleteProjectResponse(delete_time=messages.timestamp(datetime.now(UTC)))

    async def _project(self, project_id: int) -> Row:
        rows = await self._store.projects(project_id=project_id, after=project_id - 1)
        if not rows:
            raise _not_found(project_id)
        return rows[0]

    async def _owned(self, project_id: int, call: Call) -> Row:
        """Return the project if the caller may change it."""
        row = await self._project(project_id)
        caller = call.caller
        if not caller.admin and caller.username != row["owner"]:
            raise Refusal(
                "NOT_OWNER",
                f"Forbidden: project {project_id} belongs to {row['owner']}",
                metadata={"project_id": str(project_id), "owner": row["owner"], "user": caller.username},
            )
        return row

    async def _after(self, project_id: int) -> project_pb2.Project:
        """Tell everybody who waits for the project, and return it as it is now."""
        self._reserver.changed(project_id)
        return messages.project(await self._project(project_id))

    async def _check_names(self, spec: pb.ProjectSpec, call: Call) -> None:
        """Ask auth, in the caller's name, whether it knows the listed users and roles."""
        if not spec.users and not spec.roles:
            return
        reply = await self._users.CheckNames(
            auth_pb.CheckNamesRequest(usernames=spec.users, roles=spec.roles),
            metadata=(("authorization", f"Bearer {call.caller.token}"),),
            timeout=10,
        )
        for kind, unknown in (("user", reply.unknown_usernames), ("role", reply.unknown_roles)):
            if unknown:
                names = ", ".join(unknown[:20])
                raise Refusal("UNKNOWN_NAME", f"unknown {kind}: {names}", f"spec.{kind}s", {f"{kind}s": names})


def _not_found(project_id: int) -> Refusal:
    return Refusal("PROJECT_NOT_FOUND", f"project {project_id} not found", metadata={"project_id": str(project_id)})


def _span(message: Duration, field: str) -> float | None:
    value = messages.seconds(message)
    if value < 0 or value > _LONGEST_SPAN:
        raise invalid(field, f"{field} of {value:g} s: expected 0 (none) to {_LONGEST_SPAN:.0f} s")
    return value or None


def _cap(value: int, field: str) -> int | None:
    if value < 0:
        raise invalid(field, f"{field} {value}: expected a positive number, or 0 for none")
    return value or None


def _changed(request: pb.CopyProjectRequest, field: str, before: float | None) -> float | None:
    if not request.HasField(field):
        return before
    return _span(getattr(request, field).value, field)


def _page_token(project_id: int) -> str:
    return base64.urlsafe_b64encode(b"p%d" % project_id).decode()


def _read_page_token(token: str) -> int:
    if not token:
        return 0
    try:
        text = base64.urlsafe_b64decode(token.encode())
        if text[:1] == b"p":
            return int(text[1:])
    except (ValueError, binascii.Error):
        pass
    raise invalid("page_token", f"{token!r} is not a page token of this list")
