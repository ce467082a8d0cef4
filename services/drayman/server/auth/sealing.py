"""Encryption at rest with keys that are not in the database: AES-256-GCM, every value bound to its place."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from drayman.server.auth.keys import SigningKey
from drayman.server.platform.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)

_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
#: What a sealed value begins with, so that there can be another way to seal one day.
_FORMAT = b"\x01"
#: By how many bytes a sealed value is longer than the value.
OVERHEAD = len(_FORMAT) + _NONCE_BYTES + _TAG_BYTES

_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LARGEST_FILE = 1 << 20

_Stamp = tuple[int, int, int]


class KeyMissing(Exception):
    """A value is sealed by a key that is not in the key file."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"sealing key {key_id} is not in the key file")
        self.key_id = key_id


class Tampered(Exception):
    """A sealed value is not what was sealed for this place: it was changed, or moved, or its key was replaced under the same id."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it is stored: the id of its key, and its bytes."""

    key_id: str
    data: bytes = field(repr=False)


class SealingKeys:
    """The keys of a key file. The first one seals, all of them open. It is read again when it has changed.

    A line is `KEYID BASE64`, 32 bytes in base64; empty lines and those that begin with `#` do not count. A file that becomes unusable
    while the service runs is reported in the log, and what was read before stays in use.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SettingsError if there is none, others can read it, or it holds something else."""
        self.path = path
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._newest = ""
        self._ciphers: Mapping[str, AESGCM] = {}
        self._read()

    @classmethod
    def obtain(cls, path: Path) -> SealingKeys:
        """Read the file, which is made, with one key and mode 0600, unless it is there. Raises SettingsError, OSError."""
        _make(path)
        return cls(path)

    def __repr__(self) -> str:
        return f"SealingKeys({str(self.path)!r}, {list(self._ciphers)})"

    __str__ = __repr__

    @property
    def newest(self) -> str:
        """Id of the key that seals now."""
        self._refresh()
        return self._newest

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all keys."""
        self._refresh()
        return frozenset(self._ciphers)

    def seal(self, place: Sequence[str], value: bytes) -> Sealed:
        """Encrypt a value that can be opened for the same place only: `("user_secret", username, key)`, say."""
        self._refresh()
        key_id, nonce = self._newest, os.urandom(_NONCE_BYTES)
        return Sealed(key_id, _FORMAT + nonce + self._ciphers[key_id].encrypt(nonce, value, _bound(place)))

    def open(self, place: Sequence[str], sealed: Sealed) -> bytes:
        """Return the value that was sealed for a place. Raises KeyMissing, Tampered."""
        cipher = self._cipher(sealed.key_id)
        head, nonce, rest = sealed.data[:1], sealed.data[1 : 1 + _NONCE_BYTES], sealed.data[1 + _NONCE_BYTES :]
        if head != _FORMAT or len(sealed.data) < OVERHEAD:
            raise Tampered(f"{place[0]}: not a sealed value")
        try:
            return cipher.decrypt(nonce, rest, _bound(place))
        except InvalidTag:
            raise Tampered(f"{place[0]}: key {sealed.key_id} does not open it, or not here") from None

    def _cipher(self, key_id: str) -> AESGCM:
        self._refresh()
        if key_id not in self._ciphers:
            self._refresh(anyway=True)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise KeyMissing(key_id)
        return cipher

    def _refresh(self, *, anyway: bool = False) -> None:
        with self._lock:
            stamp = _stamp(self.path)
            if stamp == self._stamp and not anyway:
                return
            self._stamp = stamp  # said once, not with every value
            try:
                self._read()
            except (SettingsError, OSError) as error:
                log.warning("key file unusable, going on with the keys that were read before", problem=str(error))

    def _read(self) -> None:
        stamp = _stamp(self.path)
        keys = _parse(self.path, _contents(self.path))
        self._newest, self._ciphers, self._stamp = next(iter(keys)), _ciphers(keys), stamp


def new_key(path: Path) -> str:
    """Put a fresh key before the others of a key file, which is made if there is none; returns its id.

    Whoever reads the file meanwhile sees the old one or the new one. Raises SettingsError if the file is not a key file, or if another
    change of it is under way, OSError if it cannot be written.
    """
    path = path.resolve()
    made = _make(path)
    if made:
        return made
    with _sole_change(path) as handle:
        text = _contents(path)
        ids = _parse(path, text)
        key_id, line = _fresh_line()
        while key_id in ids:
            key_id, line = _fresh_line()
        status = path.stat()
        if status.st_uid != os.geteuid():
            os.fchown(handle, status.st_uid, status.st_gid)  # root changes the file of the account that serves
        _write(handle, line + text)
    return key_id


# What auth itself keeps sealed.


def sealed_signing_key(keys: SealingKeys, key: SigningKey) -> Sealed:
    """Seal the private part of a key that signs session tokens."""
    return keys.seal(("signing_key", key.key_id), key.to_bytes())


def opened_signing_key(keys: SealingKeys, key_id: str, data: bytes, sealed_by: str | None) -> SigningKey:
    """Read a signing key as stored; without `sealed_by` it is in the clear. Raises KeyMissing, Tampered."""
    raw = data if sealed_by is None else keys.open(("signing_key", key_id), Sealed(sealed_by, data))
    return SigningKey.from_bytes(key_id, raw)


def sealed_nonce_key(keys: SealingKeys, secret: bytes) -> Sealed:
    """Seal the key that signs nonces."""
    return keys.seal(("nonce_key",), secret)


def opened_nonce_key(keys: SealingKeys, data: bytes, sealed_by: str | None) -> bytes:
    """Read the nonce key as stored; without `sealed_by` it is in the clear. Raises KeyMissing, Tampered."""
    return data if sealed_by is None else keys.open(("nonce_key",), Sealed(sealed_by, data))


def _bound(place: Sequence[str]) -> bytes:
    """Encode a place so that no two places look the same, whatever their parts contain."""
    parts = [part.encode() for part in place]
    return _FORMAT + b"".join(len(part).to_bytes(4) + part for part in parts)


def _ciphers(keys: Mapping[str, bytes]) -> dict[str, AESGCM]:
    return {key_id: AESGCM(key) for key_id, key in keys.items()}


def _parse(path: Path, text: bytes) -> dict[str, bytes]:
    """Read the lines of a key file. Raises SettingsError, which shows none of them: a slip may put a key where its id belongs."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.decode("ascii", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key_id, _, encoded = line.strip().partition(" ")
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not _KEY_ID.fullmatch(key_id) or len(key) != _KEY_BYTES:
            raise SettingsError(f"{path}: line {number} is not a key id and 32 bytes in base64") from None
        if key_id in keys:
            raise SettingsError(f"{path}: line {number} has the id of an earlier one")
        keys[key_id] = key
    if not keys:
        raise SettingsError(f"{path}: holds no key")
    return keys


