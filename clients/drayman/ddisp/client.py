"""The mirror's client, with what only a table needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from drayman.data_dispatcher import arguments, shapes
from drayman.data_dispatcher.api import DataDispatcherClient
from drayman.data_dispatcher.backoff import Backoff
from drayman.dispatch.v1 import project_pb2
from drayman.dispatch.v1 import project_service_pb2 as pb

_PAGE = 1_000

#: Done, failed, and all handles of a project.
Counts = tuple[int, int, int]
#: A project dict without handles, and their counts.
Summary = tuple[dict[str, Any], Counts]


class Client(DataDispatcherClient):
    """A `DataDispatcherClient` that tries again for `patience` seconds while no service answers."""

    patience: float = DataDispatcherClient.RetryBudget

    def _backoff(self, budget: float | None = None) -> Backoff:
        return super()._backoff(self.patience if budget is None else budget)

    def summaries(
        self, owner: str | None, state: str | None, not_state: str | None, attributes: Mapping[str, Any] | None
    ) -> Iterator[Summary]:
        """Yield what `list_projects` returns, with counts in place of handles: of a large project these take long to fetch."""
        request = pb.ListProjectsRequest(
            owner="" if owner in (None, "all") else owner,
            state=arguments.project_state(state),
            not_state=arguments.project_state(not_state),
            attributes_json=arguments.json_object(attributes) if attributes else "",
            page_size=_PAGE,
        )
        return self._summaries(self._projects().ListProjects, request)

    def found(self, query: str, owner: str | None, state: str | None) -> Iterator[Summary]:
        """Yield what `search_projects` returns, in the same way."""
        request = pb.SearchProjectsRequest(
            query=query,
            owner="" if owner in (None, "all") else owner,
            state=arguments.project_state(state),
            page_size=_PAGE,
        )
        return self._summaries(self._projects().SearchProjects, request)

    def _summaries(
        self, method: Callable[..., Any], request: pb.ListProjectsRequest | pb.SearchProjectsRequest
    ) -> Iterator[Summary]:
        while True:
            reply = self._call(method, request)
            for project in reply.projects:
                yield shapes.project_dict(project), _counts(project)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token


def _counts(project: project_pb2.Project) -> Counts:
    return project.counts.done, project.counts.failed, project.counts.total
