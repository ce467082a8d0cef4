"""Sessions beside the token library: what is written, who may see it, and that one process at a time changes it."""

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drayman.client import session_file
from drayman.client.session_file import KeptSession, LockBusyError, SessionBook, SessionFile, _parsed
from drayman.client.session_token import Session
from drayman.client.token_library import TokenLibrary
from tokens import made_token

#: Counts up a number in the file, so many times; between reading and writing it lets others run.
COUNTER = """
import os, sys
from dataclasses import replace
from drayman.client.session_file import SessionFile
from drayman.client.token_library import TokenLibrary

file = SessionFile(TokenLibrary(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    with file.locked(60) as book:
        (session_id, kept), = book.sessions.items()
        os.sched_yield()
        book.sessions[session_id] = replace(kept, request_id=str(int(kept.request_id or 0) + 1))
        file.write(book)
"""
HOLDER = """
import sys, time
from drayman.client.session_file import SessionFile
from drayman.client.token_library import TokenLibrary

with SessionFile(TokenLibrary(sys.argv[1])).locked(10):
    print("held", flush=True)
    time.sleep(60)
"""


def kept(url: str = "grpc://a:1", session_id: str | None = None, **changes: Any) -> KeptSession:
    token = made_token(sid=session_id or str(uuid4()))
    end = datetime.now(UTC) + timedelta(days=7)
    session = Session(token, "ann", datetime.now(UTC), "drr_x", end, None)
    return KeptSession(session, url, url, **changes)


@pytest.fixture
def library(tmp_path: Path) -> TokenLibrary:
    library = TokenLibrary(tmp_path / "tokens")
    library.put("grpc://a:1", made_token())
    return library


def written(library: TokenLibrary, *sessions: KeptSession) -> SessionFile:
    file = SessionFile(library)
    with file.locked(5) as book:
        for each in sessions:
            book.add(each)
        file.write(book)
    return file


def test_what_is_written_is_read(library: TokenLibrary) -> None:
    one, other, later = kept(), kept("grpc://b:1", request_id=str(uuid4())), kept()
    written(library, one, other, later)
    book = SessionFile(library).read()
    assert {each.session.token for each in book.sessions.values()} == {
        each.session.token for each in (one, other, later)
    }
    found = book.sessions[other.session.session_id]
    assert (found.url, found.auth_url, found.request_id) == (other.url, other.auth_url, other.request_id)
    assert found.session.refresh_token == "drr_x"
    assert found.session.session_expires == other.session.session_expires
    assert book.current == {"grpc://a:1": later.session.session_id, "grpc://b:1": other.session.session_id}


def test_nobody_else_can_read_it(library: TokenLibrary, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written(library, kept())
    finally:
        os.umask(before)
    names = {"tokens", "tokens.sessions", "tokens.sessions.lock"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names} == {0o600}


def test_the_library_stays_what_other_programs_read(library: TokenLibrary, tmp_path: Path) -> None:
    before = (tmp_path / "tokens").read_text()
    written(library, kept())
    assert (tmp_path / "tokens").read_text() == before


def test_a_session_is_removed_with_its_being_the_current_one(library: TokenLibrary) -> None:
    one, other = kept(), kept()
    file = written(library, one, other)
    with file.locked(5) as book:
        book.remove(one.session.session_id)
        book.remove("never there")
        assert list(book.current.values()) == [other.session.session_id]
        book.remove(other.session.session_id)
        file.write(book)
    assert file.read() == SessionBook()


def test_sessions_that_are_over_are_swept(library: TokenLibrary) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    over = KeptSession(Session(made_token(-1), "ann", past, "drr_x", past), "u", "u")
    lasting = KeptSession(Session(made_token(60), "ann", past, "drr_x", past), "u", "u")
    book = written(library, over, lasting, kept()).read()
    assert over.session.session_id not in book.sessions
    assert len(book.sessions) == 2


def test_without_a_library_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drayman.client.token_library._SHARED", tmp_path / "none" / "x")
    file = SessionFile(TokenLibrary())
    assert file.path is None
    assert file.read() == SessionBook()
    with pytest.raises(FileNotFoundError), file.locked(1):
        pass


def test_a_change_of_another_process_is_noticed(library: TokenLibrary) -> None:
    one, other = SessionFile(library), SessionFile(library)
    assert one.read() == SessionBook()
    with other.locked(5) as book:
        book.add(kept())
        other.write(book)
    assert len(one.read().sessions) == 1


# --- what is in the file is not trusted ------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"version": "1"}', b"[" * 100_000, b'{"version": 1}'])
def test_a_damaged_file_holds_nothing_and_can_be_written_over(library: TokenLibrary, content: bytes) -> None:
    path = SessionFile(library).path
    assert path is not None
    path.write_bytes(content)
    assert SessionFile(library).read() == SessionBook()
    assert len(written(library, kept()).read().sessions) == 1


def test_a_file_of_a_newer_version_is_left_alone(library: TokenLibrary) -> None:
    path = SessionFile(library).path
    assert path is not None
    path.write_text('{"version": 2, "sessions": {}, "current": {}}')
    assert SessionFile(library).read() == SessionBook()
    with pytest.raises(OSError, match="newer"):
        written(library, kept())
    assert json.loads(path.read_text())["version"] == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["url", "auth_url", "username", "token", "refresh_token", "request_id", "session_expires", "session_end"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=8), JSON, st.sampled_from([0, 1, True]))
