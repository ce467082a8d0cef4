"""What a project may grow to. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# what a 64-bit integer holds: of the database, of messages, and of other readers of the documents
_MOST_BYTES = 2**63 - 1
_LAST_YEAR = 9999


@dataclass(frozen=True, slots=True)
class Quota:
    """So many bytes at the start, so many more with each calendar year."""

    #: bytes
    baseline: int
    #: bytes a year
    growth_rate: int
    #: the first year: it has the baseline
    year: int

    def limit(self, today_year: int) -> int:
        """Bytes that the project may have in a year; the baseline before the first one."""
        return min(self.baseline + self.growth_rate * max(0, today_year - self.year), _MOST_BYTES)


def check_quota(quota: Quota) -> None:
    """Raise ValueError for a quota that cannot be."""
    for what, value in (("baseline", quota.baseline), ("growth_rate", quota.growth_rate)):
        if not 0 <= value <= _MOST_BYTES:
            raise ValueError(f"{what} is a number of bytes from 0 to {_MOST_BYTES}, got {value}")
    if not 1 <= quota.year <= _LAST_YEAR:
        raise ValueError(f"year is a calendar year from 1 to {_LAST_YEAR}, got {quota.year}")


def check(quota: Quota, used: int, coming: int, year: int) -> str:
    """Say why no more bytes may come, with all figures; empty if they may. Nothing more is always allowed, also to who has too much."""
    limit = quota.limit(year)
    if coming <= 0 or used + coming <= limit:
        return ""
    years = max(0, year - quota.year)
    return (
        f"{coming:,} bytes more are too many: {used:,} of {limit:,} bytes are in use, {max(0, limit - used):,} are free "
        f"(baseline {quota.baseline:,}, and {quota.growth_rate:,} for each of {years} years since {quota.year})"
    )
