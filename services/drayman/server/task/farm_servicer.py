"""FarmService: what workers offer, and credentials that users delegate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drayman.server.platform.calls import Call
from drayman.server.platform.errors import invalid
from drayman.server.task.farm_store import FarmStore
from drayman.server.task.job_fields import storable
from drayman.server.task.job_messages import timestamp
from drayman.task.v1 import farm_service_pb2 as pb

_LONGEST = 1000
_USUAL_LIFE = timedelta(hours=12)


class FarmServicer:
    """Look at offers; keep a register of credentials, never their content."""

    def __init__(self, store: FarmStore) -> None:
        self._store = store

    async def ListOffers(self, request: pb.ListOffersRequest, _call: Call) -> pb.ListOffersResponse:
        """List what was offered within the last hour."""
        return pb.ListOffersResponse(
            offers=[
                pb.FarmOffer(
                    site=row["site"],
                    platform=row["platform"],
                    software=row["software"],
                    seen_time=timestamp(row["seen_at"]),
                )
                for row in await self._store.offers(storable(request.software))
            ]
        )

    async def RegisterCredential(
        self, request: pb.RegisterCredentialRequest, call: Call
    ) -> pb.RegisterCredentialResponse:
        """Record a credential of the caller."""
        if not request.name:
            raise invalid("name", "the credential has no name")
        for field in ("name", "origin", "repository"):
            text = getattr(request, field)
            if len(text) > _LONGEST or "\x00" in text:
                raise invalid(field, f"{field} {text[:80]!r}: expected at most {_LONGEST} characters without NUL")
        now = datetime.now(UTC)
        end = now + _USUAL_LIFE
        if request.HasField("expire_time"):
            try:
                end = request.expire_time.ToDatetime(UTC)
            except (ValueError, OverflowError):
                raise invalid("expire_time", "expire_time is no time") from None
            if end <= now:
                raise invalid("expire_time", f"expire_time {end.isoformat()} is in the past")
        await self._store.register_credential(
            call.caller.username, request.name, request.origin, request.repository, end
        )
        return pb.RegisterCredentialResponse()

    async def GetCredential(self, _request: pb.GetCredentialRequest, call: Call) -> pb.GetCredentialResponse:
        """Return the caller's record that lasts longest."""
        row = await self._store.credential(call.caller.username)
        if row is None:
            return pb.GetCredentialResponse()
        return pb.GetCredentialResponse(
            name=row["name"],
            origin=row["origin"],
            repository=row["repository"],
            expire_time=timestamp(row["expires_at"]),
        )
