"""OutputService: where other services of the deployment keep what they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid5

from drayman.registry.v1 import output_service_pb2 as pb
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import linking
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.assembly import Registry
from drayman.server.registry.entries import Entry, check_tree
from drayman.server.registry.messages import address, name
from drayman.server.registry.permissions import Permissions, may_upload
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import UPLOADING
from drayman.server.registry.upload_holding import holding

#: Everybody's outputs are in one project: what a deployment lets them have is for its administrators to set.
_NO_LIMIT = 2**62
#: Where the ids of versions that are put together come from.
_ASSEMBLIES = UUID("6f1c9f5e-24a5-4a0e-9d3e-7d4c1a2b8e90")


class OutputServicer:
    """Makes projects for outputs, and versions out of others."""

    def __init__(self, registry: Registry, baseline: int, growth_rate: int) -> None:
        self._registry = registry
        self._baseline = baseline
        self._growth_rate = growth_rate

    async def OpenOutputProject(
        self, request: pb.OpenOutputProjectRequest, _call: Call
    ) -> pb.OpenOutputProjectResponse:
        """Make a project unless there is one."""
        project = name("project", request.project)
        for asset in request.assets:
            name("assets", asset)
        if not request.user and not request.shared:
            raise invalid("user", "expected the user who asks, or `shared`")
        owners = () if request.shared else (request.user,)
        year = datetime.now(UTC).year
        quota = Quota(_NO_LIMIT, 0, year) if request.shared else Quota(self._baseline, self._growth_rate, year)
        try:
            created = await self._registry.store.create_project(project, Permissions(owners=owners), quota)
        except Refusal as refusal:
            if refusal.reason != "REGISTRY_PROJECT_EXISTS":
                raise
            if not request.shared:
                await self._require_uploader(project, request.user, list(request.assets))
            return pb.OpenOutputProjectResponse(created=False)
        await self._registry.documenter.attempt(created.project_id)
        return pb.OpenOutputProjectResponse(created=True)

    async def AssembleVersion(self, request: pb.AssembleVersionRequest, _call: Call) -> pb.AssembleVersionResponse:
        """Publish links to the files of other versions."""
        at = address(request)
        if not request.parts:
            raise invalid("parts", "expected the versions whose files the new one has")
        parts = [replace(at, version=name("parts", part)) for part in request.parts]
        entries = await self._links(at, parts)
        # of the same parts the same upload: asked for again, it is there
        upload_id = uuid5(_ASSEMBLIES, "\0".join([at.folder, *sorted(request.parts)]))
        await self._publish(at, upload_id, request.user, entries)
        return pb.AssembleVersionResponse(files=len(entries))

    async def _require_uploader(self, project: str, user: str, assets: Sequence[str]) -> None:
        found = await self._registry.store.project(project)
        for asset in assets:
            try:
                permissions, exists = (await self._registry.store.asset(project, asset)).permissions, True
            except Refusal as refusal:
                if refusal.reason != "ASSET_NOT_FOUND":
                    raise
                permissions, exists = None, False
            now = datetime.now(UTC)
            if not may_upload(user, False, asset, "", found.permissions, permissions, exists, now).allowed:
                raise Refusal(
                    "NOT_AN_UPLOADER",
                    f"{user} may not upload to {project}/{asset}: its owners can allow it",
                    metadata={"user": user, "project": project, "asset": asset},
                )

    async def _links(self, at: VersionAddress, parts: Sequence[VersionAddress]) -> list[Entry]:
        made: list[Entry] = []
        empty: dict[str, Entry] = {}  # several parts may have the same directory
        for part in parts:
            version = await self._registry.store.version(part)
            for entry in await self._registry.store.entries(version.version_id):
                if entry.is_directory:
                    empty[entry.path] = entry
                else:
                    made.append(linking.link_to(entry.path, part.file(entry.path), entry))
        made += empty.values()
        try:
            check_tree(entry.path for entry in made)
        except ValueError as error:
            raise invalid("parts", f"the parts of {at.folder} do not fit together: {error}") from error
        return made

    async def _publish(self, at: VersionAddress, upload_id: UUID, user: str, entries: Sequence[Entry]) -> None:
        registry = self._registry
        upload = await registry.publisher.begin(at, upload_id, user, admin=True, on_probation=False)
        incoming = registry.content.incoming(str(upload_id))
        async with holding(upload, incoming, registry.publisher, registry.versions, resumable=False) as held:
            if upload.state == UPLOADING:
                await incoming.prepare()
                await held.publish(entries)
            else:
                await held.finish()
