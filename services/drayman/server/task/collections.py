"""Collections that tasks read: projects of dispatch, and what is in the registry."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc.aio

from drayman.dispatch.v1 import project_pb2, project_service_pb2, project_service_pb2_grpc
from drayman.registry.v1 import registry_service_pb2, registry_service_pb2_grpc, version_pb2
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.task.dataset_names import (
    DispatchProject,
    RegistryAsset,
    RegistryLatest,
    RegistryVersion,
    parse,
    whole,
)
from drayman.server.task.neighbours import Neighbour
from drayman.server.task.splitting import InputFile

#: What a dispatch project's files may say of themselves, by the names that are in use.
_SIZES = ("size", "fsize", "filesize", "bytes")
_EVENTS = ("events", "nevents", "nEvents", "event_count")
_CHECKSUMS = ("md5", "adler32", "sha256")
#: How checksums are marked in PanDA.
_MARKS = {"adler32": "ad", "md5": "md5", "sha256": "sha256"}

_UNKNOWN = ("PROJECT_NOT_FOUND", "REGISTRY_PROJECT_NOT_FOUND", "ASSET_NOT_FOUND", "VERSION_NOT_FOUND", "INVALID_FIELD")


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection that was found. `growing`: more files may come. Of the registry the versions are named as they were found."""

    name: str
    growing: bool
    project_id: int = 0
    project: str = ""
    asset: str = ""
    versions: tuple[str, ...] = ()


class Collections:
    """Looks collections up. A service that the deployment does not run has none."""

    def __init__(
        self,
        dispatch: grpc.aio.Channel | None,
        registry: grpc.aio.Channel | None,
        identity: ServiceIdentity,
        outputs: str,
    ) -> None:
        self._dispatch = Neighbour("dispatch", identity)
        self._registry = Neighbour("the registry", identity)
        self._projects = project_service_pb2_grpc.ProjectServiceStub(dispatch) if dispatch is not None else None
        self._artifacts = registry_service_pb2_grpc.RegistryServiceStub(registry) if registry is not None else None
        self._outputs = outputs

    async def find(self, name: str) -> Collection | None:
        """Look a collection up; None = there is none of that name. Raises DatasetNameError, and Refusal (UNAVAILABLE)."""
        meant = parse(name, self._outputs)
        try:
            match meant:
                case DispatchProject():
                    return await self._find_project(name, meant)
                case RegistryVersion():
                    return await self._find_version(name, meant)
                case RegistryLatest():
                    return await self._find_latest(name, meant)
                case RegistryAsset():
                    return await self._find_asset(name, meant)
        except Refusal as refusal:
            if refusal.reason in _UNKNOWN:
                return None
            raise

    async def files(self, collection: Collection) -> AsyncGenerator[InputFile, None]:
        """Yield the files of a collection in its order; of several versions one after the other. Raises Refusal."""
        if collection.project_id:
            async with aclosing(self._handles(collection.project_id)) as files:
                async for file in files:
                    yield file
        for version in collection.versions:
            async with aclosing(self._entries(collection, version)) as files:
                async for file in files:
                    yield file

    async def _find_project(self, name: str, meant: DispatchProject) -> Collection | None:
        if self._projects is None:
            return None
        request = project_service_pb2.GetProjectRequest(project_id=meant.project_id)
        reply = await self._dispatch.ask(self._projects.GetProject, request)
        return Collection(name, reply.project.open, project_id=meant.project_id)

    async def _find_version(self, name: str, meant: RegistryVersion) -> Collection | None:
        if self._artifacts is None:
            return None
        request = registry_service_pb2.GetVersionRequest(
            project=meant.project, asset=meant.asset, version=meant.version
        )
        reply = await self._registry.ask(self._artifacts.GetVersion, request)
        return None if reply.version.on_probation else _of_registry(name, meant.project, meant.asset, [meant.version])

    async def _find_latest(self, name: str, meant: RegistryLatest) -> Collection | None:
        if self._artifacts is None:
            return None
        request = registry_service_pb2.GetLatestRequest(project=meant.project, asset=meant.asset)
        reply = await self._registry.ask(self._artifacts.GetLatest, request)
        if not reply.HasField("version"):
            return None
        return _of_registry(name, meant.project, meant.asset, [reply.version.version])

    async def _find_asset(self, name: str, meant: RegistryAsset) -> Collection | None:
        if self._artifacts is None:
            return None
        request = registry_service_pb2.ListVersionsRequest(project=meant.project, asset=meant.asset, page_size=10_000)
        found: dict[str, datetime] = {}
        while True:
            page = await self._registry.ask(self._artifacts.ListVersions, request)
            found |= {
                version.version: version.upload_finish.ToDatetime()
                for version in page.versions
                if not version.on_probation
            }
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return _of_registry(name, meant.project, meant.asset, whole(found)) if found else None

    async def _handles(self, project_id: int) -> AsyncGenerator[InputFile, None]:
        assert self._projects is not None
        request = project_service_pb2.ListHandlesRequest(project_id=project_id, with_replicas=True)
        async with aclosing(self._dispatch.stream(self._projects.ListHandles, request)) as replies:
            async for reply in replies:
                for handle in reply.handles:
                    yield _file_of_handle(handle)

    async def _entries(self, collection: Collection, version: str) -> AsyncGenerator[InputFile, None]:
        assert self._artifacts is not None
        request = registry_service_pb2.ListEntriesRequest(
            project=collection.project, asset=collection.asset, version=version
        )
        folder = f"{collection.project}/{collection.asset}/{version}"
        async with aclosing(self._registry.stream(self._artifacts.ListEntries, request)) as replies:
            async for reply in replies:
                for entry in reply.entries:
                    if not entry.empty_directory:
                        yield _file_of_entry(entry, folder)


def _of_registry(name: str, project: str, asset: str, versions: Sequence[str]) -> Collection:
    return Collection(name, growing=False, project=project, asset=asset, versions=tuple(versions))


def _file_of_entry(entry: version_pb2.Entry, folder: str) -> InputFile:
    return InputFile(name=entry.path, size=entry.size, checksum=f"md5:{entry.md5}", place=f"{folder}/{entry.path}")


def _file_of_handle(handle: project_pb2.Handle) -> InputFile:
    facts = json.loads(handle.attributes_json or "{}")
    urls = [url for replica in handle.replicas if replica.available for url in (*replica.urls, replica.path) if url]
    checksum = next((f"{_MARKS[name]}:{facts[name]}" for name in _CHECKSUMS if isinstance(facts.get(name), str)), None)
    return InputFile(
        name=handle.did.name,
        scope=handle.did.namespace,
        size=_number(facts, _SIZES),
        checksum=checksum,
        events=_number(facts, _EVENTS),
        urls=tuple(urls),
        guid=facts["guid"] if isinstance(facts.get("guid"), str) else None,
    )


def _number(facts: dict[str, Any], names: Sequence[str]) -> int:
    for name in names:
        value = facts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
            return value
    return 0
