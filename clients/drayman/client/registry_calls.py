"""The calls of RegistryService: projects, assets, versions, and who may do what with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import grpc.aio

from drayman.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from drayman.client.calls import Client
from drayman.client.registry_values import (
    Adopted,
    Change,
    Difference,
    Doomed,
    Entry,
    Permissions,
    Quota,
    RegistryInfo,
    RegistryProject,
    Rerouted,
    Uploader,
    Version,
    change_of,
    entry_of,
    permissions_of,
    quota_of,
    timestamp,
    uploader_messages,
    version_of,
)
from drayman.registry.v1 import registry_service_pb2 as pb
from drayman.registry.v1 import registry_service_pb2_grpc, version_pb2

_PAGE = 10_000

Uploaders = Iterable[Uploader | Mapping[str, Any]]


class RegistryCalls(Client):
    """Calls of RegistryService. Methods raise DraymanError.

    `spoof` acts as that user, if the deployment lets the caller.
    """

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)

    async def info(self) -> RegistryInfo:
        """Tell where the registry is."""
        reply = await self._ask_openly(self._registry.GetRegistryInfo, pb.GetRegistryInfoRequest())
        return RegistryInfo(reply.registry, reply.staging, reply.probation_days)

    # --- projects ----------------------------------------------------------------------------------------------------

    async def create_project(
        self,
        project: str,
        *,
        owners: Iterable[str] | None = None,
        uploaders: Uploaders = (),
        global_write: bool | None = None,
        quota: Quota | None = None,
    ) -> None:
        """Create a project. `owners` None = the caller; `quota` None = the deployment's default. For administrators."""
        request = pb.CreateProjectRequest(project=project)
        sent = uploader_messages(uploaders)
        if owners is None and (sent or global_write is not None):
            owners = [(await self._call(self._auth.GetAuthInfo, auth_service_pb2.GetAuthInfoRequest())).username]
        if owners is not None:
            request.permissions.CopyFrom(version_pb2.Permissions(owners=owners, uploaders=sent))
            if global_write is not None:
                request.permissions.global_write = global_write
        if quota is not None:
            request.quota.CopyFrom(pb.Quota(baseline=quota.baseline, growth_rate=quota.growth_rate, year=quota.year))
        await self._call(self._registry.CreateProject, request)

    async def get_project(self, project: str) -> RegistryProject:
        """Read a project's usage, quota and permissions."""
        reply = await self._call(self._registry.GetProject, pb.GetProjectRequest(project=project))
        return RegistryProject(
            project, reply.usage, quota_of(reply.quota), reply.limit, permissions_of(reply.permissions)
        )

    async def projects(self) -> AsyncIterator[str]:
        """Read the names of all projects, sorted."""
        async for reply in self._pages(self._registry.ListProjects, pb.ListProjectsRequest(page_size=_PAGE)):
            for name in reply.projects:
                yield name

    async def delete_project(self, project: str, *, force: bool = False) -> bool:
        """Remove a project; whether it was there. `force`: also if others link to its files. For administrators."""
        request = pb.DeleteProjectRequest(project=project, force=force)
        deleted: bool = (await self._call(self._registry.DeleteProject, request)).deleted
        return deleted

    async def set_quota(
        self, project: str, *, baseline: int | None = None, growth_rate: int | None = None, year: int | None = None
    ) -> tuple[Quota, int]:
        """Change a quota; None stays. Returns it and the bytes that the project may have now. For administrators."""
        request = pb.SetQuotaRequest(project=project, baseline=baseline, growth_rate=growth_rate, year=year)
        reply = await self._call(self._registry.SetQuota, request)
        return quota_of(reply.quota), reply.limit

    async def refresh_usage(self, project: str) -> int:
        """Add the usage of a project up again; returns its bytes. For administrators."""
        request = pb.RefreshUsageRequest(project=project)
        total: int = (await self._call(self._registry.RefreshUsage, request)).total
        return total

    # --- assets ------------------------------------------------------------------------------------------------------

    async def assets(self, project: str) -> AsyncIterator[str]:
        """Read the names of a project's assets, sorted."""
        request = pb.ListAssetsRequest(project=project, page_size=_PAGE)
        async for reply in self._pages(self._registry.ListAssets, request):
            for name in reply.assets:
                yield name

    async def delete_asset(self, project: str, asset: str, *, force: bool = False) -> bool:
        """Remove an asset; whether it was there. `force`: also if others link to it or it is damaged. For administrators."""
        request = pb.DeleteAssetRequest(project=project, asset=asset, force=force)
        deleted: bool = (await self._call(self._registry.DeleteAsset, request)).deleted
        return deleted

    async def latest(self, project: str, asset: str) -> Version | None:
        """Read the latest approved version of an asset; None if there is none."""
        reply = await self._call(self._registry.GetLatest, pb.GetLatestRequest(project=project, asset=asset))
        return version_of(reply.version) if reply.HasField("version") else None

    async def refresh_latest(self, project: str, asset: str) -> str | None:
        """Find the latest version of an asset again; returns its name, or None. For administrators."""
        request = pb.RefreshLatestRequest(project=project, asset=asset)
        return (await self._call(self._registry.RefreshLatest, request)).version or None

    # --- versions ----------------------------------------------------------------------------------------------------

    async def versions(self, project: str, asset: str) -> AsyncIterator[Version]:
        """Read the versions of an asset by name; those on probation too."""
        request = pb.ListVersionsRequest(project=project, asset=asset, page_size=_PAGE)
        async for reply in self._pages(self._registry.ListVersions, request):
            for version in reply.versions:
                yield version_of(version)

    async def get_version(self, project: str, asset: str, version: str) -> Version:
        """Read one version."""
        request = pb.GetVersionRequest(project=project, asset=asset, version=version)
        return version_of((await self._call(self._registry.GetVersion, request)).version)

    async def entries(self, project: str, asset: str, version: str, *, prefix: str = "") -> AsyncIterator[Entry]:
        """Read the entries of a version by path, while they arrive: all, or those whose path begins with `prefix`."""
        request = pb.ListEntriesRequest(project=project, asset=asset, version=version, prefix=prefix)
        async with self._stream(self._registry.ListEntries, request) as replies:
            async for reply in replies:
                for entry in reply.entries:
                    yield entry_of(entry)

    async def delete_version(self, project: str, asset: str, version: str, *, force: bool = False) -> bool:
        """Remove a version; whether it was there. `force`: also if others link to it or it is damaged. For administrators."""
        request = pb.DeleteVersionRequest(project=project, asset=asset, version=version, force=force)
        deleted: bool = (await self._call(self._registry.DeleteVersion, request)).deleted
        return deleted

    async def reindex_version(self, project: str, asset: str, version: str) -> Version:
        """Rebuild a version's manifest and links from what is stored. For administrators."""
        request = pb.ReindexVersionRequest(project=project, asset=asset, version=version)
        return version_of((await self._call(self._registry.ReindexVersion, request)).version)

    async def validate_version(self, project: str, asset: str, version: str) -> list[Difference]:
        """Compare what is stored, byte by byte, with what is known; no difference = all is well. For administrators."""
        request = pb.ValidateVersionRequest(project=project, asset=asset, version=version)
        # every byte is read again
        reply = await self._ask(self._registry.ValidateVersion, request, None)
        return [Difference(each.path, each.text) for each in reply.differences]

    # --- who may do what ---------------------------------------------------------------------------------------------

    async def permissions(self, project: str, asset: str = "") -> Permissions:
        """Read who may do what with a project, or with an asset; empty for an asset that has none of its own."""
        request = pb.GetPermissionsRequest(project=project, asset=asset)
        return permissions_of((await self._call(self._registry.GetPermissions, request)).permissions)

    async def set_permissions(
        self,
        project: str,
        asset: str = "",
        *,
        owners: Iterable[str] | None = None,
        add_owners: Iterable[str] = (),
        remove_owners: Iterable[str] = (),
        uploaders: Uploaders | None = None,
        add_uploaders: Uploaders = (),
        remove_uploaders: Iterable[str] = (),
        global_write: bool | None = None,
        spoof: str = "",
    ) -> Permissions:
        """Change who may do what, in one step. `owners` and `uploaders` replace the lists; None stays. For owners and administrators."""
        request = pb.SetPermissionsRequest(
            project=project,
            asset=asset,
            owners=pb.ListChange(add=add_owners, remove=remove_owners),
            uploaders=pb.UploadersChange(add=uploader_messages(add_uploaders), remove=remove_uploaders),
            spoof=spoof,
        )
        if global_write is not None:
            request.global_write = global_write
        if owners is not None:
            request.owners.replace.CopyFrom(pb.ListChange.Owners(names=owners))
        if uploaders is not None:
            request.uploaders.replace.CopyFrom(pb.UploadersChange.Uploaders(uploaders=uploader_messages(uploaders)))
        return permissions_of((await self._call(self._registry.SetPermissions, request)).permissions)

    # --- probation ---------------------------------------------------------------------------------------------------

    async def probation(self, project: str = "") -> AsyncIterator[Version]:
        """Read the versions that wait for approval, oldest first: of a project, for its owners, or of all, for administrators."""
        request = pb.ListProbationRequest(project=project, page_size=_PAGE)
        async for reply in self._pages(self._registry.ListProbation, request):
            for version in reply.versions:
                yield version_of(version)

    async def approve_probation(self, project: str, asset: str, version: str, *, spoof: str = "") -> Version:
        """Approve a version that waits. For project owners and administrators."""
        request = pb.ApproveProbationRequest(project=project, asset=asset, version=version, spoof=spoof)
        return version_of((await self._call(self._registry.ApproveProbation, request)).version)

    async def reject_probation(
        self, project: str, asset: str, version: str, *, force: bool = False, spoof: str = ""
    ) -> None:
        """Reject a version that waits; its name is free again. `force`: also if its content is damaged."""
        request = pb.RejectProbationRequest(project=project, asset=asset, version=version, force=force, spoof=spoof)
        await self._call(self._registry.RejectProbation, request)

    # --- the whole registry ------------------------------------------------------------------------------------------

    async def reroute_links(self, to_delete: Sequence[Doomed], *, dry_run: bool = False) -> list[Rerouted]:
        """Make links independent of what is about to be deleted; deletes nothing. For administrators."""
        doomed = [
            pb.RerouteLinksRequest.Doomed(project=each.project, asset=each.asset, version=each.version)
            for each in to_delete
        ]
        request = pb.RerouteLinksRequest(to_delete=doomed, dry_run=dry_run)
        # as long as the copies take
        reply = await self._ask(self._registry.RerouteLinks, request, None)
        return [Rerouted(each.path, each.copy, each.source, each.usage) for each in reply.changes]

    async def changes(
        self, *, after: int = 0, since: datetime | None = None, project: str = "", follow: bool = False
    ) -> AsyncIterator[Change]:
        """Read what changed, oldest first: after a change's id, since a time (without time zone: local), of one project.

        With `follow` it does not end: changes as they happen.
        """
        request = pb.ListChangesRequest(after=after, project=project, follow=follow)
        if since is not None:
            request.since.CopyFrom(timestamp(since))
        async with self._stream(self._registry.ListChanges, request) as replies:
            async for reply in replies:
                for change in reply.changes:
                    yield change_of(change)

    async def adopt(self, *, verify: bool = False, dry_run: bool = False) -> AsyncIterator[Adopted]:
        """Take over the Gobbler registry in the service's folder; tells each project, asset and version. For administrators.

        `verify` hashes every file again. A call that is repeated goes on where the one before ended.
        """
        request = pb.AdoptRegistryRequest(verify=verify, dry_run=dry_run)
        async with self._stream(self._registry.AdoptRegistry, request) as replies:
            async for reply in replies:
                yield Adopted(reply.path, reply.adopted, tuple(reply.problems))

    async def _pages(self, method: Any, request: Any) -> AsyncIterator[Any]:
        while True:
            reply = await self._call(method, request)
            yield reply
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token
