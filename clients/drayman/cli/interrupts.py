"""Ctrl-C while the command waits for somebody who types or writes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN = 0.05


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in here, at once: asyncio would only take note of it. For the main thread.

    A signal that comes just before a system call blocks, or that another thread is given, does not wake who waits in there: it is sent
    again until it has.
    """
    heard = threading.Event()

    def hear(_number: int, _frame: FrameType | None) -> None:
        if not heard.is_set():
            heard.set()
            raise KeyboardInterrupt

    waiter = threading.get_ident()
    came, coming = os.pipe()
    os.set_blocking(coming, False)

    def insist() -> None:
        # ends with the pipe; other signals wake who waits, or do not matter
        while number := os.read(came, 1):
            while number[0] == signal.SIGINT and not heard.wait(_AGAIN):
                signal.pthread_kill(waiter, signal.SIGINT)

    before, handler = signal.set_wakeup_fd(coming, warn_on_full_buffer=False), signal.signal(signal.SIGINT, hear)
    thread = threading.Thread(target=insist, name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        heard.set()
        signal.set_wakeup_fd(before)
        os.close(coming)
        thread.join()
        signal.signal(signal.SIGINT, handler)
        os.close(came)
