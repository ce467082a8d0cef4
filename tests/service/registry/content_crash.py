"""A process that dies (SIGKILL) just before its Nth change of what is stored.

Usage: content_crash.py ADDRESS UPLOAD_ID N ACTION, where ACTION is upload, publish, discard, remove or documents.
Exit code 0: it came to its end first.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import obstore

from drayman.server.registry import tree
from drayman.server.registry.content_stores import open_content

FOLDER = "proj/asset/v1"
FILES = {"a": b"a" * 5000, "b/c": b"c" * 5000, "b/d": b"", "..manifest": b"m", "..summary": b"s"}
BIG = bytes(range(256)) * (9 * 4096)  # 9 MiB: more than a piece


counting = threading.Lock()


def _mortal(left: list[int], call: Callable[..., Any], torn: bool = False) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        with counting:
            left[0] -= 1
            last = left[0] == 0
        if last:
            if torn:  # half of it gets through
                call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return called


def _make_mortal(deaths: int) -> None:
    left = [deaths]
    for name in ("mkdir", "rename", "rmdir", "unlink", "symlink", "fsync"):
        setattr(os, name, _mortal(left, getattr(os, name)))
    for name in ("write", "pwrite"):
        setattr(os, name, _mortal(left, getattr(os, name), torn=True))
    tree._libc.syncfs = _mortal(left, tree._libc.syncfs)
    for name in ("put", "copy", "delete"):
        setattr(obstore, name, _mortal(left, getattr(obstore, name)))


async def _act(address: str, upload: str, deaths: int, action: str) -> None:
    content = await open_content(address)
    incoming = content.incoming(upload)
    _make_mortal(deaths)
    if action == "upload":
        await incoming.prepare()
        await incoming.put(list(FILES.items()))
        for begin in range(0, len(BIG), 1 << 20):
            await incoming.append(7, begin, BIG[begin : begin + (1 << 20)])
        await incoming.complete(7, "big")
        await incoming.link("l", "a")
    elif action == "publish":
        await incoming.publish(FOLDER)
    elif action == "discard":
        await incoming.discard()
    elif action == "documents":
        await content.write_documents({f"proj/..{name}": b"new" * 1000 for name in "xyz"})
    else:
        await content.remove(FOLDER)
    await content.close()


if __name__ == "__main__":
    asyncio.run(_act(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
