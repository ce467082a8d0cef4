"""What may name a project, an asset or a version, and what may be the path of a file within one. Pure."""

from __future__ import annotations

import re

#: Bytes of a name, and of each part of a path: what file systems allow.
LONGEST_NAME = 255
#: Bytes of a path within a version.
LONGEST_PATH = 4096

_LONGEST_SHOWN = 64
_RESERVED = ".."
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
# what bytes that are no UTF-8 become when the operating system's names are decoded
_SURROGATE = re.compile("[\ud800-\udfff]")
# most paths are plain, and there can be very many
_PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.+=@ -]*)(?:/[A-Za-z0-9_-][A-Za-z0-9_.+=@ -]*)*")


def check_name(text: str) -> None:
    """Raise ValueError, with the text shown and what would be accepted, for what cannot name a project, an asset or a version."""
    problem = _problem(text) or _problem_of_part(text)
    if not problem and ("/" in text or "\\" in text):
        problem = "no slash and no backslash"
    if problem:
        raise ValueError(f"{shown(text)} cannot be a name: {problem}")


def check_path(text: str) -> None:
    """Raise ValueError, with the text shown and what would be accepted, for what cannot be the path of a file within a version.

    A path is relative; its parts are joined by `/`.
    """
    if len(text) <= LONGEST_NAME and _PLAIN_PATH.fullmatch(text):
        return
    problem = _problem(text)
    if not problem and (size := len(text.encode())) > LONGEST_PATH:
        problem = f"at most {LONGEST_PATH} bytes, it has {size}"
    if not problem and text.startswith("/"):
        problem = "relative paths only"
    if not problem:
        problem = next(filter(None, map(_problem_of_part, text.split("/"))), "")
    if problem:
        raise ValueError(f"{shown(text)} cannot be a path: {problem}")


def is_reserved(part: str) -> bool:
    """Whether a name is the registry's own: documents and folders of its own begin with two dots."""
    return part.startswith(_RESERVED)


def has_unprintable(text: str) -> bool:
    """Whether a text has control characters, or is no valid UTF-8."""
    return bool(_CONTROL.search(text) or _SURROGATE.search(text))


def shown(text: str) -> str:
    """Write a text so that it fits into a message, whatever it is: quoted, in ASCII, at most 64 of its characters."""
    return ascii(text[:_LONGEST_SHOWN]) + ("..." if len(text) > _LONGEST_SHOWN else "")


def _problem(text: str) -> str:
    """Say what is wrong with a text wherever it occurs; empty if nothing is."""
    if not text:
        return "it must not be empty"
    if _SURROGATE.search(text):
        return "valid UTF-8 only"
    if _CONTROL.search(text):
        return "no control characters"
    return ""


def _problem_of_part(part: str) -> str:
    """Say what is wrong with a name or a part of a path that has passed `_problem`; empty if nothing is."""
    if not part:
        return "no empty parts: one slash between two names, none at the end"
    if part == ".":
        return 'no part may be "."'
    if is_reserved(part):
        return f"{shown(part)} is reserved: nothing may begin with two dots"
    # characters first: it is cheap, and most names are short
    if len(part) > LONGEST_NAME // 4 and (size := len(part.encode())) > LONGEST_NAME:
        return f"at most {LONGEST_NAME} bytes, {shown(part)} has {size}"
    return ""
