"""WLCG Bearer Token Discovery."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.client.bearer_discovery import BearerToken, BearerTokenError, discover_bearer_token

NAME = f"bt_u{os.geteuid()}"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What /tmp is: a folder of everybody."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_the_places_in_their_order(runtime: Path, shared: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_text("from-file\n")
    (runtime / NAME).write_text("from-runtime\n")
    (shared / NAME).write_text("from-shared\n")
    environment = {"BEARER_TOKEN": "from-variable", "BEARER_TOKEN_FILE": str(named), "XDG_RUNTIME_DIR": str(runtime)}
    for place, token, source in (
        ("BEARER_TOKEN", "from-variable", "BEARER_TOKEN"),
        ("BEARER_TOKEN_FILE", "from-file", f"BEARER_TOKEN_FILE={named}"),
        ("XDG_RUNTIME_DIR", "from-runtime", str(runtime / NAME)),
    ):
        assert discover_bearer_token(environment, shared=shared) == BearerToken(token, source)
        del environment[place]
    assert discover_bearer_token(environment, shared=shared) == BearerToken("from-shared", str(shared / NAME))
    (shared / NAME).unlink()
    assert discover_bearer_token(environment, shared=shared) is None


def test_the_environment_of_the_process(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "abc")
    assert discover_bearer_token(shared=shared) == BearerToken("abc", "BEARER_TOKEN")
    monkeypatch.delenv("BEARER_TOKEN")
    for name in ("BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert discover_bearer_token(shared=shared) is None


def test_what_is_empty_does_not_count(runtime: Path, shared: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    (runtime / NAME).write_text("")
    (shared / NAME).write_text("abc")
    environment = {"BEARER_TOKEN": " \t", "BEARER_TOKEN_FILE": str(empty), "XDG_RUNTIME_DIR": str(runtime)}
    assert discover_bearer_token(environment, shared=shared) == BearerToken("abc", str(shared / NAME))
    environment = dict.fromkeys(environment, "")
    assert discover_bearer_token(environment, shared=shared) == BearerToken("abc", str(shared / NAME))


def test_a_runtime_folder_without_a_token_leads_on(runtime: Path, shared: Path) -> None:
    (shared / NAME).write_text("abc")
    for folder in (runtime, runtime / "absent"):
        found = discover_bearer_token({"XDG_RUNTIME_DIR": str(folder)}, shared=shared)
        assert found == BearerToken("abc", str(shared / NAME))


@given(
    st.text(" \f\n\r\t\v", max_size=5),
    st.from_regex(r"[A-Za-z0-9._~+/-]{1,40}={0,2}", fullmatch=True),
    st.text(" \f\n\r\t\v", max_size=5),
)
def test_space_around_a_token_is_no_part_of_it(before: str, token: str, after: str) -> None:
    assert discover_bearer_token({"BEARER_TOKEN": before + token + after}) == BearerToken(token, "BEARER_TOKEN")


@pytest.mark.parametrize(
    "text", ["two words", "a\nb", "ümlaut", "=abc", "a=b", "\x1cabc", "abc\N{NO-BREAK SPACE}", '"abc"']
)
def test_what_is_no_token_is_an_error_and_not_told(text: str, shared: Path) -> None:
    with pytest.raises(BearerTokenError, match=r"^BEARER_TOKEN: what is there is no bearer token \(RFC 6750\)$"):
        discover_bearer_token({"BEARER_TOKEN": text}, shared=shared)
    (shared / NAME).write_text(text)
    with pytest.raises(BearerTokenError, match="no bearer token"):
        discover_bearer_token({}, shared=shared)


def test_a_named_file_that_cannot_be_read_is_an_error(tmp_path: Path, shared: Path) -> None:
    (shared / NAME).write_text("abc")
    absent = tmp_path / "absent"
    long = tmp_path / "long"
    long.write_text("a" * 70_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (absent, "no such file"),
        (absent / "file", "no such file"),
        (tmp_path, "no regular file"),
        (pipe, "no regular file"),
        (long, "longer than 65536 bytes"),
    ):
        with pytest.raises(BearerTokenError, match=f"^BEARER_TOKEN_FILE={path}: {message}"):
            discover_bearer_token({"BEARER_TOKEN_FILE": str(path)}, shared=shared)


def test_a_file_without_permission_is_an_error(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.write_text("abc")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(os, "open", refuse)
    closed.chmod(0)
    with pytest.raises(BearerTokenError, match=r"closed: cannot be read: Permission denied"):
        discover_bearer_token({"BEARER_TOKEN_FILE": str(closed)}, shared=shared)


def test_a_link_in_a_folder_of_everybody_is_not_followed(tmp_path: Path, shared: Path, runtime: Path) -> None:
    target = tmp_path / "target"
    target.write_text("abc")
    (shared / NAME).symlink_to(target)
    (runtime / NAME).symlink_to(target)
    assert discover_bearer_token({"XDG_RUNTIME_DIR": str(runtime)}, shared=shared) is not None
    for environment in ({}, {"BEARER_TOKEN_FILE": str(shared / NAME)}, {"XDG_RUNTIME_DIR": str(shared)}):
        with pytest.raises(BearerTokenError, match="cannot be read"):
            discover_bearer_token(environment, shared=shared)


def test_a_file_of_another_user_in_a_folder_of_everybody_is_refused(
    shared: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for folder in (shared, runtime):
        (folder / f"bt_u{me + 1}").write_text("abc")
    with pytest.raises(BearerTokenError, match="belongs to another user"):
        discover_bearer_token({}, shared=shared)
    # Nobody but its owner can put a file there.
    assert discover_bearer_token({"XDG_RUNTIME_DIR": str(runtime)}, shared=shared) is not None


def test_a_token_is_not_shown() -> None:
    found = discover_bearer_token({"BEARER_TOKEN": "s3cret"})
    assert found is not None
    assert "s3cret" not in repr(found)
