"""Becomes another program that ends when its parent does, under another account if asked.

Run as a script, by path: `python -I -S launch.py PARENT SIGNAL MODE UID GID FOLDER PROGRAM [ARGUMENT ...]`. It needs nothing but
the standard library's fastest parts, because every start of a database waits for it. A process of its own and not a
`preexec_fn`, which runs Python between fork and exec and may deadlock in a program with threads.

PARENT is the process id of the caller, SIGNAL what the program gets when the *thread* that started it ends (Linux only), so that
thread has to stay. MODE is `own` (no change), `switch` (become UID and GID, for root) or `namespace` (stay who one is, but appear
as UID and GID to the program, by a user namespace). FOLDER must be writable for the program. A refusal is told in one line on
stderr, with the exit code `REFUSED`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

REFUSED = 121

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


def main(arguments: list[str]) -> None:
    """Become the program; does not return."""
    parent, death_signal, mode, uid, gid, folder, *command = arguments
    try:
        if mode == "switch":
            _switch(int(uid), int(gid))
        elif mode == "namespace":
            _appear_as(int(uid), int(gid))
        _die_with(int(parent), int(death_signal))
    except OSError as error:
        _refuse(f"{mode}: {error.strerror}")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        _refuse(f"{folder} is out of reach")
    try:
        os.execv(command[0], command)  # noqa: S606 - to become it is the purpose
    except OSError as error:
        _refuse(f"{command[0]}: {error.strerror}")


def _refuse(reason: str) -> None:
    sys.stderr.write(reason + "\n")
    sys.exit(REFUSED)


def _switch(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _appear_as(uid: int, gid: int) -> None:
    """Enter a user namespace in which this process's uid and gid go by the given numbers."""
    own_uid, own_gid = os.geteuid(), os.getegid()
    _check(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER))
    # Without this denial the kernel lets nobody map a group.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {own_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {own_gid} 1")


def _die_with(parent: int, death_signal: int) -> None:
    # Last of all, because the kernel forgets it at every change of identity.
    if sys.platform == "linux":
        _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0))
    if os.getppid() != parent:
        _refuse("the parent has gone")


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
