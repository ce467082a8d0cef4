"""Watching a project: how it stands, whenever that changes, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

import grpc.aio

from drayman.client.calls import Client
from drayman.client.errors import NotFoundError, OverloadedError, UnavailableError
from drayman.client.files import Project, duration, moment_of, project_of
from drayman.client.patience import Patience
from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.dispatch.v1 import project_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Progress:
    """How a project stands.

    `rate`: files done or failed per second, over the last minute. `estimated_end`: when the last one will be if it goes on like that;
    None while nothing moves, and for projects that have ended or are open.
    """

    project: Project
    rate: float
    estimated_end: datetime | None


class WatchingCalls(Client):
    """Watching projects. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._watched = project_service_pb2_grpc.ProjectServiceStub(channel)

    async def watch_project(self, project_id: int, *, interval: float = 1.0) -> AsyncGenerator[Progress, None]:
        """Yield how a project stands: at once, then when that changed, at most once per `interval` seconds unless its state did.

        Ends after the project was done, failed or cancelled (also if it was so already), or when it is deleted. It survives the loss of
        the service, as a wait for a file does. Use it in `contextlib.aclosing` if you may leave early.
        """
        request = pb.WatchProjectRequest(project_id=project_id, interval=duration(interval))
        patience = Patience(self._patience)
        seen: Project | None = None
        while True:
            try:
                async with self._stream(self._watched.WatchProject, request) as replies:
                    again = seen
                    async for reply in replies:
                        patience.renew()
                        progress = _progress_of(reply)
                        # another replica begins with what is known
                        if progress.project != again:
                            seen = progress.project
                            yield progress
                        again = None
                    return
            except NotFoundError:
                if seen is None:
                    raise
                return  # deleted while the service was away
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)


def _progress_of(message: pb.WatchProjectResponse) -> Progress:
    end = moment_of(message.estimated_end_time) if message.HasField("estimated_end_time") else None
    return Progress(project_of(message.project), message.rate, end)
