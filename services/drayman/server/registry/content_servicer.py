"""ContentService: the bytes of the registry, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from drayman.registry.v1 import content_service_pb2 as pb
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.warrants import HEADER, read_warrant
from drayman.server.registry import messages
from drayman.server.registry.downloading import Downloads
from drayman.server.registry.spoofing import Actor, Spoofing
from drayman.server.registry.staging import Staging
from drayman.server.registry.upload_session import Uploads, UploadSession, next_part

_HOUR = 3600
_LONGEST_LIFETIME = 12 * _HOUR


class ContentServicer:
    """Uploads and downloads."""

    def __init__(
        self, uploads: Uploads, staging: Staging, downloads: Downloads, spoofing: Spoofing, identity: ServiceIdentity
    ) -> None:
        self._uploads = uploads
        self._staging = staging
        self._downloads = downloads
        self._spoofing = spoofing
        self._identity = identity

    async def Upload(self, requests: AsyncIterator[pb.UploadRequest], call: Call) -> None:
        """Upload a version."""
        first = await next_part(requests, "begin", "whole")
        begin = first.whole.begin if first.HasField("whole") else first.begin
        text = call.metadata(HEADER)
        actor = self._spoofing.actor(call.caller, begin.spoof) if text is None else self._warranted(text, begin)
        session = UploadSession(self._uploads, actor, begin, requests, call)
        await session.run(first.whole if first.HasField("whole") else None)

    def _warranted(self, text: str, begin: pb.UploadBegin) -> Actor:
        """Say in whose name a worker uploads. Raises Refusal for a warrant that is none, or one for something else."""
        warrant = read_warrant(self._identity, text)
        if warrant is None:
            raise Refusal("NOT_AN_UPLOADER", f"the warrant ({HEADER}) is not of this deployment, or has run out")
        said, asked = (f"{each.project}/{each.asset}/{each.version}" for each in (warrant, begin))
        if said != asked:
            raise Refusal("NOT_AN_UPLOADER", f"the warrant is for {said}, not for {asked}")
        if begin.spoof or begin.on_probation:
            raise invalid("begin", "an upload with a warrant is made in its user's name, and needs no approval")
        return Actor(warrant.user, admin=True)

    async def UploadStaged(self, request: pb.UploadStagedRequest, call: Call) -> pb.UploadStagedResponse:
        """Upload a directory of the staging folder."""
        actor = self._spoofing.actor(call.caller, request.spoof)
        version, deduplicated = await self._staging.upload(call.caller, actor, request)
        return pb.UploadStagedResponse(version=messages.version(version), deduplicated=deduplicated)

    async def Download(self, request: pb.DownloadRequest, call: Call) -> None:
        """Send files of a version."""
        await self._downloads.send(request, call)

    async def PresignFiles(self, request: pb.PresignFilesRequest, _call: Call) -> pb.PresignFilesResponse:
        """Return URLs of files."""
        seconds = request.lifetime.seconds if request.HasField("lifetime") else _HOUR
        if not 0 < seconds <= _LONGEST_LIFETIME:
            raise invalid("lifetime", f"lifetime {seconds} s: expected 1 s to {_LONGEST_LIFETIME} s")
        return await self._downloads.presign(request, seconds)
