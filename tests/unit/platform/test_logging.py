import json
from collections.abc import Iterator

import pytest
import structlog

from drayman.server.platform.logging import configure_logging

SECRETS = ("token", "password", "authorization", "ha1", "response", "secret", "nonce")


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """What is configured here stays here."""
    before = structlog.get_config()
    yield
    structlog.reset_defaults()
    structlog.configure(**before)


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