def test_any_json_is_read_or_left_out(changes: dict[str, Any], current: Any, version: Any) -> None:
    session_id = "5"
    record = {
        "url": "u",
        "auth_url": "u",
        "username": "ann",
        "token": made_token(sid=session_id),
        "refresh_token": "drr_x",
        "request_id": "",
        "session_expires": None,
        "session_end": None,
    }
    document = {"version": version, "sessions": {session_id: record | changes, "x": current}, "current": current}
    book = _parsed(json.dumps(document))
    assert set(book.sessions) <= {session_id}
    assert set(book.current.values()) <= set(book.sessions)
    if not changes:
        assert book.sessions[session_id].session.username == "ann"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert _parsed(text).sessions == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["tokens.sessions", "tokens.sessions.lock"])
def test_somebody_elses_files_are_not_believed(library: TokenLibrary, tmp_path: Path, name: str) -> None:
    written(library, kept())
    os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(PermissionError), SessionFile(library).locked(1):
        pass
    if name == "tokens.sessions":
        assert SessionFile(library).read() == SessionBook()


def test_a_link_in_place_of_the_lock_is_not_followed(library: TokenLibrary, tmp_path: Path) -> None:
    (tmp_path / "tokens.sessions.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), SessionFile(library).locked(1):
        pass
    assert not (tmp_path / "elsewhere").exists()


# --- the lock --------------------------------------------------------------------------------------------------------


def test_processes_change_it_one_at_a_time(library: TokenLibrary, tmp_path: Path) -> None:
    one = kept()
    file = written(library, one)
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "tokens"), "40"]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert file.read().sessions[one.session.session_id].request_id == "160"


def test_a_lock_that_is_held_is_waited_for_and_then_busy(library: TokenLibrary) -> None:
    file = SessionFile(library)
    with file.locked(1), pytest.raises(LockBusyError), SessionFile(library).locked(0.05):
        pass
    with SessionFile(library).locked(0):
        pass


def test_a_process_that_dies_leaves_no_lock(library: TokenLibrary, tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "tokens")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LockBusyError), SessionFile(library).locked(0.05):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with SessionFile(library).locked(5):
        pass


def test_a_child_that_was_forked_under_the_lock_does_not_hold_it(library: TokenLibrary) -> None:
    ours, theirs = os.pipe()
    with SessionFile(library).locked(1):
        child = os.fork()
        if child == 0:  # it only waits, with what it inherited
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
    try:
        with SessionFile(library).locked(0):
            pass
    finally:
        os.close(theirs)
        os.waitpid(child, 0)
        os.close(ours)


def test_a_crash_while_writing_leaves_the_old_file(
    library: TokenLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(library, kept())
    before = (tmp_path / "tokens.sessions").read_text()

    def fails(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_file.os, "fsync", fails)
    with file.locked(1) as book:
        book.add(kept())
        with pytest.raises(OSError, match="space"):
            file.write(book)
    assert (tmp_path / "tokens.sessions").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"tokens", "tokens.sessions", "tokens.sessions.lock"}
