"""The asyncio client of dispatch: projects and storage. The worker's side is `drayman.client.working`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

import grpc.aio

from drayman.client.files import (
    File,
    Handle,
    Project,
    Replica,
    Rse,
    duration,
    handle_of,
    handle_state,
    project_of,
    project_state,
    replica_message,
    replica_of,
    rse_of,
    to_json,
)
from drayman.client.history import HistoryCalls
from drayman.client.standstill import Explanation, hindrances_of
from drayman.client.watching import WatchingCalls
from drayman.client.working import WorkingCalls
from drayman.dispatch.v1 import project_pb2 as pb
from drayman.dispatch.v1 import project_service_pb2 as project_pb
from drayman.dispatch.v1 import project_service_pb2_grpc, storage_service_pb2_grpc
from drayman.dispatch.v1 import storage_service_pb2 as storage_pb

#: Entries that go into one message of a stream.
_BATCH = 1000

Files = Iterable[File] | AsyncIterable[File]


class DispatchClient(HistoryCalls, WatchingCalls, WorkingCalls):
    """Projects, files, storage elements. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self._storage = storage_service_pb2_grpc.StorageServiceStub(channel)

    # --- projects ----------------------------------------------------------------------------------------------------

    async def create_project(
        self,
        files: Files,
        *,
        attributes: Mapping[str, Any] | None = None,
        query: str | None = None,
        worker_timeout: float | None = None,
        idle_timeout: float | None = None,
        users: Sequence[str] = (),
        roles: Sequence[str] = (),
        max_attempts: int | None = None,
        max_running: int | None = None,
        open: bool = False,  # noqa: A002 - the contract's word
    ) -> Project:
        """Create a project of any number of files, all or nothing. Time-outs in seconds; None = never.

        With the attribute `virtual` true its files need no replicas. A file reserved `max_attempts` times that fails or times out again
        has failed for good; at most `max_running` files are reserved at a time; None = no limit. An `open` project does not end before
        `add_files` closes its list.
        """
        spec = project_pb.ProjectSpec(
            attributes_json=to_json(attributes or {}),
            query=query,
            users=users,
            roles=roles,
            request_id=str(uuid4()),
            max_attempts=max_attempts or 0,
            max_running=max_running or 0,
            open=open,
        )
        if worker_timeout is not None:
            spec.worker_timeout.CopyFrom(duration(worker_timeout))
        if idle_timeout is not None:
            spec.idle_timeout.CopyFrom(duration(idle_timeout))
        first = project_pb.CreateProjectRequest(spec=spec)
        reply = await self._send(
            self._projects.CreateProject,
            lambda: _parts(project_pb.CreateProjectRequest, first, files),
            again=isinstance(files, Collection),
        )
        return project_of(reply.project)

    async def add_files(
        self,
        project_id: int,
        files: Files,
        *,
        skip_existing: bool = False,
        open: bool | None = None,  # noqa: A002 - the contract's word
    ) -> tuple[Project, int, int]:
        """Add any number of files to a project, all or nothing; returns it, how many were added and how many it had already.

        Files that it has are refused, or left out with `skip_existing`. `open` False closes its list, so that it ends with its last file;
        True keeps it from ending; None leaves that as it is. What was done, failed or abandoned goes on if anything was added.
        """
        begin = project_pb.BeginAddFiles(project_id=project_id, skip_existing=skip_existing, request_id=str(uuid4()))
        if open is not None:
            begin.open = open
        first = project_pb.AddFilesRequest(begin=begin)
        reply = await self._send(
            self._projects.AddFiles,
            lambda: _parts(project_pb.AddFilesRequest, first, files),
            again=isinstance(files, Collection),
        )
        return project_of(reply.project), reply.added, reply.skipped

    async def copy_project(
        self,
        project_id: int,
        *,
        project_attributes: Mapping[str, Any] | None = None,
        file_attributes: Mapping[str, Any] | None = None,
        worker_timeout: float | Literal["keep"] | None = "keep",
        idle_timeout: float | Literal["keep"] | None = "keep",
    ) -> Project:
        """Copy a project's files into a new one of one's own; attributes are laid over the original's.

        Time-outs in seconds; None = never, `"keep"` = the original's.
        """
        request = project_pb.CopyProjectRequest(
            project_id=project_id,
            project_attributes_json=to_json(project_attributes or {}),
            file_attributes_json=to_json(file_attributes or {}),
            worker_timeout=_change_of(worker_timeout),
            idle_timeout=_change_of(idle_timeout),
            request_id=str(uuid4()),
        )
        return project_of((await self._call(self._projects.CopyProject, request)).project)

    async def get_project(self, project_id: int) -> Project:
        """Read a project."""
        request = project_pb.GetProjectRequest(project_id=project_id)
        return project_of((await self._call(self._projects.GetProject, request)).project)

    async def projects(
        self,
        *,
        owner: str = "",
        state: str | None = None,
        not_state: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Project]:
        """Read projects by ascending id: of an owner (empty = all), in a state, not in one, with these attributes."""
        request = project_pb.ListProjectsRequest(
            owner=owner,
            state=project_state(state),
            not_state=project_state(not_state),
            attributes_json=to_json(attributes) if attributes else "",
        )
        while True:
            reply = await self._call(self._projects.ListProjects, request)
            for project in reply.projects:
                yield project_of(project)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def search_projects(self, query: str, *, owner: str = "", state: str | None = None) -> AsyncIterator[Project]:
        """Read the projects that a query in the search language finds, by ascending id: of an owner (empty = all), in a state.

        Raises InvalidRequestError for a query that cannot be read; its message has line, column and what was expected.
        """
        request = project_pb.SearchProjectsRequest(query=query, owner=owner, state=project_state(state))
        while True:
            reply = await self._call(self._projects.SearchProjects, request)
            for project in reply.projects:
                yield project_of(project)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def handles(
        self,
        project_id: int,
        *,
        state: str | None = None,
        not_state: str | None = None,
        with_replicas: bool = False,
        after: int = 0,
        limit: int = 0,
        reason_code: str = "",
    ) -> AsyncIterator[Handle]:
        """Read the handles of a project by ascending id, from the one after `after`; `limit` 0 = all.

        With `reason_code` only those whose last reservation ended with it.
        """
        request = project_pb.ListHandlesRequest(
            project_id=project_id,
            state=handle_state(state),
            not_state=handle_state(not_state),
            with_replicas=with_replicas,
            after_handle_id=after,
            limit=limit,
            reason_code=reason_code,
        )
        async with self._stream(self._projects.ListHandles, request) as replies:
            async for reply in replies:
                for handle in reply.handles:
                    yield handle_of(handle)

    async def cancel_project(self, project_id: int, *, code: str = "", message: str = "") -> Project:
        """Stop a project; workers may still report what they hold. `code` and `message` say why: they are kept, and shown to workers."""
        request = project_pb.CancelProjectRequest(project_id=project_id, code=code, message=message)
        return project_of((await self._call(self._projects.CancelProject, request)).project)

    async def activate_project(self, project_id: int) -> Project:
        """Let a project that was stopped or abandoned hand out files again."""
        request = project_pb.ActivateProjectRequest(project_id=project_id)
        return project_of((await self._call(self._projects.ActivateProject, request)).project)

    async def restart_handles(
        self, project_id: int, *, states: Iterable[str] = (), files: Iterable[File] = ()
    ) -> tuple[Project, int]:
        """Put handles back to `initial`: those in the states, or the files given. Returns the project and how many changed."""
        request = project_pb.RestartHandlesRequest(
            project_id=project_id,
            states=[handle_state(state) for state in states],
            dids=[pb.Did(namespace=file.namespace, name=file.name) for file in files],
        )
        reply = await self._call(self._projects.RestartHandles, request)
        return project_of(reply.project), reply.restarted

    async def explain_project(self, project_id: int, cpu_site: str = "") -> Explanation:
        """Say what a worker at a site would get, and what stands in the way."""
        request = project_pb.ExplainProjectRequest(project_id=project_id, cpu_site=cpu_site)
        reply = await self._call(self._projects.ExplainProject, request)
        return Explanation(project_of(reply.project), hindrances_of(reply.hindrances), reply.summary)

    async def delete_project(self, project_id: int) -> None:
        """Remove a project with everything in it."""
        await self._call(self._projects.DeleteProject, project_pb.DeleteProjectRequest(project_id=project_id))

    # --- storage -----------------------------------------------------------------------------------------------------

    async def rses(self) -> list[Rse]:
        """Read all RSEs."""
        reply = await self._call(self._storage.ListRses, storage_pb.ListRsesRequest())
        return [rse_of(rse) for rse in reply.rses]

    async def get_rse(self, name: str) -> Rse:
        """Read an RSE."""
        return rse_of((await self._call(self._storage.GetRse, storage_pb.GetRseRequest(name=name))).rse)

    async def create_rse(self, rse: Rse) -> Rse:
        """Add an RSE. For administrators."""
        message = storage_pb.Rse(**{name: getattr(rse, name) for name in rse.__slots__})
        return rse_of((await self._call(self._storage.CreateRse, storage_pb.CreateRseRequest(rse=message))).rse)

    async def update_rse(self, name: str, **fields: Any) -> Rse:
        """Change the given fields of an RSE, named as those of `Rse`. For administrators."""
        try:
            request = storage_pb.UpdateRseRequest(name=name, **fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot change the RSE: {error}") from error
        return rse_of((await self._call(self._storage.UpdateRse, request)).rse)

    async def delete_rse(self, name: str) -> int:
        """Remove an RSE and its replicas, whose number is returned. For administrators."""
        request = storage_pb.DeleteRseRequest(name=name)
        deleted: int = (await self._call(self._storage.DeleteRse, request)).replicas_deleted
        return deleted

    async def update_replicas(
        self, upserts: Iterable[Replica] = (), deletes: Iterable[Replica] = ()
    ) -> tuple[int, int]:
        """Add, change and remove any number of replicas; returns how many were written and removed. For administrators."""
        reply = await self._send(
            self._storage.UpdateReplicas,
            lambda: _changes(upserts, deletes),
            again=isinstance(upserts, Collection) and isinstance(deletes, Collection),
        )
        return reply.upserted, reply.deleted

    async def replicas(self, files: Iterable[File]) -> list[Replica]:
        """Read all replicas of files."""
        dids = [pb.Did(namespace=file.namespace, name=file.name) for file in files]
        found: list[Replica] = []
        for begin in range(0, len(dids), _BATCH):
            request = storage_pb.ListReplicasRequest(dids=dids[begin : begin + _BATCH])
            reply = await self._call(self._storage.ListReplicas, request)
            found += map(replica_of, reply.replicas)
        return found

    async def set_proximity(self, cpu_site: str, rse: str, proximity: int | None) -> None:
        """Set the distance from a CPU site to an RSE, smaller is nearer; None removes it. For administrators."""
        entry = storage_pb.Proximity(cpu_site=cpu_site, rse=rse, proximity=proximity or 0)
        request = storage_pb.UpdateProximityRequest(
            upserts=[entry] if proximity is not None else [], deletes=[] if proximity is not None else [entry]
        )
        await self._call(self._storage.UpdateProximity, request)

    async def proximities(self, cpu_site: str = "") -> list[tuple[str, str, int]]:
        """Read the proximity map: (CPU site, RSE, distance); of one site, or all."""
        reply = await self._call(self._storage.ListProximity, storage_pb.ListProximityRequest(cpu_site=cpu_site))
        return [(entry.cpu_site, entry.rse, entry.proximity) for entry in reply.entries]


async def _parts(kind: Any, first: Any, files: Files) -> AsyncIterator[Any]:
    """Make the messages of one kind that carry a file list, from the first one to its end."""
    yield first
    count = 0
    batch: list[pb.File] = []
    async for file in _each(files):
        count += 1
        attributes = to_json(file.attributes) if file.attributes else ""
        batch.append(pb.File(did=pb.Did(namespace=file.namespace, name=file.name), attributes_json=attributes))
        if len(batch) >= _BATCH:
            yield kind(files=project_pb.FileBatch(files=batch))
            batch = []
    if batch:
        yield kind(files=project_pb.FileBatch(files=batch))
    yield kind(end=project_pb.EndOfFiles(file_count=count))


def _change_of(timeout: float | Literal["keep"] | None) -> project_pb.TimeoutChange | None:
    if timeout == "keep":
        return None
    return project_pb.TimeoutChange(value=None if timeout is None else duration(timeout))


async def _each(files: Files) -> AsyncIterator[File]:
    if isinstance(files, AsyncIterable):
        async for file in files:
            yield file
    else:
        for file in files:
            yield file


async def _changes(
    upserts: Iterable[Replica], deletes: Iterable[Replica]
) -> AsyncIterator[storage_pb.UpdateReplicasRequest]:
    for field, replicas in (("upserts", upserts), ("deletes", deletes)):
        batch: list[pb.Replica] = []
        for replica in replicas:
            batch.append(replica_message(replica))
            if len(batch) >= _BATCH:
                yield storage_pb.UpdateReplicasRequest(**{field: batch})
                batch = []
        if batch:
            yield storage_pb.UpdateReplicasRequest(**{field: batch})
