import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from drayman.server.platform.logging import configure_logging

SECRETS = ("token", "password", "authorization", "ha1", "response", "secret", "nonce")


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """What is configured here stays here."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.configure(**before)
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("key", SECRETS)
def test_secrets_never_reach_the_log(capsys: pytest.CaptureFixture[str], form: str, key: str) -> None:
    configure_logging("debug", form)
    structlog.get_logger().info("login", **{key: "hunter2", "user": "ann"})
    with structlog.contextvars.bound_contextvars(**{key: "hunter2"}):
        structlog.get_logger().bind(**{key: "hunter2"}).error("refused")
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "***" in said
    assert "ann" in said


def test_a_line_is_one_json_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = structlog.get_logger()
    log.debug("hidden")
    log.info("two\nlines", project_id=7, path=object)
    try:
        int("broken")
    except ValueError:
        log.exception("defect")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = map(json.loads, err.splitlines())
    assert (first["event"], first["project_id"], first["level"]) == ("two\nlines", 7, "info")
    assert first["timestamp"].endswith("Z")
    assert "ValueError: invalid literal" in second["exception"]


JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl-_c2ln"
REFRESH = "drr_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIGhpZGRlbg==\n-----END EC PRIVATE KEY-----"
SHAPES = {
    JWT: ("eyJhbGciOiJFZERTQSJ9", "c2lnbmF0dXJl"),
    f"{JWT[:-6]}.": ("eyJhbGciOiJFZERTQSJ9",),
    REFRESH: ("QUJDREVG",),
    "authorization: Bearer opaque-0123456789": ("opaque",),
    "bearer  opaque-0123456789": ("opaque",),
    PEM: ("MHcCAQEEIGhpZGRlbg",),
    PEM[:50]: ("MHcCAQEEIGhpZGRl",),
    "postgresql://drayman:p%2Fq@db.example/drayman": ("p%2Fq",),
}


def leave_in_every_way(said: str) -> None:
    """Let a text get into the log as a value, nested, in the event, in a trace, and from a library."""
    log = structlog.get_logger()
    log.warning(said, value=said, nested={"list": [said, f"before {said} after"]})
    library = logging.getLogger("a.library")
    library.warning("a library says %s", said)
    try:
        fail(said)
    except RuntimeError:
        log.exception("defect")
        library.exception("lost")


def fail(why: str) -> None:
    raise RuntimeError(why)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("said", SHAPES)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], form: str, said: str
) -> None:
    configure_logging("debug", form)
    leave_in_every_way(said)
    err = capsys.readouterr().err
    assert [hidden for hidden in SHAPES[said] if hidden in err] == []
    assert err.count("***") >= 4
    assert "a.library" in err
    if form == "json":
        assert len([json.loads(line) for line in err.splitlines()]) == 4


@pytest.mark.parametrize("form", ["json", "console"])
def test_rows_that_the_database_refused_are_masked(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging("info", form)
    ha1 = "0123456789abcdef" * 4
    detail = f'DETAIL:  Failing row contains (a"nn).\\n, SHA-256, drayman, {ha1}).'
    try:
        fail(f'new row for relation "digest_secret" violates a constraint\n{detail}\nHINT:  none')
    except RuntimeError:
        structlog.get_logger().exception("defect", grpc_method="/drayman.auth.v1.UserService/SetPassword")
    err = capsys.readouterr().err
    assert ha1 not in err
    assert "digest_secret" in err
    assert "HINT" in err


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_looks_like_none_is_left_as_it_is(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging("info", form)
    said = "expected `authorization: Bearer <token>` at grpc://127.0.0.1:8600, key_id eyJ, prefix drr_"
    structlog.get_logger().info("started", said=said)
    assert said in capsys.readouterr().err


def test_libraries_are_let_through_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # and once only, however often it is set up
        configure_logging("debug", "json")
    logging.getLogger("a.library").info("chatter")
    logging.getLogger("a.library").error("trouble")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["logger"]) == ("trouble", "error", "a.library")
