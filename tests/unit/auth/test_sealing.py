import base64
import os
import threading
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, given
from hypothesis import strategies as st

from drayman.server.auth import sealing
from drayman.server.auth.keys import SigningKey
from drayman.server.auth.sealing import KeyMissing, Sealed, SealingKeys, Tampered, new_key
from drayman.server.platform.settings import SettingsError

PLACE = ("user_secret", "ann", "token")
VALUE = b"the value itself"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "secrets-keys"


@pytest.fixture
def keys(path: Path) -> SealingKeys:
    return SealingKeys.obtain(path)


def encoded(path: Path) -> list[str]:
    return [line.split()[1] for line in path.read_text().splitlines()]


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_value_opens_where_it_was_sealed(keys: SealingKeys) -> None:
    for value in (b"", VALUE, os.urandom(100_000)):
        sealed = keys.seal(PLACE, value)
        assert keys.open(PLACE, sealed) == value
        assert len(sealed.data) == len(value) + sealing.OVERHEAD
        assert len(value) < 10 or value not in sealed.data
    assert keys.seal(PLACE, VALUE).data != keys.seal(PLACE, VALUE).data, "a nonce serves once"


@pytest.mark.parametrize(
    "elsewhere",
    [
        ("user_secret", "bob", "token"),
        ("user_secret", "ann", "other"),
        ("signing_key", "ann", "token"),
        ("user_secret", "an", "ntoken"),
        ("user_secret", "anntoken"),
        ("user_secret", "ann", "token", ""),
    ],
)
def test_a_value_opens_nowhere_else(keys: SealingKeys, elsewhere: tuple[str, ...]) -> None:
    with pytest.raises(Tampered):
        keys.open(elsewhere, keys.seal(PLACE, VALUE))


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4), st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_no_two_places_look_the_same(one: list[str], other: list[str]) -> None:
    assume(one != other)
    assert sealing._bound(one) != sealing._bound(other)


def test_a_changed_value_does_not_open(keys: SealingKeys) -> None:
    sealed = keys.seal(PLACE, VALUE)
    for place in range(len(sealed.data)):
        changed = bytearray(sealed.data)
        changed[place] ^= 1
        with pytest.raises(Tampered):
            keys.open(PLACE, Sealed(sealed.key_id, bytes(changed)))
    for length in (0, 1, sealing.OVERHEAD - 1, len(sealed.data) - 1):
        with pytest.raises(Tampered):
            keys.open(PLACE, Sealed(sealed.key_id, sealed.data[:length]))


def test_it_is_aes_256_gcm(keys: SealingKeys, path: Path) -> None:
    """What an operator needs to open a value without the service."""
    sealed = keys.seal(PLACE, VALUE)
    key = base64.b64decode(encoded(path)[0])
    assert len(key) == 32
    bound = b"\x01" + b"".join(len(part).to_bytes(4, "big") + part.encode() for part in PLACE)
    assert AESGCM(key).decrypt(sealed.data[1:13], sealed.data[13:], bound) == VALUE


def test_the_file_is_for_its_owner_only(keys: SealingKeys, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path], "nothing is left behind"
    before = path.read_text()
    assert SealingKeys.obtain(path).newest == keys.newest
    assert path.read_text() == before, "a file that is there stays"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_can_read_or_change_is_refused(path: Path, mode: int) -> None:
    new_key(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match="others can read or change it"):
        SealingKeys.obtain(path)
    with pytest.raises(SettingsError, match="others can read or change it"):
        new_key(path)


GOOD = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        f"{GOOD}\n",
        f"a {GOOD[:-8]}\n",
        f"a {GOOD}{GOOD}\n",
        f"a b {GOOD}\n",
        f"a {GOOD[:-1]}!\n",
        f"a {GOOD}\na {GOOD}\n",
        f"{'a' * 65} {GOOD}\n",
        f"ä {GOOD}\n",
        f"a {GOOD}\nb\n",
    ],
)
def test_a_file_that_is_no_key_file_is_refused_without_showing_it(path: Path, text: str) -> None:
    written(path, text)
    for read in (SealingKeys, SealingKeys.obtain, new_key):
        with pytest.raises(SettingsError) as caught:
            read(path)
        shown = "".join(traceback.format_exception(caught.value))
        assert str(path) in shown
        assert GOOD[:-8] not in shown
    assert path.read_text() == text


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe, 0o600)
    for path in (folder, pipe, tmp_path / "missing"):
        with pytest.raises(SettingsError, match=path.name):
            SealingKeys(path)


def test_comments_and_blank_lines_do_not_count(path: Path) -> None:
    assert SealingKeys(written(path, f"# first\n\n  new  {GOOD}\n")).ids == {"new"}


