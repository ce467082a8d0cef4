"""Attributes are one JSON object each, handed on byte for byte. Pure.

Nothing here turns a value into Python and back where its text is to be kept: 5.0 stays 5.0, a 64-bit integer stays exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_DECODER = json.JSONDecoder()
_BLANK = " \t\r\n"


class NotAnObject(ValueError):
    """The text is not exactly one JSON object."""


def parse(text: str) -> dict[str, Any]:
    """Read attributes; empty text is the empty object. Raises NotAnObject."""
    if text in ("", "{}"):
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotAnObject(str(error)) from error
    if not isinstance(value, dict):
        raise NotAnObject(f"a JSON object is expected, not {type(value).__name__}")
    return value


def members(text: str) -> dict[str, str]:
    """Split an object's text: name -> text of the value, untouched. The text must have passed `parse`."""
    found: dict[str, str] = {}
    at = text.find("{") + 1
    while at:
        at = _skip(text, at)
        if at >= len(text) or text[at] == "}":
            break
        name, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        found[name] = text[start:at]
        at = _skip(text, at) + 1
    return found


def overlay(text: str, over: str) -> str:
    """Lay one object over another: its members win; all values keep their text."""
    if not members(over or "{}"):
        return text
    merged = members(text or "{}") | members(over)
    return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {value}" for name, value in merged.items()) + "}"


def with_timeouts(text: str, timeouts: int) -> str:
    """Add worker time-outs to the member `timeouts`, where users look for their count."""
    if not timeouts:
        return text
    before = members(text).get("timeouts", "0")
    total = timeouts + (int(before) if before.lstrip("-").isdigit() else 0)
    return overlay(text, json.dumps({"timeouts": total}))


def is_virtual(project: Mapping[str, Any]) -> bool:
    """Whether files of a project with these attributes need no replica."""
    return bool(project.get("virtual"))


def retries_on_timeout(project: Mapping[str, Any]) -> bool:
    """Whether handles that time out may be tried again: yes, unless `retry_on_timeout` says no (boolean, or text in any case)."""
    value = project.get("retry_on_timeout", True)
    if isinstance(value, str):
        return value.strip().lower() not in ("false", "no", "0", "")
    return bool(value)


def searchable(value: Any) -> str:
    """Text of a JSON value that PostgreSQL's jsonb takes: NUL and lone surrogates, which it refuses, are replaced."""
    return json.dumps(_cleaned(value), ensure_ascii=False)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None  # a number beyond the range of a double
    return value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
