"""Values on the command line and on paper: durations, attributes, times.

The readers here are given to click as types; what they refuse is one line, see `Misuse`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from drayman.cli.json_values import json_object, json_object_in, json_value
from drayman.cli.printable import printable
from drayman.cli.session import Misuse

DURATION = "DURATION"
ATTRIBUTES = "JSON|@FILE"

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)


def seconds(text: str) -> float:
    """Read a duration: `90`, `30s`, `5m`, `1.5h`, `2d`. It must not be zero."""
    match = _DURATION.fullmatch(text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise Misuse(f"{printable(text)!r} is no duration: expected seconds, or a number with s, m, h or d")
    return value


def seconds_or_none(text: str) -> float | None:
    """Read a duration, or `none`."""
    return None if text.strip().lower() == "none" else seconds(text)


def attributes(text: str) -> dict[str, Any]:
    """Read a JSON object, or the one in the file after `@`."""
    try:
        return json_object_in(text[1:]) if text.startswith("@") else json_object(text)
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"cannot read attributes: {printable(str(error))}") from error
    except ValueError as error:
        raise Misuse(f"attributes: {printable(str(error))}") from error


def attribute_pair(text: str) -> tuple[str, Any]:
    """Read `name=value`; the value is JSON if it can be read as such, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Misuse(f"{printable(text)!r}: expected name=value")
    try:
        return name, json_value(value)
    except ValueError:
        return name, value


def plain(value: Any) -> Any:
    """Return what `--json` prints of a value: objects as dicts, times in ISO 8601 UTC, durations in seconds."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def local_time(moment: datetime | None) -> str:
    """Write a time for people: local, ISO 8601."""
    return moment.astimezone().isoformat(timespec="seconds") if moment is not None else ""


def duration_text(length: float | None) -> str:
    """Write a duration for people, as it may be given."""
    if length is None:
        return "none"
    for unit in ("d", "h", "m"):
        if length >= _UNITS[unit] and length % _UNITS[unit] == 0:
            return f"{length / _UNITS[unit]:g}{unit}"
    return f"{length:g}s"


def json_text(value: Mapping[str, Any]) -> str:
    """Write attributes in one line."""
    return json.dumps(value, ensure_ascii=False)
