"""What can be a secret of a user. Nothing here repeats what was given: in the wrong field, that is the secret."""

from __future__ import annotations

import unicodedata

LONGEST_KEY = 255
LONGEST_VALUE = 1000 * 1024
MOST_KEYS = 1000
#: All values of a user, in bytes of UTF-8.
MOST_BYTES = 64 * 1024 * 1024


def key_problem(key: str) -> str:
    """Say why a text cannot be the key of a secret; empty if it can."""
    if not key:
        return "a key must not be empty"
    if len(key) > LONGEST_KEY:
        return f"a key has at most {LONGEST_KEY} characters, this one has {len(key)}"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        return "a key must not contain control characters"
    return ""


def value_problem(value: str) -> str:
    """Say why a text cannot be the value of a secret; empty if it can."""
    if len(value) > LONGEST_VALUE:
        return f"a value has at most {LONGEST_VALUE} characters, this one has {len(value)}"
    if "\0" in value:
        return "a value must not contain NUL"
    return ""


def total_problem(keys: int, size: int) -> str:
    """Say why a user cannot have so many secrets with values of so many bytes in all; empty if they can."""
    if keys > MOST_KEYS:
        return f"a user has at most {MOST_KEYS} secrets"
    if size > MOST_BYTES:
        return f"the secrets of a user have at most {MOST_BYTES} bytes in all, these would have {size}"
    return ""
