"""What a job leaves for its user in `userJobMetadata.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAME = "userJobMetadata.json"
#: Bytes.
_LARGEST = 1_000_000


class MetadataError(ValueError):
    """Metadata that cannot be sent; the text says why."""


def read_metadata(folder: Path) -> str:
    """Return what a job left, empty if there is nothing. Raises MetadataError for what is no JSON, or too large."""
    try:
        with (folder / _NAME).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MetadataError(f"{_NAME} cannot be read: {error}: it is left out") from error
    if len(content) > _LARGEST:
        raise MetadataError(f"{_NAME} has more than {_LARGEST:,} bytes: it is left out")
    try:
        text = content.decode("utf-8-sig")
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{_NAME} is no JSON: {error}: it is left out") from error
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
