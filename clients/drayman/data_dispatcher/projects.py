"""Projects and their handles: made, read, steered.

Data Dispatcher, sections 2.1 and 2.3 of its behaviour.
"""

# the mirrored interface takes its many arguments by position

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from drayman.data_dispatcher import arguments, shapes
from drayman.data_dispatcher.arguments import FileName, ProjectId, Span
from drayman.data_dispatcher.core import ClientCore
from drayman.data_dispatcher.exceptions import NotFoundError, api_error
from drayman.dispatch.v1 import handle_service_pb2, project_pb2
from drayman.dispatch.v1 import project_service_pb2 as pb

_PAGE = 1_000
_DIDS_A_REQUEST = 10_000


class ProjectCalls(ClientCore):
    """The methods about projects and handles. Dicts are those of section 3."""

    def create_project(
        self,
        files: Iterable[FileName],
        common_attributes: Mapping[str, Any] | None = {},
        project_attributes: Mapping[str, Any] | None = {},
        query: str | None = None,
        worker_timeout: Span = None,
        idle_timeout: Span = ClientCore.DEFAULT_IDLE_TIMEOUT,
        users: Iterable[str] = [],
        roles: Iterable[str] = [],
    ) -> dict[str, Any]:
        """Create a project and return its project dict with `file_handles`, without replicas. Needs a login.

        `files` is any iterable of dicts with `namespace`, `name` and perhaps `attributes`, or of `namespace:name` strings, split at
        the first colon. `common_attributes` are laid under each file's own ones. A handle reserved for longer than
        `worker_timeout` seconds is taken back; a project without event for `idle_timeout` seconds is abandoned; None, zero and less
        mean never. `users`, and members of `roles`, may work on the project as well. `query` is kept and not interpreted. An empty
        file list is allowed.

        Raises ValueError for an item that is no file, and for attributes that are no JSON; APIError with status 400 for a file given
        twice, an unknown user or an unknown role (nothing is created then), 401 without a login.

        Section 2.1, create_project; section 18, traps 12 and 13.
        """
        parts = arguments.file_parts(files, common_attributes or {}, pb.CreateProjectRequest)
        spec = pb.ProjectSpec(
            attributes_json=arguments.json_object(project_attributes),
            query=query,
            worker_timeout=arguments.span(worker_timeout),
            idle_timeout=arguments.span(idle_timeout),
            users=list(users),
            roles=list(roles),
            request_id=str(uuid4()),
        )
        reply = self._call(self._projects().CreateProject, [pb.CreateProjectRequest(spec=spec), *parts])
        return self._with_handles(reply.project)

    def add_files(
        self, project_id: ProjectId, files: Iterable[FileName], skip_existing: bool = False
    ) -> tuple[int, int]:
        """Add files to a project, all or nothing; returns how many were added, and how many it had already. An extra of Drayman.

        `files` as in create_project. A file that the project has is refused, or left out with `skip_existing`. A project that was done,
        failed or abandoned goes on. For the owner and administrators.

        Raises NotFoundError; ValueError for an item that is no file; APIError with status 400 for a file given twice, 403 for somebody
        else's project, 409 for a cancelled one.
        """
        begin = pb.BeginAddFiles(
            project_id=self._project_id(project_id), skip_existing=skip_existing, request_id=str(uuid4())
        )
        parts = arguments.file_parts(files, {}, pb.AddFilesRequest)
        reply = self._call(self._projects().AddFiles, [pb.AddFilesRequest(begin=begin), *parts])
        return reply.added, reply.skipped

    def copy_project(
        self,
        project_id: ProjectId,
        common_attributes: Mapping[str, Any] | None = {},
        project_attributes: Mapping[str, Any] | None = {},
        worker_timeout: Span = None,
        idle_timeout: Span = None,
    ) -> dict[str, Any] | None:
        """Copy a project and return the copy's project dict with `file_handles`; None if there is no such project. Needs a login.

        The copy belongs to the caller. Files, attributes and query are copied, `common_attributes` laid over each file's and
        `project_attributes` over the project's; users and roles are not. Time-outs: None or `"default"` = the original's,
        `"none"` or `"no timeout"` = none, a number = seconds, or text such as `"300"`, `"5m"`, `"2h"`, `"1d"`.

        Raises ValueError for other text; APIError with status 401 without a login.

        Section 2.1, copy_project; section 18, trap 14.
        """
        request = pb.CopyProjectRequest(
            project_id=self._project_id(project_id),
            project_attributes_json=arguments.json_object(project_attributes),
            file_attributes_json=arguments.json_object(common_attributes),
            worker_timeout=arguments.span_change(worker_timeout),
            idle_timeout=arguments.span_change(idle_timeout),
            request_id=str(uuid4()),
        )
        try:
            reply = self._call(self._projects().CopyProject, request)
        except NotFoundError:
            return None
        return self._with_handles(reply.project)

    def get_project(
        self, project_id: ProjectId, with_files: bool = True, with_replicas: bool = False
    ) -> dict[str, Any] | None:
        """Return a project dict, or None if there is no such project. Needs no login.

        `file_handles` are there if files or replicas are asked for, by namespace and name. Raises APIError with status 400 if the id
        is empty or no number.

        Sections 2.1 and 3.
        """
        try:
            reply = self._call(
                self._projects().GetProject, pb.GetProjectRequest(project_id=self._project_id(project_id))
            )
            if not (with_files or with_replicas):
                return shapes.project_dict(reply.project)
            return self._with_handles(reply.project, with_replicas=with_replicas)
        except NotFoundError:
            return None

    def list_projects(
        self,
        owner: str | None = None,
        state: str | None = "active",
        not_state: str | None = "abandoned",
        attributes: Mapping[str, Any] | None = None,
        with_files: bool = True,
        with_replicas: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the project dicts of those projects that pass all filters, by ascending id. Needs a login.

        `owner` None or `"all"` = everybody's; `state` and `not_state` None = no such filter; `attributes` = projects whose
        attributes have all of these members with equal values of the same type. Since `not_state` is `abandoned`, `state="abandoned"`
        alone finds nothing.

        Raises APIError with status 401 without a login.

        Section 2.1, list_projects; section 18, traps 2 (as documented: None is everybody) and 29.
        """
        if self.Token is None:
            raise api_error(self.ServerURL or "", 401, "Token not found")
        wanted, unwanted = arguments.project_state(state), arguments.project_state(not_state)
        if wanted is None:
            return []
        request = pb.ListProjectsRequest(
            owner="" if owner in (None, "all") else owner,
            state=wanted,
            not_state=unwanted,
            attributes_json=arguments.json_object(attributes) if attributes else "",
            page_size=_PAGE,
        )
        return self._paged(self._projects().ListProjects, request, with_files=with_files, with_replicas=with_replicas)

    def search_projects(
        self,
        search_query: str,
        owner: str | None = None,
        state: str | None = "active",
        with_files: bool = True,
        with_replicas: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the project dicts that a query finds and that are of `owner` and in `state`, by ascending id. Needs no login.

        `owner` None or `"all"` = everybody's; `state` None or `"all"` = any. The query may name fields of the project attributes and
        the attributes owner, state, id, query, created_timestamp (or created), ended_timestamp (or ended), worker_timeout and
        idle_timeout.

        Raises APIError with status 400 for a query that cannot be read; the message has line, column and what was expected.

        Sections 2.1, search_projects, and 10; section 18, traps 21 (all of the language works) and 22.
        """
        wanted = arguments.project_state(state)
        if wanted is None:
            return []
        request = pb.SearchProjectsRequest(
            query=search_query, owner="" if owner in (None, "all") else owner, state=wanted, page_size=_PAGE
        )
        return self._paged(self._projects().SearchProjects, request, with_files=with_files, with_replicas=with_replicas)

    def cancel_project(self, project_id: ProjectId) -> dict[str, Any]:
        """Stop handing out files; returns the project dict with handles and replicas. For the owner and administrators.

        Allowed in any state; workers may still report what they hold. Raises NotFoundError, and APIError with status 403.

        Sections 2.1 and 5.1.
        """
        request = pb.CancelProjectRequest(project_id=self._project_id(project_id))
        return self._with_handles(self._call(self._projects().CancelProject, request).project, with_replicas=True)

    def activate_project(self, project_id: ProjectId) -> dict[str, Any]:
        """Make a project active again; returns the project dict with handles and replicas. For the owner and administrators.

        Allowed in any state; a project whose handles are all done or failed ends anew at once. Raises NotFoundError, and APIError
        with status 403.

        Sections 2.1 and 5.1; section 18, trap 9.
        """
        request = pb.ActivateProjectRequest(project_id=self._project_id(project_id))
        return self._with_handles(self._call(self._projects().ActivateProject, request).project, with_replicas=True)

    def restart_handles(
        self,
        project_id: ProjectId,
        done: bool = False,
        failed: bool = False,
        reserved: bool = False,
        all: bool = False,
        handles: Sequence[FileName] = [],
    ) -> dict[str, Any] | None:
        """Put handles back to `initial`; returns the project dict with handles and replicas, None if there is no such project.

        `handles` (DIDs or handle dicts) are restarted whatever their state, unknown ones ignored, and the flags too; without them
        those in the flagged states, `all` being done, failed and reserved. Attempts are kept. A project with something to hand out
        afterwards is active. Selecting nothing changes nothing. For the owner and administrators: others get APIError with status 403.

        Section 2.1, restart_handles; section 18, trap 11.
        """
        number = self._project_id(project_id)
        dids = [arguments.did(handle) for handle in handles]
        flags = (
            (done, project_pb2.HANDLE_STATE_DONE),
            (failed, project_pb2.HANDLE_STATE_FAILED),
            (reserved, project_pb2.HANDLE_STATE_RESERVED),
        )
        states = [] if dids else [state for flag, state in flags if flag or all]
        try:
            for start in range(0, max(len(dids), 1), _DIDS_A_REQUEST):
                request = pb.RestartHandlesRequest(
                    project_id=number, states=states, dids=dids[start : start + _DIDS_A_REQUEST]
                )
                reply = self._call(self._projects().RestartHandles, request)
            return self._with_handles(reply.project, with_replicas=True)
        except NotFoundError:
            return None

    def delete_project(self, project_id: ProjectId) -> None:
        """Remove a project, its handles and their history for good. For the owner and administrators.

        Raises NotFoundError, and APIError with status 403. Section 2.1, delete_project.
        """
        self._call(self._projects().DeleteProject, pb.DeleteProjectRequest(project_id=self._project_id(project_id)))

    # --- handles -----------------------------------------------------------------------------------------------------

    def get_handle(self, project_id: ProjectId, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a handle dict with all its replicas; None if project or file is missing. Needs no login. Section 2.3."""
        request = handle_service_pb2.GetHandleRequest(
            project_id=self._project_id(project_id), did=project_pb2.Did(namespace=namespace, name=name)
        )
        try:
            reply = self._call(self._handles().GetHandle, request)
        except NotFoundError:
            return None
        return shapes.handle_dict(reply.handle, with_replicas=True)

    def list_handles(
        self,
        project_id: ProjectId,
        state: str | None = None,
        not_state: str | None = None,
        with_replicas: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the handle dicts that are in `state` and not in `not_state` (None = any), by namespace and name. Needs no login.

        Replicas are there if asked for. Raises NotFoundError. Section 2.3; deprecated there, but in use.
        """
        wanted, unwanted = arguments.handle_state(state), arguments.handle_state(not_state)
        handles = self._list_handles(
            pb.ListHandlesRequest(
                project_id=self._project_id(project_id), state=wanted, not_state=unwanted, with_replicas=with_replicas
            )
        )
        # a state that does not exist is nobody's
        return [] if wanted is None else shapes.handle_dicts(handles, with_replicas=with_replicas)

    def get_file(self, namespace: str, name: str) -> None:
        """Return None: a file is known as a handle of a project only. Section 2.3; deprecated there."""
        return

    def _paged(
        self,
        method: Callable[..., Any],
        request: pb.ListProjectsRequest | pb.SearchProjectsRequest,
        *,
        with_files: bool,
        with_replicas: bool,
    ) -> list[dict[str, Any]]:
        """Read all pages of a list of projects."""
        listed = []
        while True:
            reply = self._call(method, request)
            for project in reply.projects:
                if not (with_files or with_replicas):
                    listed.append(shapes.project_dict(project))
                    continue
                try:
                    listed.append(self._with_handles(project, with_replicas=with_replicas))
                except NotFoundError:
                    continue  # deleted in between
            if not reply.next_page_token:
                return listed
            request.page_token = reply.next_page_token

    def _with_handles(self, project: project_pb2.Project, *, with_replicas: bool = False) -> dict[str, Any]:
        request = pb.ListHandlesRequest(project_id=project.project_id, with_replicas=with_replicas)
        handles = self._list_handles(request) if project.counts.total else []
        return shapes.project_dict(project, handles, with_replicas=with_replicas)

    def _list_handles(self, request: pb.ListHandlesRequest) -> list[project_pb2.Handle]:
        return self._collect(self._projects().ListHandles, request, resumable=True)
