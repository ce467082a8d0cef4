"""How far an RSE is from a CPU site. Pure."""

from __future__ import annotations

from collections.abc import Mapping

#: CPU site -> RSE -> distance; smaller is nearer.
ProximityMap = Mapping[str, Mapping[str, int]]

DEFAULT = "DEFAULT"


def distance(proximities: ProximityMap, cpu_site: str, rse: str) -> int | None:
    """Look up a distance: the site's own map, or that of `DEFAULT` for a site without one; in it the RSE, or its entry `DEFAULT`.

    None if that map says nothing: a known site's gaps are not filled from the `DEFAULT` site.
    """
    of_site = proximities.get(cpu_site or DEFAULT) or proximities.get(DEFAULT) or {}
    found = of_site.get(rse)
    return found if found is not None else of_site.get(DEFAULT)


def nearness(found: int | None) -> tuple[bool, int]:
    """Sort key: ascending distance, unknown ones last."""
    return (found is None, found or 0)
