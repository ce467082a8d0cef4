"""How the C library hands out the memory of messages."""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 4 << 20
_KEPT = 64 << 20


def keep_buffers() -> None:
    """Use the memory of messages again instead of giving it back.

    By default glibc takes a megabyte from the system for each message and returns it afterwards: every page of it is then cleared anew,
    which takes longer than to copy the message (a quarter of what a download costs the service). What is kept this way is bounded; other C
    libraries do as they do.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
