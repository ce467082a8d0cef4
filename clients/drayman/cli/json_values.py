"""JSON that users give: strictly what RFC 8259 allows, and errors that say where it is not. Needs nothing but Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from drayman.cli.printable import printable


def json_value(text: str) -> Any:
    """Read one JSON value. Raises ValueError that says what is wrong."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}: {_shortened(text)}") from error


def json_object(text: str) -> dict[str, Any]:
    """Read one JSON object. Raises ValueError that says what is wrong."""
    value = json_value(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {_shortened(text)}")  # noqa: TRY004 - a wrong value for the user
    return value


def json_object_in(path: str) -> dict[str, Any]:
    """Read the JSON object in a file. Raises OSError, and ValueError for one that is not UTF-8 or no JSON object."""
    return json_object(Path(path).read_text(encoding="utf-8"))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _shortened(text: str) -> str:
    return printable(text if len(text) <= 60 else f"{text[:60]}...")
