"""Why files are not handed out: every handle that is not over is counted under one cause. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.storage_map import NOWHERE, OUT_OF_REACH, StorageMap


@dataclass(slots=True)
class Hindrances:
    """Handles by what keeps them; the fields are those of the message of this name."""

    ready: int = 0
    at_limit: int = 0
    at_rse_limit: int = 0
    reserved: int = 0
    no_replica: int = 0
    replica_unavailable: int = 0
    rse_down: int = 0
    rse_disabled: int = 0
    retrying: int = 0
    rses: list[str] = field(default_factory=list)
    oldest_reserved_at: datetime | None = None
    oldest_worker_id: str = ""


def hindrances(
    standing: Standing, storage: StorageMap, cpu_site: str, full: frozenset[int] = frozenset()
) -> Hindrances:
    """Count what waits, by cause, for a worker at a site; `full` RSEs are at their limit.

    The oldest reservation is for the caller to look up.
    """
    found = Hindrances(reserved=standing.reserved)
    rank, rank_now = storage.rank(cpu_site), storage.rank(cpu_site, full)
    names: set[str] = set()
    for group, stock in standing.groups.items():
        if group.attempts:
            found.retrying += stock.ready
        if rank_now(group.location_id) is not None:
            found.ready += stock.ready
        elif rank(group.location_id) is not None:
            found.at_rse_limit += stock.ready
        elif group.location_id == NOWHERE:
            found.no_replica += stock.ready
        elif group.location_id == OUT_OF_REACH:
            found.replica_unavailable += stock.ready
        else:
            rse_ids = storage.locations.get(group.location_id, ())
            # one that is down comes back by itself; one that is disabled was taken out on purpose
            if any(rse_id in storage.down for rse_id in rse_ids):
                found.rse_down += stock.ready
            else:
                found.rse_disabled += stock.ready
            if stock.ready:
                names.update(storage.idle[rse_id] for rse_id in rse_ids if rse_id in storage.idle)
    if standing.room is not None:
        found.at_limit = max(found.ready - standing.room, 0)
        found.ready -= found.at_limit
    found.rses = sorted(names)
    return found


def summary(standing: Standing, found: Hindrances) -> str:
    """Say in a sentence what it comes to."""
    if not standing.hands_out:
        return (
            f"The project is {standing.state}: it hands out nothing."
            if standing.state != "active"
            else ("The project has no files." if not standing.files else "Every file is done or failed.")
        )
    if found.ready:
        return f"{found.ready} files are ready: a worker that asks gets one at once."
    causes = [
        (found.at_limit, f"ready, but {standing.max_running} files are reserved, which is the project's limit"),
        (found.at_rse_limit, "ready, but at RSEs that as many read from as may"),
        (found.reserved, "reserved by workers"),
        (found.no_replica, "without any replica"),
        (found.replica_unavailable, "with replicas of which none can be read now"),
        (found.rse_down, "only at RSEs that are down"),
        (found.rse_disabled, "only at RSEs that are disabled"),
    ]
    parts = [f"{number} {what}" for number, what in causes if number]
    if not parts:
        return "Nothing is left to hand out, but the list is open: more files may come."
    where = f" ({', '.join(found.rses)})" if found.rses else ""
    return f"Nothing can be handed out: {'; '.join(parts)}{where}."
