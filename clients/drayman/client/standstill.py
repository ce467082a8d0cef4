"""Why there is no file to be had, in counts by cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from drayman.client.files import Counts, Project, counts_of
from drayman.dispatch.v1 import handle_service_pb2 as handle_pb
from drayman.dispatch.v1 import project_pb2 as pb


@dataclass(frozen=True, slots=True)
class Hindrances:
    """Handles of a project that are not over, each under one cause.

    `ready`: the next worker gets one; `at_limit`: ready, but as many are reserved as may be, in the project or
    (`at_rse_limit`) at the RSEs they could be read from; `reserved`: the oldest since `oldest_since`,
    by `oldest_worker_id`; `no_replica`, `replica_unavailable`, `rse_down` and `rse_disabled`: waiting for a copy that can be read, the
    latter at `rses`. `retrying` of all that wait were tried before.
    """

    ready: int
    at_limit: int
    at_rse_limit: int
    reserved: int
    oldest_since: datetime | None
    oldest_worker_id: str
    no_replica: int
    replica_unavailable: int
    rse_down: int
    rse_disabled: int
    rses: tuple[str, ...]
    retrying: int


@dataclass(frozen=True, slots=True)
class Standstill:
    """How a project stands while a worker waits, and what stands in the way."""

    counts: Counts
    hindrances: Hindrances


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a worker at a site would get, and why not more. `summary` is a sentence for people."""

    project: Project
    hindrances: Hindrances
    summary: str


def hindrances_of(message: pb.Hindrances) -> Hindrances:
    """Read what stands in the way."""
    since = message.oldest_reserve_time.ToDatetime(UTC) if message.HasField("oldest_reserve_time") else None
    return Hindrances(
        ready=message.ready,
        at_limit=message.at_limit,
        at_rse_limit=message.at_rse_limit,
        reserved=message.reserved,
        oldest_since=since,
        oldest_worker_id=message.oldest_worker_id,
        no_replica=message.no_replica,
        replica_unavailable=message.replica_unavailable,
        rse_down=message.rse_down,
        rse_disabled=message.rse_disabled,
        rses=tuple(message.rses),
        retrying=message.retrying,
    )


def standstill_of(message: handle_pb.Progress | handle_pb.TimedOut) -> Standstill:
    """Read how a project stands."""
    return Standstill(counts_of(message.counts), hindrances_of(message.hindrances))
