"""How a verb ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Refusal(Exception):
    """Something does not work: one line on standard error, exit code 1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb returned, which the prompt shows unless it is None; and whether all of it went well: the exit code."""

    value: Any = None
    good: bool = True
