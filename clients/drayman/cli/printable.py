"""Text of unknown origin, made harmless for a terminal. Needs nothing but Python: `drayman.ddisp` prints so too."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what must not reach a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
