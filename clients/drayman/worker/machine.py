"""What kind of machine this is, as jobs ask for it."""

from __future__ import annotations

import ctypes
import platform
import re
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def hide_environment() -> None:
    """Keep other processes of the same account from reading this one's memory and environment, where the pilot's token is. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def own_platform() -> str:
    """Return this machine's platform, such as `x86_64-el9@el9#x86_64`.

    It fits a job that asks for `x86_64`, `x86_64-el9`, `@el9` or `#x86_64`.
    The rebuilds of Red Hat Enterprise Linux are `el` with their major release, others their own name: `ubuntu24`, `debian12`.
    """
    machine = platform.machine()
    system = _system()
    return f"{machine}-{system}@{system}#{machine}"


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system().lower()
    name = release["ID"]
    if {"rhel", "centos"} & {name, *release.get("ID_LIKE", "").split()}:
        name = "el"
    major = re.match(r"\d*", release.get("VERSION_ID", ""))
    return f"{name}{major[0] if major else ''}".replace("-", "")
