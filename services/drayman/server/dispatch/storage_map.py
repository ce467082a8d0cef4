"""Where files can be read from, as the reserver needs it: in memory, renewed when something changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drayman.server.dispatch.allotment import Rank
from drayman.server.dispatch.proximity import ProximityMap, distance, nearness

#: Virtual projects: files that need no replica.
ANYWHERE = 0
#: Files without any replica.
NOWHERE = 1
#: Files with replicas of which none can be read now.
OUT_OF_REACH = -1


@dataclass(frozen=True)
class StorageMap:
    """RSEs that are enabled and up, the locations they form, and how far they are from the CPU sites.

    `idle` are the others, by name; `down` are those among them that are enabled; `limited` are those that few may read from at a time.
    """

    usable: Mapping[int, str] = field(default_factory=dict)
    locations: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    proximities: ProximityMap = field(default_factory=dict)
    idle: Mapping[int, str] = field(default_factory=dict)
    down: frozenset[int] = frozenset()
    limited: frozenset[int] = frozenset()

    def distance(self, cpu_site: str, rse: str) -> int | None:
        """Distance of an RSE from a CPU site; None if the map says nothing."""
        return distance(self.proximities, cpu_site, rse)

    def rank(self, cpu_site: str, full: frozenset[int] = frozenset()) -> Rank:
        """How a site orders locations; None for those out of reach. RSEs that are `full` do not count."""
        known: dict[int, tuple[bool, int] | None] = {ANYWHERE: (False, 0), NOWHERE: None, OUT_OF_REACH: None}

        def ranked(location_id: int) -> tuple[bool, int] | None:
            if location_id not in known:
                known[location_id] = min(
                    (self._nearness(cpu_site, rse_id) for rse_id in self._readable(location_id, full)), default=None
                )
            return known[location_id]

        return ranked

    def nearest(self, cpu_site: str, location_id: int, full: frozenset[int]) -> int | None:
        """The RSE that a worker of a site should read from; None if there is none, as for virtual projects."""
        return min(self._readable(location_id, full), key=lambda i: (self._nearness(cpu_site, i), i), default=None)

    def _readable(self, location_id: int, full: frozenset[int]) -> list[int]:
        return [i for i in self.locations.get(location_id, ()) if i in self.usable and i not in full]

    def _nearness(self, cpu_site: str, rse_id: int) -> tuple[bool, int]:
        return nearness(self.distance(cpu_site, self.usable[rse_id]))
