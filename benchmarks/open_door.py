"""`drayman serve` with its door left open: whoever calls is taken for an administrator, and nothing about them is looked at.

For one measurement only: what it costs to know who calls. Arguments as those of `drayman serve`.
"""

from __future__ import annotations

import math

from drayman.cli.commands import run
from drayman.server.platform.calls import Access, Dispatcher
from drayman.server.platform.trust import Caller

_ANYBODY = Caller("bench", admin=True, roles=frozenset(), expires=math.inf, token="")


async def _admit(_self: Dispatcher, _context: object, _access: Access) -> Caller:
    return _ANYBODY


def _begin_stream(_self: Dispatcher, _caller: Caller) -> None:
    return None


if __name__ == "__main__":
    Dispatcher._admit = _admit  # type: ignore[method-assign]  # noqa: SLF001 - the door is the point
    Dispatcher._begin_stream = _begin_stream  # type: ignore[method-assign, assignment]  # noqa: SLF001 - see above
    run()
