"""Reading, writing, copying and hashing the bytes of files that are open. Everything here blocks."""

import ctypes
import os

from drayman.server.registry.content import BLOCK, ContentLost, Hashes
from drayman.server.registry.threads import Stop

#: Bytes of a file that are handed to the disk at a time.
_SYNC = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
#: of Linux; None elsewhere
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def write_all(descriptor: int, content: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of it: on from where the descriptor is, or from an offset."""
    left = memoryview(content)
    while left:
        written = os.write(descriptor, left) if offset is None else os.pwrite(descriptor, left, offset)
        left = left[written:]
        offset = None if offset is None else offset + written


def begin_sync(descriptor: int, offset: int, size: int) -> None:
    """Have what was written go to the disk meanwhile, so that less is left when it is waited for. Promises nothing."""
    begin, end = (offset // _SYNC) * _SYNC, ((offset + size) // _SYNC) * _SYNC
    if end > begin and _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(begin), ctypes.c_int64(end - begin), _SYNC_FILE_RANGE_WRITE)


def read_all(descriptor: int, size: int) -> bytes:
    """Read exactly so many bytes. Raises ContentLost if there are fewer."""
    content = os.read(descriptor, size) if size else b""
    while len(content) < size:
        more = os.read(descriptor, size - len(content))
        if not more:
            raise ContentLost(f"a file ends after {len(content)} of {size} bytes")
        content += more
    return content


def hash_of(descriptor: int, stop: Stop, length: int | None = None) -> Hashes:
    """Hash a file, or its first bytes. Raises ContentLost if it has fewer."""
    hashes = Hashes()
    room = memoryview(bytearray(BLOCK))
    while length is None or hashes.size < length:
        stop.check()
        wanted = BLOCK if length is None else min(BLOCK, length - hashes.size)
        got = os.preadv(descriptor, [room[:wanted]], hashes.size)
        if not got:
            break
        hashes.update(room[:got])
    if length is not None and hashes.size < length:
        raise ContentLost(f"a file ends after {hashes.size} of {length} bytes")
    return hashes


def copy_bytes(source: int, target: int, stop: Stop, hashes: Hashes | None = None) -> None:
    """Copy a file from where the descriptors are to its end, and hash what is copied."""
    while True:
        stop.check()
        block = os.read(source, BLOCK)
        if not block:
            return
        write_all(target, block)
        if hashes is not None:
            hashes.update(block)
