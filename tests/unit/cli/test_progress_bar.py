"""Bars for what takes longer than a second."""

import os
import pty
import subprocess
import sys

_SCRIPT = """
import asyncio, sys
from drayman.cli.progress import late_bar

async def work(seconds):
    async with late_bar("reading [b]p/a", "bytes") as bar:
        bar.tell(1, 4)
        await asyncio.sleep(seconds)
        bar.tell(4, 4, "sending [b]p/a")

asyncio.run(work(float(sys.argv[1])))
"""


def _shown(seconds: float) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _SCRIPT, str(seconds)]
    try:
        subprocess.run(command, env=os.environ | {"TERM": "xterm"}, stderr=theirs, timeout=60, check=True)
    finally:
        os.close(theirs)
    text = b""
    try:
        while more := os.read(ours, 65536):
            text += more
    except OSError:  # the end of what a terminal that is closed has
        pass
    finally:
        os.close(ours)
    return text.decode()


def test_a_bar_comes_after_a_second_and_goes() -> None:
    assert _shown(0) == ""
    assert "reading [b]p/a" in _shown(1.5)


def test_nothing_is_shown_where_there_is_no_terminal() -> None:
    command = [sys.executable, "-c", _SCRIPT, "1.2"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
