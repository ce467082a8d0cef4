"""A process that dies (SIGKILL) at the Nth point of something that it does to a registry.

Usage: registry_crash.py DSN ROOT ACT NAME NUMBER. Exit code 0: it came to its end first.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from registry_rig import Points, do, rig


async def _act(dsn: str, root: str, act: str, name: str, number: int) -> None:
    points = Points(lambda: os.kill(os.getpid(), signal.SIGKILL))
    async with rig(dsn, Path(root), content=points.wrap) as registry:
        with points.statements():
            points.arm(number)
            await do(registry, act, name)


if __name__ == "__main__":
    asyncio.run(_act(*sys.argv[1:5], int(sys.argv[5])))