def test_a_new_key_seals_and_the_old_ones_open(keys: SealingKeys, path: Path) -> None:
    first, old = keys.newest, keys.seal(PLACE, VALUE)
    second = new_key(path)
    assert first != second
    sealed = keys.seal(PLACE, VALUE)
    assert (sealed.key_id, keys.newest, keys.ids) == (second, second, frozenset({first, second}))
    assert keys.open(PLACE, old) == keys.open(PLACE, sealed) == VALUE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [line.split()[0] for line in path.read_text().splitlines()] == [second, first]


def test_new_key_makes_the_file_and_keeps_what_is_in_it(path: Path) -> None:
    first = new_key(path)
    written(path, "# kept\n" + path.read_text())
    new_key(path)
    assert "# kept\n" in path.read_text()
    assert first in SealingKeys(path).ids


def test_new_key_follows_a_link(path: Path) -> None:
    new_key(path)
    link = path.with_name("link")
    link.symlink_to(path)
    assert new_key(link) == SealingKeys(path).newest == SealingKeys(link).newest
    assert link.is_symlink()


def test_an_interrupted_change_is_told(path: Path) -> None:
    new_key(path)
    before = path.read_text()
    (left := path.with_name(path.name + ".new")).write_text("")
    with pytest.raises(SettingsError, match=r"secrets-keys\.new exists"):
        new_key(path)
    assert (path.read_text(), left.exists()) == (before, True)


def test_no_key_is_lost_when_several_are_made_at_once(path: Path) -> None:
    made: list[str] = []

    def make() -> None:
        while True:
            try:
                made.append(new_key(path))
            except SettingsError:
                continue
            return

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made) == SealingKeys(path).ids


def test_who_starts_at_once_agrees_on_one_key(path: Path) -> None:
    found: list[str] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        found.append(SealingKeys.obtain(path).newest)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_key_is_looked_up_in_the_file(keys: SealingKeys, path: Path) -> None:
    other = SealingKeys(path)
    new_key(path)
    sealed = other.seal(PLACE, VALUE)
    keys._stamp = other._stamp  # as if the change had left no trace in the file's times
    assert keys.open(PLACE, sealed) == VALUE
    with pytest.raises(KeyMissing) as caught:
        keys.open(PLACE, Sealed("gone", sealed.data))
    assert caught.value.key_id == "gone"


@pytest.mark.parametrize("harm", ["emptied", "removed", "opened"])
def test_what_was_read_serves_while_the_file_is_unusable(keys: SealingKeys, path: Path, harm: str) -> None:
    sealed = keys.seal(PLACE, VALUE)
    text = path.read_text()
    if harm == "removed":
        path.unlink()
    else:
        written(path, "" if harm == "emptied" else text, 0o600 if harm == "emptied" else 0o644)
    assert keys.open(PLACE, keys.seal(PLACE, VALUE)) == keys.open(PLACE, sealed) == VALUE
    newest = new_key(written(path, text))
    assert keys.newest == newest


def test_keys_are_never_shown(keys: SealingKeys, path: Path) -> None:
    new_key(path)
    sealed = keys.seal(PLACE, VALUE)
    raw = [base64.b64decode(key) for key in encoded(path)]
    problems = []
    for key_id in ("gone", keys.newest):
        try:
            keys.open(("elsewhere",), Sealed(key_id, sealed.data))
        except (KeyMissing, Tampered) as error:
            problems.append("".join(traceback.format_exception(error)))
    assert len(problems) == 2
    shown = [repr(keys), str(keys), f"{keys}", repr(sealed), *problems]
    for text in shown:
        for key, key_text in zip(raw, encoded(path), strict=True):
            assert key_text not in text
            assert repr(key)[2:-1] not in text
            assert key.hex() not in text


def test_auths_own_keys(keys: SealingKeys) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    sealed = sealing.sealed_signing_key(keys, key)
    assert key.to_bytes() not in sealed.data
    opened = sealing.opened_signing_key(keys, key.key_id, sealed.data, sealed.key_id)
    assert opened.to_bytes() == key.to_bytes()
    with pytest.raises(Tampered):
        sealing.opened_signing_key(keys, other.key_id, sealed.data, sealed.key_id)
    # from before there were sealing keys
    assert sealing.opened_signing_key(keys, key.key_id, key.to_bytes(), None).to_bytes() == key.to_bytes()

    nonce_key = os.urandom(32)
    sealed = sealing.sealed_nonce_key(keys, nonce_key)
    assert sealing.opened_nonce_key(keys, sealed.data, sealed.key_id) == nonce_key
    assert sealing.opened_nonce_key(keys, nonce_key, None) == nonce_key
    with pytest.raises(Tampered):
        sealing.opened_signing_key(keys, key.key_id, sealed.data, sealed.key_id)
