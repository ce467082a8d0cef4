"""Times as the registry's documents have them: RFC 3339. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from drayman.server.registry import names

# upper case only and a comma allowed, as readers of mounted registries have it
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)


def parse(text: str) -> datetime:
    """Read an RFC 3339 time with any offset; returns it in UTC. Raises ValueError."""
    if _RFC_3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # such as a 30th of February; said below
    raise ValueError(f"{names.shown(text)} is no time: expected RFC 3339, such as 2026-01-31T12:00:00Z")


def text(at: datetime) -> str:
    """Write a time in whole seconds, with the local offset; `Z` where that is zero."""
    return at.astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
