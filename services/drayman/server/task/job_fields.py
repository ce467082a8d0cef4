"""What workers and users say of jobs by PanDA's names: JSON that the database can keep. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Bytes of a job's fields in one update, and of its metadata (reference §8.2).
LARGEST_FIELDS = 64 * 1024
LARGEST_METADATA = 1_000_000

#: Characters of texts that are kept (reference §6.5).
_LIMITS = {
    "pilotErrorDiag": 500,
    "exeErrorDiag": 500,
    "supErrorDiag": 250,
    "ddmErrorDiag": 500,
    "brokerageErrorDiag": 250,
    "jobDispatcherErrorDiag": 250,
    "taskBufferErrorDiag": 300,
    "jobSubStatus": 80,
}
#: What the service alone says.
_OURS = frozenset(
    {
        "jobDispatcherErrorCode",
        "jobDispatcherErrorDiag",
        "taskBufferErrorCode",
        "taskBufferErrorDiag",
        "brokerageErrorCode",
        "brokerageErrorDiag",
    }
)


class FieldsError(ValueError):
    """Text that is no JSON object, or is too long; the message says which."""


def read_fields(text: str) -> dict[str, Any]:
    """Read what a worker says of its job. What the service alone says is left out, texts are cut. Raises FieldsError."""
    found = read_object(text, LARGEST_FIELDS)
    return cut_texts({name: value for name, value in found.items() if name not in _OURS})


def read_object(text: str, largest: int) -> dict[str, Any]:
    """Read a JSON object that can be stored. Raises FieldsError."""
    value = read_json(text, largest)
    if not isinstance(value, dict):
        raise FieldsError(f"{text[:80]!r} is no JSON object")
    return value


def read_json(text: str, largest: int) -> Any:
    """Read JSON that can be stored: NUL and halves of surrogate pairs, which PostgreSQL cannot keep, are replaced. Raises FieldsError."""
    if len(text.encode(errors="replace")) > largest:
        raise FieldsError(f"JSON of more than {largest:,} bytes")
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text or "\0" in text:
            value = _storable(value)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise FieldsError(f"{text[:80]!r} is no JSON: {error}") from None
    return value


def write_fields(fields: Mapping[str, Any]) -> str | None:
    """Write fields as the database takes them; None if there are none."""
    return json.dumps(fields) if fields else None


def cut_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Cut texts to their lengths."""
    for name in _LIMITS.keys() & fields.keys():
        if isinstance(fields[name], str):
            fields[name] = fields[name][: _LIMITS[name]]
    return fields


def storable(text: str) -> str:
    """Return a text as PostgreSQL can keep it."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): _storable(item) for name, item in value.items()}
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
