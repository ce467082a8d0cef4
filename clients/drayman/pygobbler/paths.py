"""Paths within a registry: `project/asset/version/path`."""

from __future__ import annotations

from typing import Any


def unpack_path(path: str) -> dict[str, Any]:
    """Take a path apart: a dict of `project`, `asset`, `version` and `path`, which is None if nothing follows. Raises ValueError."""
    parts = path.split("/", 3)
    if len(parts) < 3:
        raise ValueError(f"{path!r}: expected at least 'project/asset/version'")
    rest = parts[3] if len(parts) > 3 else ""
    # what begins with a slash is a fourth part that is empty
    if rest.startswith("/"):
        rest = ""
    return {"project": parts[0], "asset": parts[1], "version": parts[2], "path": rest or None}
