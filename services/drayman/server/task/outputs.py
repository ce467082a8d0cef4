"""What tasks make: where it goes in the registry, and what lets workers put it there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import grpc.aio

from drayman.registry.v1 import (
    output_service_pb2,
    output_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.warrants import Warrant, write_warrant
from drayman.server.task.dataset_names import Place
from drayman.server.task.neighbours import Neighbour

#: How long it may take to put a version of very many parts together, in seconds.
_LONG = 600.0


class Outputs:
    """The registry as the task service uses it. In a deployment without one nothing can be kept: Refusal (NOT_OFFERED)."""

    def __init__(self, registry: grpc.aio.Channel | None, identity: ServiceIdentity, shared: str) -> None:
        self._neighbour = Neighbour("the registry", identity)
        self._identity = identity
        self._shared = shared
        self._outputs = output_service_pb2_grpc.OutputServiceStub(registry) if registry is not None else None
        self._artifacts = registry_service_pb2_grpc.RegistryServiceStub(registry) if registry is not None else None

    async def open(self, project: str, user: str, assets: Sequence[str]) -> None:
        """Make sure that a user's outputs can go to these assets of a project. Raises Refusal if the user may not upload there."""
        if self._outputs is None:
            raise _no_registry()
        request = output_service_pb2.OpenOutputProjectRequest(
            project=project, user=user, assets=assets, shared=project == self._shared
        )
        await self._neighbour.ask(self._outputs.OpenOutputProject, request)

    def warrant(self, place: Place, user: str, seconds: float) -> str:
        """Write what lets a worker upload one job's outputs in the user's name."""
        warrant = Warrant(place.project, place.asset, place.version, user)
        return write_warrant(self._identity, warrant, seconds)

    async def assemble(self, place: Place, parts: Sequence[str], user: str) -> None:
        """Publish the version that has the files of all `parts`, as links. Raises Refusal."""
        if self._outputs is None:
            raise _no_registry()
        request = output_service_pb2.AssembleVersionRequest(
            project=place.project, asset=place.asset, version=place.assembled, parts=parts, user=user
        )
        await self._neighbour.ask(self._outputs.AssembleVersion, request, timeout=_LONG)

    async def present(self, project: str, asset: str, version: str) -> set[str] | None:
        """Return the names of the files of a version; None = there is no such version. Raises Refusal (UNAVAILABLE, NOT_OFFERED)."""
        if self._artifacts is None:
            raise _no_registry()  # nobody knows what is lost
        request = registry_service_pb2.ListEntriesRequest(project=project, asset=asset, version=version)
        try:
            async with aclosing(self._neighbour.stream(self._artifacts.ListEntries, request)) as replies:
                return {entry.path async for reply in replies for entry in reply.entries if not entry.empty_directory}
        except Refusal as refusal:
            if refusal.reason in ("REGISTRY_PROJECT_NOT_FOUND", "ASSET_NOT_FOUND", "VERSION_NOT_FOUND"):
                return None
            raise


def _no_registry() -> Refusal:
    return Refusal("NOT_OFFERED", "this deployment has no registry: outputs cannot be kept")
