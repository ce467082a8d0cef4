"""RegistryService: projects, assets and versions, and who may do what with them."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from drayman.registry.v1 import registry_service_pb2 as pb
from drayman.server.platform.calls import Call
from drayman.server.platform.endless_streams import EndlessStreams
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import messages, pages
from drayman.server.registry import permissions as rules
from drayman.server.registry.adopting import Adopter
from drayman.server.registry.change_feed import ChangeFeed
from drayman.server.registry.content import Content
from drayman.server.registry.documenting import Documenter
from drayman.server.registry.maintenance import Maintenance
from drayman.server.registry.messages import address, name
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota, check_quota
from drayman.server.registry.records import Asset, Project, Version
from drayman.server.registry.removal import Remover
from drayman.server.registry.reroute_run import Rerouter
from drayman.server.registry.rerouting import Doomed
from drayman.server.registry.spoofing import Actor, Spoofing
from drayman.server.registry.store import Store

_MOST_DOOMED = 10_000
#: Entries in one message.
_ENTRIES = 400


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deployment says of its registry."""

    #: folder or URL
    registry: str
    #: empty = there is none
    staging: str
    #: 0 = versions wait for ever
    probation_days: int
    #: bytes that a new project may have, and so many more each year
    baseline: int
    growth_rate: int


