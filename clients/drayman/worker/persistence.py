"""Asks again, while a service is away: a job that has run for hours does not fail because the service is restarted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from drayman.client.errors import OverloadedError, UnavailableError
from drayman.client.patience import Patience

#: Seconds in a row that a service may be away.
PATIENCE = 300.0

_Result = TypeVar("_Result")


async def persist(call: Callable[[], Awaitable[_Result]], seconds: float = PATIENCE) -> _Result:
    """Make a call, again and again while the service is away. Raises what it raises, UnavailableError after so many seconds."""
    patience = Patience(seconds)
    while True:
        try:
            return await call()
        except (UnavailableError, OverloadedError) as error:
            await patience.pause(error)
