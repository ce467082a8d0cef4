"""What a new deployment begins with: keys, and an administrator whom somebody can log in as."""

from __future__ import annotations

import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import structlog

from drayman.client import digest as rfc7616
from drayman.server.auth import digest, names
from drayman.server.auth.digest import Secret
from drayman.server.auth.keys import SigningKey
from drayman.server.auth.sealing import SealingKeys, sealed_nonce_key, sealed_signing_key
from drayman.server.auth.secret_store import require_keys
from drayman.server.auth.store import Changes, Store
from drayman.server.platform.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

CREDENTIALS = "admin-credentials"


async def first_start(store: Store, keys: SealingKeys, settings: Settings) -> None:
    """Make what is missing: keys, and the first administrator if there is no user at all.

    Without `admin_password` in the settings a random one is written to `<data_dir>/admin-credentials` before the commit, so that
    there is never an administrator whose password nobody knows. Of several replicas that start at once one does it all.
    Raises SettingsError, OSError.
    """
    reason = names.problem(settings.admin_user)
    if reason:
        raise SettingsError(f"DRAYMAN_ADMIN_USER={settings.admin_user!r}: {reason}")
    if not settings.realm:
        raise SettingsError("DRAYMAN_REALM: a realm must not be empty")
    async with store.changes() as changes:
        await require_keys(changes.connection, keys)  # of several hosts that start at once one was the first
        await changes.insert_nonce_key(sealed_nonce_key(keys, os.urandom(32)))
        if not await changes.any_key():
            key = SigningKey.generate()
            await changes.insert_key(key.public(), sealed_signing_key(keys, key), 0.0)
        if await changes.any_user():
            return
        path, password = settings.data_dir / CREDENTIALS, settings.admin_password
        await _make_administrator(changes, settings, password or obtain_password(path, settings.admin_user))
    if settings.admin_password:
        log.info("first administrator made", user=settings.admin_user)
    else:
        log.info("first administrator made", user=settings.admin_user, credentials=str(path))


async def _make_administrator(changes: Changes, settings: Settings, password: str) -> None:
    name, realm = settings.admin_user, settings.realm
    await changes.insert_user(name, admin=True, full_name="", email="")
    ha1 = rfc7616.ha1(name, realm, password, digest.SHA256)
    await changes.insert_secrets(name, [Secret(digest.SHA256, realm, ha1)])


def obtain_password(path: Path, username: str) -> str:
    """Return the password of this user in the file, which is made, with a random one and mode 0600, unless it is there.

    A file that is there was left by a start that did not get as far as its commit, or belongs to another database: it is kept, and
    stays right. Raises SettingsError if it is not a file that we could have written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_password(path, username)
    password = secrets.token_urlsafe(18)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"username": username, "password": password}, file)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return password


def _read_password(path: Path, username: str) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(f"{path}: others can read or own it; move it away and start again")
        try:
            stored = json.load(file)
            password = stored["password"] if stored["username"] == username else ""
        except (ValueError, LookupError, TypeError):
            password = ""
    if not isinstance(password, str) or not password:
        raise SettingsError(f"{path}: holds no password of {username}; move it away and start again")
    return password
