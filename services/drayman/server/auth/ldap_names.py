"""How a user name gets into a distinguished name or a search filter without becoming a part of its structure.

Both grammars (RFC 4514 for names, RFC 4515 for filters) let any octet be written as a backslash and two hex digits. Whatever is not
plainly harmless is written so; no rule about first or last characters, and no parser's view of blanks, matters then.
"""

from __future__ import annotations

import re

PLACEHOLDER = "{username}"

_HARMLESS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._@")
_ATTRIBUTE = r"(?:[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)"

#: One `attribute=value` of a name. No quotes and no `#hex`: what stands in them is not escaped by these rules.
_ASSERTION = rf' *{_ATTRIBUTE} *=(?! *#)(?:\{{username\}}|[^\\",;+<>\0{{}}]|\\[ "#+,;<=>\\]|\\[0-9A-Fa-f]{{2}})+'  # as RFC 4514 has it
_NAME = re.compile(rf"{_ASSERTION}(?:[,+]{_ASSERTION})*")

#: One comparison of a filter, without its parentheses: attribute, operator, value.
_COMPARISON = re.compile(
    rf"(?P<attribute>{_ATTRIBUTE}(?:;[A-Za-z0-9-]+)*)(?P<rule>(?::[A-Za-z0-9.-]+)*)(?P<operator>[~<>:]?=)"
    r"(?P<value>(?:\{username\}|[^()\\\0{}]|\\[0-9A-Fa-f]{2})*)"
)


def escape(username: str) -> str:
    """Write a user name as a value within a name or a filter. Raises ValueError if it has no UTF-8 form."""
    return "".join(chr(octet) if octet in _HARMLESS else f"\\{octet:02x}" for octet in username.encode())


def fill(template: str, username: str) -> str:
    """Put a user name into a template that `check_name` or `check_filter` has passed. Raises ValueError as `escape` does."""
    return template.replace(PLACEHOLDER, escape(username))


def check_name(template: str) -> None:
    """Raise ValueError unless the template is a distinguished name with {username} within a value."""
    _check_braces(template)
    if not _NAME.fullmatch(template):
        raise ValueError(
            f"{template!r} is not a distinguished name with {PLACEHOLDER} as a value, such as uid={PLACEHOLDER},ou=people,dc=example,dc=org"
        )


def check_filter(template: str) -> None:
    """Raise ValueError unless the template is a search filter in which {username} is what an attribute must be equal to."""
    _check_braces(template)
    end = _after_filter(template, 0, negated=False)
    if end != len(template):
        raise ValueError(f"{template!r}: expected the end of the filter at {template[end:]!r}")


def _check_braces(template: str) -> None:
    rest = template.replace(PLACEHOLDER, "")
    if rest == template:
        raise ValueError(f"{template!r}: {PLACEHOLDER} is missing")
    if "{" in rest or "}" in rest:
        raise ValueError(
            f"{template!r}: nothing but {PLACEHOLDER} may stand in braces (as characters they are \\7b and \\7d)"
        )


def _after_filter(text: str, start: int, *, negated: bool) -> int:
    """Return where the filter that begins at `start` ends."""
    if text[start : start + 1] != "(":
        raise ValueError(f"{text!r}: expected '(' at {text[start:]!r}")
    kind = text[start + 1 : start + 2]
    if kind == "!":
        end = _after_filter(text, start + 2, negated=True)
    elif kind and kind in "&|":
        end = _after_filter(text, start + 2, negated=negated)
        while text[end : end + 1] == "(":
            end = _after_filter(text, end, negated=negated)
    else:
        end = _after_comparison(text, start + 1, negated=negated)
    if text[end : end + 1] != ")":
        raise ValueError(f"{text!r}: expected ')' at {text[end:]!r}")
    return end + 1


def _after_comparison(text: str, start: int, *, negated: bool) -> int:
    found = _COMPARISON.match(text, start)
    if found is None:
        raise ValueError(f"{text!r}: expected attribute=value at {text[start:]!r}")
    value = found["value"]
    # anything but equality would find somebody else's entry, whose password would then do
    if PLACEHOLDER in value and ("*" in value or found["operator"] not in ("=", ":=") or negated):
        raise ValueError(f"{text!r}: {PLACEHOLDER} must be compared for equality, without * and not within (!...)")
    return found.end()
