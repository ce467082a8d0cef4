"""What users send about tasks: JSON that can be read and stored."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from drayman.server.platform.errors import invalid

#: Bytes of parameters.
LARGEST = 8 * 1024 * 1024


def read_object(text: str, field: str) -> dict[str, Any]:
    """Read one JSON object as RFC 8259 has it. Raises Refusal."""
    if len(text.encode(errors="replace")) > LARGEST:
        raise invalid(field, f"{field} has more than {LARGEST >> 20} MiB")
    try:
        found = json.loads(text, parse_constant=_refuse)
        # what cannot be written again cannot be stored: half of a surrogate pair, NUL in names, numbers without end
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(field, f"{field} is no JSON object: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise invalid(field, f"{field} is no JSON object but a {type(found).__name__}")
    return found


def write_object(value: dict[str, Any]) -> str:
    """Write parameters as they are stored."""
    return json.dumps(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
