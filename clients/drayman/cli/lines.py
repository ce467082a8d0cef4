"""Lines of a file or of standard input, read as they come and never all at once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from drayman.cli.output import Failure

_CHUNK = 1 << 16
#: More than any name or set of attributes; what has no line ends is no list.
_LONGEST_LINE = 1 << 24


async def numbered_lines(source: str) -> AsyncIterator[tuple[int, str]]:
    r"""Yield (number, line) without line ends; `-` is standard input. Only `\n` and `\r\n` end a line: names may hold the others.

    Raises OSError, and Failure for a line that is not UTF-8 or too long.
    """
    number = 0
    rest = bytearray()
    with ExitStack() as stack:
        handle = _stdin() if source == "-" else stack.enter_context(_open(source)).fileno()
        while chunk := await _chunk(handle):
            # a long line comes in many chunks: only the new one is searched
            if b"\n" not in chunk:
                rest += chunk
                if len(rest) > _LONGEST_LINE:
                    raise Failure(f"line {number + 1}: longer than {_LONGEST_LINE} bytes")
                continue
            first, *more = chunk.split(b"\n")
            rest += first
            more.insert(0, bytes(rest))
            rest = bytearray(more.pop())
            for line in more:
                number += 1
                yield number, _decode(number, line)
    if rest:
        yield number + 1, _decode(number + 1, bytes(rest))


def _stdin() -> int:
    # not to be read by sys.stdin: Ctrl-C must not find somebody blocked in its lock
    if sys.stdin is None:  # closed by whoever started us
        raise Failure("standard input is closed")
    return sys.stdin.fileno()


def _open(source: str) -> FileIO:
    return Path(source).open("rb", 0)


async def _chunk(handle: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(handle, ready.set)
    except PermissionError:
        return os.read(handle, _CHUNK)  # an ordinary file, always ready
    try:
        await ready.wait()
    finally:
        loop.remove_reader(handle)
    return os.read(handle, _CHUNK)


def _decode(number: int, line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise Failure(f"line {number}: not UTF-8") from error