class RegistryServicer(EndlessStreams):
    """Answers calls. A part of its process, too: those who follow changes are told when it drains."""

    def __init__(
        self,
        store: Store,
        remover: Remover,
        documenter: Documenter,
        feed: ChangeFeed,
        maintenance: Maintenance,
        rerouter: Rerouter,
        adopter: Adopter,
        spoofing: Spoofing,
        deployment: Deployment,
        content: Content,
    ) -> None:
        super().__init__()
        self._store = store
        self._remover = remover
        self._documenter = documenter
        self._feed = feed
        self._maintenance = maintenance
        self._rerouter = rerouter
        self._adopter = adopter
        self._spoofing = spoofing
        self._deployment = deployment
        self._content = content

    # --- projects ----------------------------------------------------------------------------------------------------

    async def GetRegistryInfo(self, _request: pb.GetRegistryInfoRequest, _call: Call) -> pb.GetRegistryInfoResponse:
        """Tell where the registry is."""
        here = self._deployment
        return pb.GetRegistryInfoResponse(
            registry=here.registry, staging=here.staging, probation_days=here.probation_days
        )

    async def CreateProject(self, request: pb.CreateProjectRequest, call: Call) -> pb.CreateProjectResponse:
        """Create a project."""
        project = name("project", request.project)
        permissions = Permissions(owners=(call.caller.username,))
        if request.HasField("permissions"):
            permissions = messages.read_permissions(request.permissions, "permissions")
        here = self._deployment
        quota = Quota(here.baseline, here.growth_rate, _year())
        if request.HasField("quota"):
            asked = request.quota
            quota = _checked(Quota(asked.baseline, asked.growth_rate, asked.year or quota.year), "quota")
        created = await self._store.create_project(project, permissions, quota, check=self._refuse_foreign)
        await self._documenter.attempt(created.project_id)
        return pb.CreateProjectResponse()

    async def GetProject(self, request: pb.GetProjectRequest, _call: Call) -> pb.GetProjectResponse:
        """Return a project."""
        project = await self._store.project(name("project", request.project))
        return pb.GetProjectResponse(
            usage=project.usage,
            quota=messages.quota(project.quota),
            limit=project.quota.limit(_year()),
            permissions=messages.permissions(project.permissions),
        )

    async def ListProjects(self, request: pb.ListProjectsRequest, _call: Call) -> pb.ListProjectsResponse:
        """Return a page of projects."""
        listing, size = pages.Listing("projects"), pages.page_size(request.page_size)
        found = await self._store.projects(listing.start(request.page_token), size + 1)
        following = listing.token(found[size - 1]) if len(found) > size else ""
        return pb.ListProjectsResponse(projects=found[:size], next_page_token=following)

    async def DeleteProject(self, request: pb.DeleteProjectRequest, _call: Call) -> pb.DeleteProjectResponse:
        """Remove a project."""
        doomed = Doomed(name("project", request.project))
        return pb.DeleteProjectResponse(deleted=await self._remover.delete(doomed, force=request.force))

    async def SetQuota(self, request: pb.SetQuotaRequest, _call: Call) -> pb.SetQuotaResponse:
        """Change a quota."""

        def change(old: Quota) -> Quota:
            return _checked(
                Quota(
                    baseline=request.baseline if request.HasField("baseline") else old.baseline,
                    growth_rate=request.growth_rate if request.HasField("growth_rate") else old.growth_rate,
                    year=request.year if request.HasField("year") else old.year,
                )
            )

        project = await self._store.set_quota(name("project", request.project), change)
        await self._documenter.attempt(project.project_id)
        return pb.SetQuotaResponse(quota=messages.quota(project.quota), limit=project.quota.limit(_year()))

    # --- assets and versions -----------------------------------------------------------------------------------------

    async def ListAssets(self, request: pb.ListAssetsRequest, _call: Call) -> pb.ListAssetsResponse:
        """Return a page of assets."""
        project = name("project", request.project)
        listing, size = pages.Listing("assets", project), pages.page_size(request.page_size)
        found = await self._store.assets(project, listing.start(request.page_token), size + 1)
        following = listing.token(found[size - 1]) if len(found) > size else ""
        return pb.ListAssetsResponse(assets=found[:size], next_page_token=following)

    async def DeleteAsset(self, request: pb.DeleteAssetRequest, _call: Call) -> pb.DeleteAssetResponse:
        """Remove an asset."""
        doomed = Doomed(name("project", request.project), name("asset", request.asset))
        return pb.DeleteAssetResponse(deleted=await self._remover.delete(doomed, force=request.force))

    async def ListVersions(self, request: pb.ListVersionsRequest, _call: Call) -> pb.ListVersionsResponse:
        """Return a page of versions."""
        project, asset = name("project", request.project), name("asset", request.asset)
        listing, size = pages.Listing("versions", project, asset), pages.page_size(request.page_size)
        found = await self._store.versions(project, asset, listing.start(request.page_token), size + 1)
        following = listing.token(found[size - 1].address.version) if len(found) > size else ""
        return pb.ListVersionsResponse(versions=map(messages.version, found[:size]), next_page_token=following)

    async def GetVersion(self, request: pb.GetVersionRequest, _call: Call) -> pb.GetVersionResponse:
        """Return a version."""
        return pb.GetVersionResponse(version=messages.version(await self._store.version(address(request))))

    async def GetLatest(self, request: pb.GetLatestRequest, _call: Call) -> pb.GetLatestResponse:
        """Return the latest version."""
        latest = await self._store.latest(name("project", request.project), name("asset", request.asset))
        return pb.GetLatestResponse(version=messages.version(latest) if latest else None)

    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> None:
        """Stream the entries of a version."""
        version = await self._store.version(address(request))
        async for rows in self._store.entry_pages(version.version_id, request.prefix):
            # the client reads the first while the next is made
            for first in range(0, len(rows), _ENTRIES):
                await call.send(messages.entries(rows[first : first + _ENTRIES]))

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, _call: Call) -> pb.DeleteVersionResponse:
        """Remove a version."""
        at = address(request)
        doomed = Doomed(at.project, at.asset, at.version)
        return pb.DeleteVersionResponse(deleted=await self._remover.delete(doomed, force=request.force))

    # --- permissions -------------------------------------------------------------------------------------------------

    async def GetPermissions(self, request: pb.GetPermissionsRequest, _call: Call) -> pb.GetPermissionsResponse:
        """Return who may do what."""
        stored: Permissions | None = (await self._store.project(name("project", request.project))).permissions
        if request.asset:
            try:
                stored = (await self._store.asset(request.project, name("asset", request.asset))).permissions
            except Refusal as refusal:
                if refusal.reason != "ASSET_NOT_FOUND":
                    raise
                stored = None
        return pb.GetPermissionsResponse(permissions=messages.permissions(stored))

    async def SetPermissions(self, request: pb.SetPermissionsRequest, call: Call) -> pb.SetPermissionsResponse:
        """Change who may do what."""
        actor = self._spoofing.actor(call.caller, request.spoof)
        project = name("project", request.project)
        asset = name("asset", request.asset) if request.asset else None
        if asset is not None and request.HasField("global_write"):
            raise invalid("global_write", "global_write is of projects: leave it out, or leave the asset out")
        new_owners, new_uploaders = None, None
        if request.owners.HasField("replace"):
            new_owners = messages.read_users(request.owners.replace.names, "owners.replace.names")
        if request.uploaders.HasField("replace"):
            given = request.uploaders.replace.uploaders
            new_uploaders = messages.read_uploaders(given, "uploaders.replace.uploaders")
        add_owners = messages.read_users(request.owners.add, "owners.add")
        add_uploaders = messages.read_uploaders(request.uploaders.add, "uploaders.add")
        global_write = request.global_write if request.HasField("global_write") else None
        project_id = 0

        def change(stored: Project, of: Asset | None) -> Permissions:
            nonlocal project_id
            project_id = stored.project_id
            _require_owner(actor, stored, of)
            current = stored.permissions if asset is None else (of and of.permissions) or Permissions()
            return rules.changed(
                current,
                replace_owners=new_owners,
                add_owners=add_owners,
                remove_owners=request.owners.remove,
                replace_uploaders=new_uploaders,
                add_uploaders=add_uploaders,
                remove_uploaders=request.uploaders.remove,
                global_write=global_write,
                of_asset=asset is not None,
            )

        permissions = await self._store.set_permissions(project, asset, change)
        await self._documenter.attempt(project_id)
        return pb.SetPermissionsResponse(permissions=messages.permissions(permissions))

    # --- probation ---------------------------------------------------------------------------------------------------

    async def ListProbation(self, request: pb.ListProbationRequest, call: Call) -> pb.ListProbationResponse:
        """Return a page of versions that wait."""
        project = name("project", request.project) if request.project else None
        caller = call.caller
        actor = Actor(caller.username, admin=caller.admin)
        if project is not None:
            _require_owner(actor, await self._store.project(project))
        elif not caller.admin:
            raise Refusal(
                "NOT_REGISTRY_OWNER",
                "what waits in all projects is for administrators: name a project",
                metadata={"user": caller.username},
            )
        listing, size = pages.Listing("probation", project or ""), pages.page_size(request.page_size)
        found = await self._store.probation(project, listing.place(request.page_token), size + 1)
        following = listing.place_token(_place(found[size - 1])) if len(found) > size else ""
        return pb.ListProbationResponse(versions=map(messages.version, found[:size]), next_page_token=following)

    async def ApproveProbation(self, request: pb.ApproveProbationRequest, call: Call) -> pb.ApproveProbationResponse:
        """Approve a version."""
        actor = self._spoofing.actor(call.caller, request.spoof)

        def check(project: Project, _version: Version) -> None:
            _require_owner(actor, project)

        approved = await self._remover.approve(address(request), check)
        return pb.ApproveProbationResponse(version=messages.version(approved))

    async def RejectProbation(self, request: pb.RejectProbationRequest, call: Call) -> pb.RejectProbationResponse:
        """Reject a version."""
        actor = self._spoofing.actor(call.caller, request.spoof)

        def check(project: Project, version: Version) -> None:
            if actor.username != version.upload_user:
                _require_owner(actor, project)

        await self._remover.reject(address(request), check, force=request.force)
        return pb.RejectProbationResponse()

    # --- maintenance -------------------------------------------------------------------------------------------------

    async def RefreshLatest(self, request: pb.RefreshLatestRequest, _call: Call) -> pb.RefreshLatestResponse:
        """Find the latest version again."""
        project, asset = name("project", request.project), name("asset", request.asset)
        return pb.RefreshLatestResponse(version=await self._maintenance.refresh_latest(project, asset) or "")

    async def RefreshUsage(self, request: pb.RefreshUsageRequest, _call: Call) -> pb.RefreshUsageResponse:
        """Add the usage up again."""
        return pb.RefreshUsageResponse(total=await self._maintenance.refresh_usage(name("project", request.project)))

    async def ReindexVersion(self, request: pb.ReindexVersionRequest, _call: Call) -> pb.ReindexVersionResponse:
        """Rebuild what is known of a version."""
        return pb.ReindexVersionResponse(version=messages.version(await self._maintenance.reindex(address(request))))

    async def ValidateVersion(self, request: pb.ValidateVersionRequest, _call: Call) -> pb.ValidateVersionResponse:
        """Compare what is stored with what is known."""
        found = await self._maintenance.validate(address(request))
        return pb.ValidateVersionResponse(differences=[pb.Difference(path=each.path, text=each.text) for each in found])

    async def RerouteLinks(self, request: pb.RerouteLinksRequest, _call: Call) -> pb.RerouteLinksResponse:
        """Make links independent."""
        if len(request.to_delete) > _MOST_DOOMED:
            raise invalid("to_delete", f"{len(request.to_delete)} items in one request: at most {_MOST_DOOMED}")
        doomed = []
        for place, message in enumerate(request.to_delete):
            each = Doomed(message.project, message.asset, message.version)
            try:
                each.check()
            except ValueError as error:
                raise invalid(f"to_delete[{place}]", f"to_delete[{place}]: {error}") from error
            doomed.append(each)
        changes = await self._rerouter.run(doomed, dry_run=request.dry_run)
        return pb.RerouteLinksResponse(changes=map(messages.rerouted, changes))

    async def ListChanges(self, request: pb.ListChangesRequest, call: Call) -> None:
        """Stream what changed."""
        if request.after < 0:
            raise invalid("after", f"after {request.after} is negative", value=request.after)
        project = name("project", request.project) if request.project else ""
        since = messages.moment(request.since, "since") if request.HasField("since") else None
        if request.follow:
            await call.send(pb.ListChangesResponse())  # who follows knows that they are heard, however quiet it is
            changes = self._feed.follow(request.after, since, project, self._pause)
        else:
            changes = self._feed.changes(request.after, since, project)
        async with aclosing(changes):
            async for page in changes:
                await call.send(pb.ListChangesResponse(changes=map(messages.change, page)))

    async def AdoptRegistry(self, request: pb.AdoptRegistryRequest, call: Call) -> None:
        """Take over what another system made."""
        async with aclosing(self._adopter.run(verify=request.verify, dry_run=request.dry_run)) as outcomes:
            async for each in outcomes:
                await call.send(pb.AdoptRegistryResponse(path=each.path, adopted=each.adopted, problems=each.problems))

    async def _refuse_foreign(self, project: str) -> None:
        """Refuse if there is a folder of that name, which is then nobody's: what another system made, or what a lost database knew."""
        if await self._content.exists(project):
            root = self._content.local_root
            help_ = f"take it over by `drayman registry adopt {root}`" if root is not None else "remove what is there"
            raise Refusal(
                "REGISTRY_PROJECT_EXISTS",
                f"the registry has a folder {project!r} that no project is known to have: {help_}, or choose another name",
                metadata={"project": project},
            )


def _require_owner(actor: Actor, project: Project, asset: Asset | None = None) -> None:
    """Raise Refusal (NOT_REGISTRY_OWNER) unless somebody may do what owners may."""
    if not rules.may_own(actor.username, actor.admin, project.permissions, asset.permissions if asset else None):
        what = f"asset {project.name}/{asset.name}" if asset else f"project {project.name}"
        raise Refusal(
            "NOT_REGISTRY_OWNER",
            f"{actor.username} is no owner of {what}",
            metadata={"user": actor.username, "project": project.name},
        )


def _checked(quota: Quota, field: str = "") -> Quota:
    try:
        check_quota(quota)
    except ValueError as error:
        # the text begins with the name of what is wrong
        part = str(error).partition(" ")[0]
        raise invalid(f"{field}.{part}" if field else part, str(error)) from error
    return quota


def _place(version: Version) -> pages.Place:
    return pages.Place(version.upload_finish, version.version_id)


def _year() -> int:
    return datetime.now(UTC).year
