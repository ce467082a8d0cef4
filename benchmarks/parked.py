"""What streams cost that wait for a file, and how they end."""

from __future__ import annotations

from jobs import Drain, Park
from report import Findings
from scale import Scale
from stack import Stack
from waiting import Crowd, watch


def measure(stack: Stack, scale: Scale) -> Findings:
    """Park NextFile streams."""
    return watch(
        stack,
        scale,
        Crowd(
            "parked NextFile streams",
            scale.parked,
            Park,
            lambda target, client: Drain(target, client, scale.workers, scale.workers, "NextFile"),
        ),
    )
