import base64
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from drayman.client import token_library
from drayman.client.credentials import Credentials, bearer
from drayman.client.session_token import expiration, expired
from drayman.client.token_library import TokenLibrary


def token(name: str, seconds: float | None = 3600) -> str:
    claims = {"sub": name} | ({"exp": time.time() + seconds} if seconds is not None else {})
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home, a working directory and a shared folder of the test's own."""
    for name in ("home", "here", "shared"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(token_library, "_SHARED", tmp_path / "shared" / ".token_library")


def test_a_token_is_kept_for_others_to_find(tmp_path: Path) -> None:
    ann, bob = token("ann"), token("bob")
    library = TokenLibrary()
    assert library.path is None
    library.put("grpc://a:1", ann)
    library.put("grpc://b:1", bob)
    assert library.path == tmp_path / "home" / ".token_library"
    assert library.path.read_text() == f"grpc://a:1 {ann}\ngrpc://b:1 {bob}\n"
    other = TokenLibrary()
    assert (other.get("grpc://a:1"), other.get("grpc://b:1"), other.get("grpc://b:1/")) == (ann, bob, None)
    other.remove("grpc://a:1")
    assert library.get("grpc://a:1") is None
    other.remove("grpc://never-there")


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".token_library"
    path.write_text(f"u {token('ann')}\n")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        TokenLibrary().put("v", token("bob"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == [".token_library"]


@pytest.mark.parametrize("present", [("home", "here", "shared"), ("here", "shared"), ("shared",)])
def test_the_first_that_exists_counts(tmp_path: Path, present: tuple[str, ...]) -> None:
    for name in present:
        (tmp_path / name / ".token_library").write_text(f"url {token(name)}\n")
    library = TokenLibrary()
    assert library.path == tmp_path / present[0] / ".token_library"
    assert library.get("url") == (tmp_path / present[0] / ".token_library").read_text().split()[1]


def test_without_a_home_it_is_made_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOME")
    TokenLibrary().put("url", token("ann"))
    assert (tmp_path / "here" / ".token_library").exists()


def test_where_the_home_cannot_be_written_the_next_place_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    library = TokenLibrary()
    library.put("url", token("ann"))
    assert library.path == tmp_path / "here" / ".token_library"


def test_no_place_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = TokenLibrary(tmp_path / "nowhere" / "tokens")
    with pytest.raises(OSError, match="nowhere"):
        library.put("url", token("ann"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_file_in_a_shared_folder_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "shared" / ".token_library"
    path.write_text(f"url {token('mallory')}\n")
    os.chown(path, 65534, 65534)
    assert TokenLibrary().get("url") is None


def test_expired_tokens_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".token_library"
    old, good, timeless = token("old", -1), token("good"), token("timeless", None)
    path.write_text(f"a {old}\nb {good}\nc {timeless}\n")
    library = TokenLibrary()
    assert [library.get(url) for url in "abc"] == [None, good, timeless]
    library.put("d", old)
    assert library.get("d") is None
    assert path.read_text() == f"b {good}\nc {timeless}\n"


def test_a_token_that_expires_while_we_look_is_not_given_out() -> None:
    library = TokenLibrary()
    library.put("url", token("ann", 0.05))
    end = time.monotonic() + 10
    while library.get("url") is not None:
        assert time.monotonic() < end


def test_lines_that_are_no_pairs_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".token_library"
    good = token("good")
    path.write_bytes(b"\n# a comment of words\nlonely\n\xff\xfe x\n  url\t" + good.encode() + b"  \n")
    assert TokenLibrary().get("url") == good


def test_a_change_of_another_process_is_noticed_even_in_the_same_tick(tmp_path: Path) -> None:
    """The clock of many file systems ticks every few milliseconds: two changes bear the same time."""
    path = tmp_path / "home" / ".token_library"
    one, two = TokenLibrary(), TokenLibrary()
    one.put("a", token("a"))
    moment = path.stat().st_mtime_ns
    assert one.get("b") is None
    two.put("b", token("b"))
    os.utime(path, ns=(moment, moment))
    assert one.get("b")
    one.put("c", token("c"))
    assert all(TokenLibrary().get(url) for url in "abc")


def test_a_reader_sees_the_old_or_the_new_file_never_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".token_library"
    library = TokenLibrary()
    for number in range(50):
        library.put(f"url{number}", token(str(number)))
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            library.put("url0", token(str(number)))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            text = path.read_text()
            assert text.count("\n") == 50
            assert text.endswith("\n")
    finally:
        writer.join()


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c", "a.e30.c", "a.W10.c", "a.bnVsbA.c", "a.é.c"])
def test_what_has_no_expiration(text: str) -> None:
    assert expiration(text) is None
    assert not expired(text)


def test_expiration() -> None:
    assert expired(token("ann", -1))
    assert not expired(token("ann", 60))
    assert expired(token("ann", 60), now=time.time() + 61)


# --- credentials -----------------------------------------------------------------------------------------------------


def test_the_given_token_wins_then_the_environment_then_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    TokenLibrary().put("url", token("library"))
    assert Credentials("url").token == TokenLibrary().get("url")
    assert Credentials("other").token is None
    monkeypatch.setenv("DRAYMAN_TOKEN", "environment")
    assert Credentials("url").token == "environment"
    assert Credentials("url", "given").token == "given"


def test_a_login_of_another_process_is_noticed() -> None:
    credentials = Credentials("url")
    assert list(credentials.metadata()) == []
    ann = token("ann")
    TokenLibrary().put("url", ann)
    assert list(credentials.metadata()) == [("authorization", f"Bearer {ann}")]
    credentials.use("mine")
    assert list(credentials.metadata()) == [("authorization", "Bearer mine")]
    credentials.use(None)
    assert credentials.token == ann


def test_a_bearer_is_empty_without_a_token() -> None:
    assert list(bearer(None)) == []
    assert list(bearer("")) == []
