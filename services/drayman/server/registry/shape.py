"""Reading JSON values that must have a certain shape. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from drayman.server.registry import names

_Kind = TypeVar("_Kind")

_KINDS = {str: "a string", bool: "true or false", int: "an integer", list: "a list", dict: "an object"}
# only where such an escape stands can a surrogate come from
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST = 2**63 - 1


class Misshapen(ValueError):
    """A JSON value is not what is needed there."""


def load(document: bytes) -> Any:
    """Read a JSON document. Lone surrogates, which no UTF-8 can hold, become U+FFFD. Raises Misshapen."""
    try:
        text = document.decode("utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misshapen(f"no JSON document: {error}") from error
    return _cleaned(value) if _SURROGATE_ESCAPE.search(text) else value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return an object. Raises Misshapen."""
    if not isinstance(value, dict):
        raise Misshapen(f"{what} is {_KINDS[dict]}, not {_shown(value)}")
    return value


def optional(value: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind | None:
    """Return a member; None if it is missing or null. Raises Misshapen for one of another kind."""
    found = value.get(name)
    if found is None:
        return None
    # true is no number
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise Misshapen(f"`{name}` is {_KINDS[kind]}, not {_shown(found)}")
    return found


def required(value: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind:
    """Return a member. Raises Misshapen if it is missing, null or of another kind."""
    found = optional(value, name, kind)
    if found is None:
        raise Misshapen(f"`{name}` is missing: expected {_KINDS[kind]}")
    return found


def natural(value: Mapping[str, Any], name: str) -> int:
    """Return a number of something, from 0 to what 64 bits hold. Raises Misshapen."""
    found = required(value, name, int)
    if not 0 <= found <= _MOST:
        raise Misshapen(f"`{name}` is an integer from 0 to {_MOST}, not {_shown(found)}")
    return found


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value


def _shown(value: Any) -> str:
    return (
        _KINDS.get(type(value), "something else") if isinstance(value, dict | list) else names.shown(json.dumps(value))
    )
