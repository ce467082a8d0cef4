"""Pages of a list by name: how large, and where the next one begins."""

from __future__ import annotations

import base64
import binascii

from drayman.server.auth import names
from drayman.server.platform.errors import invalid

DEFAULT_SIZE = 1000
LARGEST = 10_000

_USERS = "users:"


def page_size(asked: int) -> int:
    """Return how many entries a page has; 0 = the default. Raises Refusal (INVALID_FIELD) on a negative size."""
    if asked < 0:
        raise invalid("page_size", f"{asked}: expected 0 to {LARGEST}", value=asked)
    return min(asked or DEFAULT_SIZE, LARGEST)


def page_token(last_name: str) -> str:
    """Make the token of the page that follows the one which ends with this user."""
    return base64.urlsafe_b64encode((_USERS + last_name).encode()).decode().rstrip("=")


def page_start(token: str) -> str:
    """Return the name after which the page begins; empty = at the first. Raises Refusal (INVALID_FIELD) if it is no token of ours."""
    if not token:
        return ""
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    name = text.removeprefix(_USERS)
    if not text.startswith(_USERS) or names.problem(name):
        raise invalid("page_token", "not a page token of this list", value=ascii(token[:64]))
    return name
