"""Documents of a mounted registry, read from their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_document(path: Path) -> dict[str, Any]:
    """Read a JSON document. Raises FileNotFoundError; ValueError for what is none."""
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"{path}: no JSON object")  # noqa: TRY004 - the file is wrong, not the argument
    return document
