"""Who a worker says it is: a name given, read from a file, or made up.

Data Dispatcher, section 1.2 of its behaviour.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

#: In the working directory at the moment of use.
DEFAULT_FILE = ".data_dispatcher_worker_id"


def made_up_id(prefix: str = "") -> str:
    """Return `prefix` and 8 lower-case hex digits."""
    return prefix + secrets.token_hex(4)


def found_id(file: str | os.PathLike[str]) -> str:
    """Return the id in a file, stripped; without the file make one up and write it there.

    An empty file means an empty id, which no service accepts. A file that cannot be written is no error: the id serves this process.
    """
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        worker_id = made_up_id()
        with contextlib.suppress(OSError):
            write_id(file, worker_id)
        return worker_id


def write_id(file: str | os.PathLike[str], worker_id: str) -> None:
    """Write an id to a file. Raises OSError."""
    Path(file).write_text(worker_id + "\n", encoding="utf-8")
