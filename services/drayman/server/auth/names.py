"""What may name a user or a role."""

from __future__ import annotations

import unicodedata
from uuid import UUID

from drayman.server.platform.errors import invalid

LONGEST = 255
_LONGEST_TEXT = 1000


def problem(name: str) -> str:
    """Say why a text cannot be a name; empty if it can."""
    if not name:
        return "a name must not be empty"
    if len(name) > LONGEST:
        return f"a name has at most {LONGEST} characters, this one has {len(name)}"
    # a colon would make HA1 ambiguous; a slash would break paths that hold names
    for character in ":/":
        if character in name:
            return f"a name must not contain {character!r}"
    if _has_control(name):
        return "a name must not contain control characters"
    return ""


def check(field: str, name: str) -> str:
    """Return the name, or raise Refusal (INVALID_FIELD) with the path of the field."""
    reason = problem(name)
    if reason:
        raise invalid(field, f"{_shown(name)}: {reason}", value=_shown(name))
    return name


def check_text(field: str, text: str) -> str:
    """Return a free text for people (full name, mail address), or raise Refusal (INVALID_FIELD)."""
    if len(text) > _LONGEST_TEXT:
        raise invalid(field, f"at most {_LONGEST_TEXT} characters, got {len(text)}", length=len(text))
    if _has_control(text):
        raise invalid(field, f"{_shown(text)}: no control characters", value=_shown(text))
    return text


def check_uuid(field: str, text: str) -> UUID:
    """Return a UUID, or raise Refusal (INVALID_FIELD)."""
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid(field, f"{_shown(text)}: expected a UUID", value=_shown(text)) from error


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def _shown(text: str) -> str:
    """Write a text so that it fits into a status, whatever it is."""
    return ascii(text[:64]) + ("..." if len(text) > 64 else "")
