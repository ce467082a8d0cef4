"""Which version of an asset is its latest. Pure.

Times count in whole seconds, as the documents have them: readers of a mounted registry find the same version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is complete."""

    name: str
    upload_finish: datetime

    @property
    def second(self) -> datetime:
        """When its upload was complete, in whole seconds."""
        return self.upload_finish.astimezone(UTC).replace(microsecond=0)


def after_upload(current: Candidate | None, uploaded: Candidate, on_probation: bool) -> Candidate | None:
    """Latest version after an upload: the new one, unless it is on probation."""
    return current if on_probation else uploaded


def after_approval(current: Candidate | None, approved: Candidate) -> Candidate:
    """Latest version after an approval: the approved one, if it was uploaded after the present one."""
    return approved if current is None or approved.second > current.second else current


def recomputed(candidates: Iterable[Candidate]) -> Candidate | None:
    """Latest of the versions that are not on probation: uploaded last; in one second, the first by name."""
    found: Candidate | None = None
    for candidate in candidates:
        if (
            found is None
            or candidate.second > found.second
            or (candidate.second == found.second and candidate.name < found.name)
        ):
            found = candidate
    return found
