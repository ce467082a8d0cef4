"""Values as users of PanDA write them: `3`, `"3"` and `3.0` are three; lists may be texts with commas."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: What fits into an error text of a task (reference §4.1).
ERROR_LENGTH = 510

_WHOLE = re.compile(r"[+-]?\d{1,19}(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,19}(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0", "", "none"})
_SHOWN = 60
_COUNT = 2**31 - 1


class ParameterError(ValueError):
    """Parameters that no task can be made of. The text names every key, its value, and what would be accepted."""


class Problems:
    """What is wrong with some parameters."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Note a problem. The same again is no other."""
        self._texts.setdefault(text if storable(text) else ascii(text)[1:-1])

    def wrong(self, key: str, value: object, accepted: str) -> None:
        """Note a value that cannot be understood, and what could."""
        self.add(f"{key} is {shown(value)}, not {accepted}")

    def raise_any(self) -> None:
        """Raise ParameterError if there is any problem: all of them in one text, as far as they fit."""
        if not self._texts:
            return
        text = "; ".join(self._texts)
        if len(text) > ERROR_LENGTH:
            first, *others = self._texts
            text = first
            for told, problem in enumerate(others, start=1):
                rest = f"; and {len(self._texts) - told} more"
                if len(text) + len("; ") + len(problem) + len(rest) > ERROR_LENGTH:
                    text = text[: ERROR_LENGTH - len(rest)] + rest
                    break
                text += f"; {problem}"
        raise ParameterError(text[:ERROR_LENGTH])


def shown(value: object) -> str:
    """Return a value as an error text shows it: short, on one line, and without characters that cannot be stored."""
    if isinstance(value, str):
        text = ascii(value[:_SHOWN]) if not storable(value[:_SHOWN]) else repr(value[:_SHOWN])
        return text + ("…" if len(value) > _SHOWN else "")
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a huge number"
    return str(value)[:_SHOWN]


def storable(text: str) -> bool:
    """Return whether the database can keep a text: no NUL, no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


def as_whole(value: object) -> int | None:
    """Return a value as a whole number; None if it is none. True is no number here."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().split(".", maxsplit=1)[0])
    return None


def as_number(value: object) -> float | None:
    """Return a value as a finite number; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) < 2**1000 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value.strip())
        return number if math.isfinite(number) else None
    return None


def as_truth(value: object) -> bool | None:
    """Return a value as true or false; None if it is neither. Numbers are true unless 0."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value != 0 if math.isfinite(value) else None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        number = as_whole(word)
        return None if number is None else number != 0
    return None


def as_text(value: object) -> str | None:
    """Return a value as a text that can be stored; None if it is none. Numbers are texts."""
    if isinstance(value, str):
        return value if storable(value) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and as_number(value) is not None:
        return str(value)
    return None


def as_words(value: object) -> tuple[str, ...] | None:
    """Return a list of texts, or a text with commas, as texts without blanks around them and without empty or repeated ones."""
    parts = [value] if isinstance(value, str | int | float) else value
    if not isinstance(parts, Sequence):
        return None
    words: dict[str, None] = {}
    for part in parts:
        text = as_text(part)
        if text is None:
            return None
        words |= dict.fromkeys(word for piece in text.split(",") if (word := piece.strip()))
    return tuple(words)


class Reader:
    """Reads the values of a JSON object. A value that is absent or null is the default; so is a wrong one, which is noted as a problem."""

    def __init__(self, values: Mapping[str, Any], problems: Problems, where: str = "") -> None:
        self._values = values
        self._problems = problems
        self._where = where

    def has(self, key: str) -> bool:
        """Return whether there is a value."""
        return self._values.get(key) is not None

    def named(self, key: str) -> str:
        """Return a key as error texts call it."""
        return f"{self._where}{key}"

    def wrong(self, key: str, accepted: str) -> None:
        """Note that a value is wrong."""
        self._problems.wrong(self.named(key), self._values.get(key), accepted)

    def text(self, key: str, default: str = "") -> str:
        """Read a text."""
        if not self.has(key):
            return default
        text = as_text(self._values[key])
        if text is None:
            self.wrong(key, "a text")
            return default
        return text

    def whole(self, key: str, default: int = 0, *, least: int = 0, most: int = _COUNT) -> int:
        """Read a whole number."""
        if not self.has(key):
            return default
        number = as_whole(self._values[key])
        if number is None or not least <= number <= most:
            accepted = f"a whole number of at least {least}"
            self.wrong(key, f"{accepted} and at most {most}" if number is not None and number > most else accepted)
            return default
        return number

    def number(self, key: str, default: float = 0.0, *, least: float = 0.0, most: float = _COUNT) -> float:
        """Read a number."""
        if not self.has(key):
            return default
        number = as_number(self._values[key])
        if number is None or not least <= number <= most:
            self.wrong(key, f"a number from {least:g} to {most:g}")
            return default
        return number

    def truth(self, key: str, *, default: bool = False) -> bool:
        """Read true or false."""
        if not self.has(key):
            return default
        truth = as_truth(self._values[key])
        if truth is None:
            self.wrong(key, "true or false")
            return default
        return truth

    def words(self, key: str) -> tuple[str, ...]:
        """Read a list of texts, or a text with commas."""
        if not self.has(key):
            return ()
        words = as_words(self._values[key])
        if words is None:
            self.wrong(key, "a list of texts or a text with commas")
            return ()
        return words

    def names(self, key: str) -> tuple[str, ...]:
        """Read names: a text with commas, or a list of texts or of objects with `lfn` or `name`, which may repeat."""
        value = self._values.get(key)
        if not isinstance(value, list):
            return self.words(key)
        names = [as_text(part.get("lfn", part.get("name")) if isinstance(part, Mapping) else part) for part in value]
        if None in names:
            self.wrong(key, "a list of names or a text with commas")
            return ()
        return tuple(name.strip() for name in names if name is not None and name.strip())

    def object(self, key: str) -> Mapping[str, Any] | None:
        """Read a JSON object; null, false and an empty text are none."""
        value = self._values.get(key)
        if isinstance(value, Mapping):
            return value
        if value not in (None, False, "", 0):
            self.wrong(key, "an object")
        return None
