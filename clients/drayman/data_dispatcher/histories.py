"""What happened to projects and files.

Data Dispatcher, section 11 of its behaviour, where logs are kept and no call reads them: all methods here are additions of Drayman's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc

from drayman.data_dispatcher import arguments, shapes
from drayman.data_dispatcher.arguments import FileName, ProjectId
from drayman.data_dispatcher.core import ClientCore
from drayman.data_dispatcher.exceptions import NotFoundError
from drayman.dispatch.v1 import history_service_pb2 as pb


class HistoryCalls(ClientCore):
    """The methods about logs: records as section 11 has them, oldest first. Reading needs no login."""

    def project_log(self, project_id: ProjectId) -> list[dict[str, Any]]:
        """Return what happened to a project: dicts with `time` (seconds since 1970), `type` and `data`. An addition of Drayman's.

        `type` is `state` if the project's state changed, else `event`. `data` has `event` (`create`, `copied`, `add`, `activate`,
        `restart`, `cancel`, `abandon`, `release`), `state` and, where known, `user`; further `files`, `skipped`, `source`,
        `handles_reset` (how many), `code`, `message`. Creation and abandonment are there, which Data Dispatcher does not log.

        Raises NotFoundError.
        """
        request = pb.ListProjectEventsRequest(project_id=self._project_id(project_id))
        return shapes.project_log(self._read_events(self._history().ListProjectEvents, request))

    def file_log(self, project_id: ProjectId, did: FileName) -> list[dict[str, Any]]:
        """Return what happened to a file of a project: records as those of `handle_log`. An addition of Drayman's.

        `did` is `namespace:name` or a dict with both, such as a handle dict. Raises NotFoundError if project or file is missing,
        ValueError for what is no DID.
        """
        number, readings = self._project_id(project_id), [arguments.did(did), *arguments.other_readings(did)]
        method = self._history().ListHandleEvents
        for place, file in enumerate(readings):
            try:
                request = pb.ListHandleEventsRequest(project_id=number, did=file)
                return [shapes.handle_record(event) for event in self._read_events(method, request)]
            except NotFoundError as error:
                if place == len(readings) - 1 or error.json()["reason"] != "HANDLE_NOT_FOUND":
                    raise
        return []

    def handle_log(self, project_id: ProjectId) -> list[dict[str, Any]]:
        """Return what happened to all files of a project: dicts with `time`, `type`, `data` and `did`. An addition of Drayman's.

        `time` is in seconds since 1970, `type` always `state`. `data` has `event` (`create`, `reserve`, `done`, `failed`, `released`,
        `worker_timeout`, `reset`) and `state`; `old_state` and `worker` as section 11 has them; `code` and `message` of a failure if
        there are any. The list is several times as long as the project's list of files, and all in memory.

        Raises NotFoundError.
        """
        request = pb.ListHandleEventsRequest(project_id=self._project_id(project_id))
        return [shapes.handle_record(event) for event in self._read_events(self._history().ListHandleEvents, request)]

    def _read_events(self, method: Callable[..., Iterable[Any]], request: Any) -> list[Any]:
        """Read a stream to its end; after an interruption begin again."""
        backoff = self._backoff()
        while True:
            try:
                replies = method(request, timeout=self.Timeout, metadata=self._metadata())
                return [event for reply in replies for event in reply.events]
            except grpc.RpcError as error:
                self._pause_or_raise(error, backoff, request)
