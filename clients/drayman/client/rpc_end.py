"""How a call ended that ended while it was still being written to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import grpc
import grpc.aio

from drayman.client.errors import DraymanError, UnavailableError, from_rpc_error

# what grpc.aio (1.85) says, for the moment, of a call that ended before a message of it could be sent
_NOT_YET_KNOWN = "Internal error from Core"
_LONGEST_WAIT = 0.5
_PERIOD = 0.005

_Value = TypeVar("_Value")

# how calls ended at first: a write that fails later puts its own word in the place of the service's
_ends: WeakKeyDictionary[Any, grpc.aio.AioRpcError] = WeakKeyDictionary()


def watch_end(call: Any) -> Any:
    """Remember how a call ends, for `true_error`. Returns the call."""
    call.add_done_callback(_note)
    return call


def _note(call: Any) -> None:
    code, details = _now(call.code()), _now(call.details())
    if code is not None and code is not grpc.StatusCode.OK and details != _NOT_YET_KNOWN:
        _ends[call] = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), _now(call.trailing_metadata()) or grpc.aio.Metadata(), details
        )


def _now(value: Coroutine[Any, Any, _Value]) -> _Value | None:
    """Return what is there already: nothing is waited for."""
    try:
        value.send(None)
    except StopIteration as end:
        found: _Value = end.value
        return found
    value.close()
    return None


async def true_error(call: Any, error: grpc.aio.AioRpcError) -> DraymanError:
    """Return what a failed call means, by the status that it has in the end.

    A write that meets the end of the call fails and is told INTERNAL: before the status is there, or in its place, if `watch_end` has not
    remembered it.
    """
    if call in _ends:
        return from_rpc_error(_ends[call])
    end = time.monotonic() + _LONGEST_WAIT
    while error.details() == _NOT_YET_KNOWN and time.monotonic() < end:
        await asyncio.sleep(_PERIOD)
        error = grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    if error.details() == _NOT_YET_KNOWN:
        return UnavailableError("the connection broke", code=grpc.StatusCode.UNAVAILABLE)
    return from_rpc_error(error)
