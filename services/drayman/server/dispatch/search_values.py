"""Values of a search as those of an attribute: texts, ids, moments, spans. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from drayman.server.dispatch.search_tree import Constant, SearchError, constant_text

_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ]+(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?)?"
    r" ?(?:(Z)|([+-])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)[\s,]*", re.ASCII)
_CLOCK = re.compile(r"(\d{1,9}):([0-5]?\d)(?::([0-5]?\d(?:\.\d{1,9})?))?", re.ASCII)
_UNITS = {
    name: seconds
    for names, seconds in (
        ("s sec secs second seconds", 1),
        ("m min mins minute minutes", 60),
        ("h hr hrs hour hours", 3600),
        ("d day days", 86400),
        ("w week weeks", 7 * 86400),
    )
    for name in names.split()
}


def text(constant: Constant) -> str:
    """Return a text. Raises SearchError."""
    if isinstance(constant.value, str):
        return constant.value
    raise _refused(constant, f'a text; in quotes it is one: "{constant_text(constant)}"')


def number(constant: Constant) -> Decimal:
    """Return a number. Raises SearchError."""
    if isinstance(constant.value, Decimal):
        return constant.value
    raise _refused(constant, "a number")


def moment(constant: Constant) -> datetime:
    """Return a moment, in UTC if it has no offset. Raises SearchError."""
    match = _MOMENT.fullmatch(constant.value.strip()) if isinstance(constant.value, str) else None
    if match is not None:
        year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = match.groups(default="0")
        ahead = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
        try:
            local = datetime(
                int(year),
                int(month),
                int(day),
                int(hour),
                int(minute),
                int(second),
                int(fraction.ljust(6, "0")),
                timezone(ahead),
            )
            return local.astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # no such day, no such offset, or beyond the years 1 to 9999
    raise _refused(constant, 'a date such as 2024-05-31, "2024-05-31 12:00:00" or "2024-05-31 12:00:00+02:00"')


def span(constant: Constant) -> float:
    """Return a span in seconds: of a number of them, `1h`, `30 seconds`, `1 day 02:30:00`, `72:00:00`. Raises SearchError."""
    value = constant.value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, str) and (seconds := _seconds(value.strip().lower())) is not None:
        return seconds
    raise _refused(constant, 'seconds, or a span such as 1h, "30 seconds" or "72:00:00"')


def _seconds(words: str) -> float | None:
    if _SECONDS.fullmatch(words):
        return float(words)
    total, at = 0.0, 0
    while amount := _AMOUNT.match(words, at):
        if amount[2] not in _UNITS:
            return None
        total += float(amount[1]) * _UNITS[amount[2]]
        at = amount.end()
    if at == len(words) > 0:
        return total
    clock = _CLOCK.fullmatch(words, at)
    if clock is None:
        return None
    return total + int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3] or 0)


def _refused(constant: Constant, expected: str) -> SearchError:
    shown = constant_text(constant)
    return SearchError(constant.at, shown if len(shown) <= 60 else f"{shown[:60]}...", expected)
