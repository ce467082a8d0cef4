"""Whole numbers as programs give them: as a number or as digits in a text."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,4000}\s*")
_LARGEST = 2**63 - 1


def whole(value: object) -> int | None:
    """Return a whole number, None for anything else: `12` and `"12"` are, `True`, `"abc"` and `1.5` are not."""
    text = str(value)
    return int(text) if _WHOLE.fullmatch(text) else None


def identifier(value: object) -> int | None:
    """Return a number that may be a task's or a job's: None for what is no whole number, 0 for one that nothing can have."""
    number = whole(value)
    return None if number is None else number if 0 < number <= _LARGEST else 0
