"""Storage elements, replicas and the proximity map.

Data Dispatcher, sections 2.3, 2.4 and 8 of its behaviour. `add_replicas` and `set_proximity` are additions: there a daemon fills in both.
"""

# the mirrored interface takes its many arguments by position

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from drayman.data_dispatcher import arguments, shapes
from drayman.data_dispatcher.core import ClientCore
from drayman.data_dispatcher.exceptions import NotFoundError, api_error
from drayman.dispatch.v1 import storage_service_pb2 as pb

_REPLICAS_A_MESSAGE = 1_000


class StorageCalls(ClientCore):
    """The methods about RSEs. Reading needs no login; changes are for administrators: others get APIError with status 401 or 403."""

    def list_rses(self) -> list[dict[str, Any]]:
        """Return all RSE dicts, enabled and disabled, by name. Section 2.4."""
        return [shapes.rse_dict(rse) for rse in self._call(self._storage().ListRses, pb.ListRsesRequest()).rses]

    def get_rse(self, name: str) -> dict[str, Any] | None:
        """Return an RSE dict, or None if there is no such RSE. Section 2.4."""
        try:
            return shapes.rse_dict(self._call(self._storage().GetRse, pb.GetRseRequest(name=name)).rse)
        except NotFoundError:
            return None

    def set_rse_availability(self, name: str, available: bool) -> dict[str, Any] | None:
        """Say that an RSE is up or down; returns its RSE dict, None if there is no such RSE. Section 2.4; section 18, trap 15."""
        return self.update_rse(name, is_available=available)

    def create_rse(
        self,
        name: str,
        description: str = "",
        is_enabled: bool = True,
        is_available: bool = True,
        is_tape: bool = False,
        pin_url: str | None = None,
        poll_url: str | None = None,
        remove_prefix: str | None = None,
        add_prefix: str | None = None,
        pin_prefix: str | None = None,
        preference: int | None = None,
        interface: str | None = None,
    ) -> dict[str, Any]:
        """Create an RSE and return its RSE dict, in which `interface` is `type`: `native`, `wlcg`, or None for anything else.

        Raises APIError with status 409 if it exists, 400 for a name that is empty or has control characters. Section 2.4.
        """
        rse = pb.Rse(
            name=name,
            description=description or "",
            is_enabled=is_enabled,
            is_available=is_available,
            is_tape=is_tape,
            pin_url=pin_url,
            poll_url=poll_url,
            remove_prefix=remove_prefix,
            add_prefix=add_prefix,
            pin_prefix=pin_prefix,
            preference=preference or 0,
            type=interface,
        )
        return shapes.rse_dict(self._call(self._storage().CreateRse, pb.CreateRseRequest(rse=rse)).rse)

    def update_rse(
        self,
        name: str,
        description: str | None = None,
        is_enabled: bool | None = None,
        is_available: bool | None = None,
        is_tape: bool | None = None,
        pin_url: str | None = None,
        poll_url: str | None = None,
        remove_prefix: str | None = None,
        add_prefix: str | None = None,
        pin_prefix: str | None = None,
        preference: int | None = None,
        interface: str | None = None,
    ) -> dict[str, Any] | None:
        """Change what is not None; returns the RSE dict, None if there is no such RSE. Acts on waiting workers at once. Section 2.4."""
        changes: dict[str, Any] = {
            "description": description,
            "is_enabled": is_enabled,
            "is_available": is_available,
            "is_tape": is_tape,
            "pin_url": pin_url,
            "poll_url": poll_url,
            "remove_prefix": remove_prefix,
            "add_prefix": add_prefix,
            "pin_prefix": pin_prefix,
            "preference": preference,
            "type": interface,
        }
        request = pb.UpdateRseRequest(name=name, **{key: value for key, value in changes.items() if value is not None})
        try:
            return shapes.rse_dict(self._call(self._storage().UpdateRse, request).rse)
        except NotFoundError:
            return None

    def delete_rse(self, name: str) -> None:
        """Remove an RSE and its replicas. Raises NotFoundError. Section 2.4."""
        self._call(self._storage().DeleteRse, pb.DeleteRseRequest(name=name))

    def add_replicas(self, replicas: Iterable[Mapping[str, Any]]) -> int:
        """Say where files are; returns how many replicas were written. An addition.

        Each item is a dict with `namespace`, `name`, `rse`, then `url` or `urls` (best first), and perhaps `path` (None),
        `preference` (0) and `available` (True), such as a replica dict. What is known of a file at an RSE is replaced. Any iterable
        will do; it is sent in portions, and a failure keeps those before.

        Raises ValueError for an item without namespace, name or RSE, NotFoundError for an unknown RSE.
        """
        rest = iter(replicas)
        written = 0
        while portion := [arguments.replica(item) for item in islice(rest, _REPLICAS_A_MESSAGE)]:
            reply = self._call(self._storage().UpdateReplicas, [pb.UpdateReplicasRequest(upserts=portion)])
            written += reply.upserted
        return written

    def set_proximity(self, cpu_site: str, rse: str, proximity: int | None) -> None:
        """Say how far an RSE is from a CPU site: smaller is nearer, None = say nothing any more. An addition.

        Either name may be `DEFAULT`. Raises APIError with status 400 if a name is empty. Section 8 has the rules of the look-up.
        """
        entry = pb.Proximity(cpu_site=cpu_site, rse=rse, proximity=proximity or 0)
        request = pb.UpdateProximityRequest(
            upserts=[] if proximity is None else [entry], deletes=[entry] if proximity is None else []
        )
        self._call(self._storage().UpdateProximity, request)

    def replica_available(
        self,
        namespace: str,
        name: str,
        rse: str,
        path: str | None = None,
        url: str | None = None,
        preference: int = 0,
    ) -> None:
        """Do nothing and return None, as documented for this leftover; `add_replicas` does what the name says. Section 2.3."""
        return

    def replica_unavailable(self, namespace: str, name: str, rse: str) -> None:
        """Raise NotFoundError, as documented for this leftover. Section 2.3."""
        raise api_error(self.ServerURL or "", 404, "replica_unavailable is not offered; see add_replicas")
