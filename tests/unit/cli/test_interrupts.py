"""Ctrl-C reaches who waits, whenever it comes and whichever thread is given it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drayman.cli.interrupts import interruptible

PATIENCE = 20.0


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def quiet() -> Iterator[int]:
    """A pipe into which nobody writes; at last it ends."""
    reading, writing = os.pipe()
    timer = threading.Timer(PATIENCE, os.write, (writing, b"x"))
    timer.start()
    yield reading
    timer.cancel()
    timer.join()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_a_signal_that_another_thread_was_given_ends_the_wait(quiet: int, delay: float) -> None:
    handler = signal.getsignal(signal.SIGINT)
    other = threading.Timer(delay, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012 - the thread has to begin in here
        other.start()
        os.read(quiet, 1)
    assert time.monotonic() - begun < PATIENCE / 2
    other.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(-1) == -1


def test_nothing_is_left_of_a_wait_that_nobody_interrupted() -> None:
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(3):
        with interruptible():
            pass
    assert (threading.active_count(), _descriptors()) == (threads, descriptors)