def _contents(path: Path) -> bytes:
    """Read a key file. Raises SettingsError if it is not there, or not one that only we, or root, can read and write."""
    try:
        # not to wait for whoever writes into a pipe
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        problem = _status_problem(os.fstat(handle))
        if problem:
            raise SettingsError(f"{path}: {problem}")
        text = b""
        while part := os.read(handle, _LARGEST_FILE):
            text += part
        return text
    finally:
        os.close(handle)


def _status_problem(status: os.stat_result) -> str:
    ours = os.geteuid()
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if ours != 0 and status.st_uid not in (ours, 0):
        return "belongs to another account"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "others can read or change it; if nobody has, chmod 600 it, else make new keys"
    return "too large for a key file" if status.st_size > _LARGEST_FILE else ""


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _fresh_line() -> tuple[str, bytes]:
    key_id = f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(4)}"
    return key_id, f"{key_id} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n".encode()


def _make(path: Path) -> str:
    """Make a key file with one key and return its id; "" if there is a file, which stays as it is. Raises OSError.

    It is complete when it appears: who finds it can read it.
    """
    if path.exists():
        return ""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_id, line = _fresh_line()
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb", buffering=0):
            _write(handle, line)
        os.link(name, path)  # which replaces nothing
    except FileExistsError:
        return ""
    finally:
        Path(name).unlink()
    _sync_folder(path.parent)
    return key_id


@contextmanager
def _sole_change(path: Path) -> Iterator[int]:
    """Open the file that then replaces a key file. There is one at a time: of two changes one would lose its key."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SettingsError(
            f"{fresh} exists: another change is under way, or was interrupted; remove it if there is none"
        ) from None
    try:
        yield handle
    except BaseException:
        fresh.unlink()
        raise
    finally:
        os.close(handle)
    # from here on the name may be somebody else's
    fresh.replace(path)
    _sync_folder(path.parent)


def _write(handle: int, text: bytes) -> None:
    while text:
        text = text[os.write(handle, text) :]
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    """Make a name in a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
