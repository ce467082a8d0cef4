"""Pages of a list: how large, and where the next one begins.

A token says of which list it is (and of which project and asset): one of another list is refused instead of giving a page of nonsense.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import names

DEFAULT_SIZE = 1000
LARGEST = 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = 253_402_300_799_999_999  # microseconds until the end of the year 9999


def page_size(asked: int) -> int:
    """Return how many entries a page has; 0 = the default. Raises Refusal (INVALID_FIELD) on a negative size."""
    if asked < 0:
        raise invalid("page_size", f"{asked}: expected 0 to {LARGEST}", value=asked)
    return min(asked or DEFAULT_SIZE, LARGEST)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a list by time: when, and which of that instant."""

    at: datetime
    number: int


class Listing:
    """One list, named by what it is of: `Listing("assets", "my project")`."""

    def __init__(self, *scope: str) -> None:
        self._scope = list(scope)

    def token(self, last: str) -> str:
        """Make the token of the page after the one that ends with this name."""
        return self._encode(last)

    def start(self, token: str) -> str:
        """Return the name after which the page begins; empty = at the first. Raises Refusal (INVALID_FIELD)."""
        if not token:
            return ""
        last = self._decode(token)
        # what PostgreSQL cannot take is in no token of ours
        if not isinstance(last, str) or not last or names.has_unprintable(last):
            raise _not_ours(token)
        return last

    def place_token(self, last: Place) -> str:
        """Make the token of the page after the one that ends there."""
        return self._encode([(last.at - _EPOCH) // _MICROSECOND, last.number])

    def place(self, token: str) -> Place | None:
        """Return the place after which the page begins; None = at the first. Raises Refusal (INVALID_FIELD)."""
        if not token:
            return None
        match self._decode(token):
            case [int(micros), int(number)] if 0 <= micros <= _LATEST and 0 <= number < 2**63:
                return Place(_EPOCH + micros * _MICROSECOND, number)
        raise _not_ours(token)

    def _encode(self, last: object) -> str:
        text = json.dumps([self._scope, last], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _decode(self, token: str) -> object:
        try:
            value = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError, RecursionError):
            value = None
        if not isinstance(value, list) or len(value) != 2 or value[0] != self._scope:
            raise _not_ours(token)
        last: object = value[1]
        return last


def _not_ours(token: str) -> Refusal:
    return invalid("page_token", "not a page token of this list", value=ascii(token[:64]))
