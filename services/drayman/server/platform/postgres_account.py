"""As whom PostgreSQL runs: it refuses root, and any uid that has no name."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drayman.server.platform import launch
from drayman.server.platform.postgres_binaries import EmbeddedPostgresError

_LAUNCHER = str(Path(launch.__file__).resolve())


@dataclass(frozen=True)
class Account:
    """An account, and how a program comes to run under it."""

    mode: Literal["own", "namespace", "switch"]
    uid: int
    gid: int
    name: str

    def __str__(self) -> str:
        how = {"own": "as", "namespace": "in a user namespace as", "switch": "with the uid of"}[self.mode]
        return f"{how} {self.name}"

    def command(self, folder: Path, *program: str | Path, death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
        """Return the command that becomes `program` under this account.

        The program gets `death_signal` when the thread that starts it ends; it must be able to write to `folder`.
        """
        who = [self.mode, str(self.uid), str(self.gid)]
        parent = [str(os.getpid()), str(int(death_signal))]
        return [sys.executable, "-I", "-S", _LAUNCHER, *parent, *who, str(folder), *map(str, program)]

    def give(self, path: Path) -> None:
        """Make one file or folder this account's, if the account is another than the caller's."""
        if self.mode == "switch":
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def give_all(self, folder: Path) -> None:
        """Make a folder of root's and everything below it this account's.

        A folder that is the account's already is left alone: what it put there may be no safe thing for root to touch.
        """
        if self.mode != "switch" or folder.stat().st_uid == self.uid:
            return
        # The top goes last: an interrupted change is then begun again by the next start.
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                self.give(Path(parent, name))
        self.give(folder)


def choose_account(folder: Path, postgres: Path) -> Account:
    """Return the account for the cluster in `folder`: the first possible one that reaches the folder and the program.

    Raises EmbeddedPostgresError with the reason against each.
    """
    reasons = []
    for account in possible_accounts(os.geteuid(), folder.stat().st_uid):
        reason = _objection(account, folder, postgres)
        if reason is None:
            return account
        reasons.append(f"{account}: {reason}")
    raise EmbeddedPostgresError(
        f"PostgreSQL cannot run in {folder} ({'; '.join(reasons)}): "
        "start Drayman as an ordinary user, choose a data directory that this account can reach, "
        "or use a PostgreSQL of your own with DRAYMAN_DATABASE_URL"
    )


def possible_accounts(uid: int, owner: int) -> list[Account]:
    """Return the accounts to try, best first, for a process of `uid` and a folder that belongs to `owner`.

    An ordinary user's PostgreSQL runs as that user. Root starts it as the folder's owner, so that nobody loses their files; in a folder
    of root's own it runs as root in a user namespace, where it takes itself for `nobody` and no file changes hands, or else as `nobody`
    indeed. A uid without a name borrows one in a namespace likewise.
    """
    if uid == 0 and owner != 0:
        entry = _entry(owner)
        if entry is None:
            raise EmbeddedPostgresError(
                f"PostgreSQL refuses root, and uid {owner}, the owner of the folder, has no entry in passwd"
            )
        return [Account("switch", entry.pw_uid, entry.pw_gid, entry.pw_name)]
    own = _entry(uid)
    if uid != 0 and own is not None:
        return [Account("own", uid, own.pw_gid, own.pw_name)]
    other = _unprivileged_entry()
    if other is None:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as uid {uid}, and passwd has no unprivileged account: add one, such as `nobody`"
        )
    accounts = [Account("namespace", other.pw_uid, other.pw_gid, other.pw_name)]
    if uid == 0:
        accounts.append(Account("switch", other.pw_uid, other.pw_gid, other.pw_name))
    return accounts


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _unprivileged_entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)


def _objection(account: Account, folder: Path, postgres: Path) -> str | None:
    """Say why PostgreSQL cannot run under `account`, or None if it can."""
    if account.mode == "own":
        return None  # what it cannot reach shows by itself
    was = folder.stat()
    account.give(folder)
    try:
        trial = subprocess.run(  # noqa: S603 - our own launcher and PostgreSQL
            account.command(folder, postgres, "--version"), capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        os.chown(folder, was.st_uid, was.st_gid)
    if trial.returncode == 0:
        return None
    return trial.stderr.strip() or f"`{postgres} --version` ended with {trial.returncode}"
