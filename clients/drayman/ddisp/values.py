"""Values on the command line: ids, DIDs, time-outs, attributes, states."""

from __future__ import annotations

import math
from typing import Any

from drayman.cli.json_values import json_object_in
from drayman.data_dispatcher import arguments
from drayman.ddisp.endings import Misuse

PROJECT_STATES = ("active", "done", "failed", "cancelled", "abandoned")
HANDLE_STATES = ("initial", "reserved", "failed", "done")
_WORDS = {"null": None, "true": True, "false": False}


def project_id(text: str) -> int:
    """Read a project id. Raises Misuse."""
    if not (text.isascii() and text.isdigit()):
        raise Misuse(f"{text!r} is no project id: expected a number")
    return int(text)


def did(text: str) -> str:
    """Read `namespace:name`. Raises Misuse."""
    if ":" not in text:
        raise Misuse(f"{text!r} is no file: expected namespace:name")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misuse(f"{text!a} is not UTF-8") from error
    return text


def timeout(text: str) -> str:
    """Read a time-out for a project: seconds, a number with s, m, h or d, or `none`; returns what the client takes. Raises Misuse."""
    given = text.strip().lower()
    try:
        arguments.span(given)
    except (ValueError, OverflowError) as error:
        raise Misuse(f"{text!r} is no time-out: expected seconds, a number with s, m, h or d, or none") from error
    return given


def number(text: str, letter: str) -> int:
    """Read the integer of an option. Raises Misuse."""
    try:
        return int(text)
    except ValueError as error:
        raise Misuse(f"-{letter} {text!r}: expected a whole number") from error


def seconds(text: str, letter: str) -> float:
    """Read seconds, 0 included. Raises Misuse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise Misuse(f"-{letter} {text!r}: expected seconds")
    return value


def truth(text: str, letter: str) -> bool:
    """Read True or False. Raises Misuse."""
    word = text.lower()
    if word not in ("true", "false"):
        raise Misuse(f"-{letter} {text!r}: expected True or False")
    return word == "true"


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return [name for part in text.split(",") if (name := part.strip())]


def one_of(text: str, expected: tuple[str, ...], letter: str) -> str:
    """Read one word of several. Raises Misuse."""
    if text not in expected:
        raise Misuse(f"-{letter} {text!r}: expected one of {', '.join(expected)}")
    return text


def attributes(text: str) -> dict[str, Any]:
    """Read attributes given with an option: `name=value name=value`, or `@file` with a JSON object in it. Raises Misuse."""
    try:
        return json_object_in(text[1:]) if text.startswith("@") else attribute_words(text)
    except (OSError, ValueError) as error:
        raise Misuse(f"attributes: {error}") from error


def attribute_words(text: str = "") -> dict[str, Any]:
    """Read `name=value` pairs between blanks. Raises ValueError for a word that is none."""
    read: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r}: expected name=value")
        read[name] = attribute_value(value)
    return read


def attribute_value(text: str) -> Any:
    """Read a value: an integer, another number, null, true or false; anything else is text."""
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        # nan and inf are numbers to Python but not to JSON
        return value if math.isfinite(value) else text
    return _WORDS.get(text, text)
