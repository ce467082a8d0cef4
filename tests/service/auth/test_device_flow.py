"""The OAuth 2.0 device flow against an issuer that runs over HTTPS."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drayman.client.device_flow import DeviceCode, DeviceFlow, DeviceFlowError, Tokens
from issuer import CLIENT_ID, CLIENT_SECRET, DEVICE, DISCOVERY, OAUTH_METADATA, TOKEN, Issuer


class Waiting:
    """Time that passes by waiting; `then` holds what happens during each wait."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.now = 1_800_000_000.0
        self.waits: list[float] = []
        self._then = list(then)

    def __call__(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        if self._then:
            self._then.pop(0)()
        return False

    def clock(self) -> float:
        return self.now


def nothing() -> None:
    pass


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with Issuer(tmp_path) as running:
        yield running


def flow_of(issuer: Issuer, waiting: Waiting, **fields: Any) -> DeviceFlow:
    given = {"ca_file": str(issuer.ca_file), "wait": waiting, "clock": waiting.clock, **fields}
    return DeviceFlow(issuer.url, CLIENT_ID, ("openid", "offline_access"), **given)


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(DeviceFlowError) as error:
        action()
    assert str(error.value) == error.value.text
    return error.value.reason


def test_whoever_confirms_gets_tokens(issuer: Issuer) -> None:
    waiting = Waiting(nothing, lambda: issuer.approve(code.user_code, "bob"))
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    assert (code.verification_uri, code.interval) == (issuer.url + "/activate", 5)
    assert code.verification_uri_complete.endswith(code.user_code)
    assert code.expires == waiting.now + 600
    tokens = flow.poll(code)
    assert waiting.waits == [5, 5]
    assert tokens.expires == waiting.now + 600
    assert all((tokens.access_token, tokens.id_token, tokens.refresh_token))
    path, form, authorization = issuer.posted[0]
    assert (path, authorization) == (DEVICE, "")
    assert form == {"client_id": CLIENT_ID, "scope": "openid offline_access"}
    assert issuer.requests[DISCOVERY] == 1
    assert refused(lambda: flow.poll(code)) == "invalid_grant"  # a code serves once


def test_tokens_are_refreshed_without_the_user(issuer: Issuer) -> None:
    waiting = Waiting(lambda: issuer.approve(code.user_code))
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    first = flow.poll(code)
    second = flow.refresh(first.refresh_token)
    assert second.access_token != first.access_token
    assert flow.refresh(second.refresh_token).access_token
    with pytest.raises(DeviceFlowError) as error:
        flow.refresh(first.refresh_token)
    assert error.value.reason == "invalid_grant"
    assert first.refresh_token not in error.value.text  # though the issuer repeats it


def test_a_refresh_token_that_is_not_replaced_goes_on(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"access_token": "abc", "token_type": "bearer"}
    monkeypatch.setattr(issuer, "answer_post", lambda *_: (200, answer))
    tokens = flow_of(issuer, Waiting()).refresh("r1")
    assert tokens == Tokens("abc", "", "r1", None)


def test_whoever_denies_gets_none(issuer: Issuer) -> None:
    flow = flow_of(issuer, Waiting(nothing, lambda: issuer.deny(code.user_code)))
    code = flow.begin()
    assert refused(lambda: flow.poll(code)) == "access_denied"


def test_a_code_that_the_issuer_lets_expire(issuer: Issuer) -> None:
    flow = flow_of(issuer, Waiting(lambda: issuer.expire(code.user_code)))
    code = flow.begin()
    assert refused(lambda: flow.poll(code)) == "expired_token"


def test_a_code_that_nobody_confirms_is_not_waited_for_longer_than_it_lives(issuer: Issuer) -> None:
    issuer.code_seconds = 23
    waiting = Waiting()
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    assert refused(lambda: flow.poll(code)) == "expired_token"
    assert waiting.waits == [5, 5, 5, 5, 3]


def test_who_asks_too_often_slows_down_for_good(issuer: Issuer) -> None:
    issuer.slow_downs = 2
    waiting = Waiting(nothing, nothing, nothing, lambda: issuer.approve(code.user_code))
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    assert flow.poll(code).access_token
    assert waiting.waits == [5, 10, 15, 15]


def test_the_interval_is_the_issuers(issuer: Issuer) -> None:
    issuer.interval = 0
    assert flow_of(issuer, Waiting()).begin().interval == 1
    issuer.interval = 30
    assert flow_of(issuer, Waiting()).begin().interval == 30


@pytest.mark.parametrize("fault", ["error", "drop"])
def test_a_hiccup_does_not_end_the_waiting(issuer: Issuer, fault: str) -> None:
    issuer.faulty = (TOKEN,)

    def hiccup() -> None:
        issuer.fault, issuer.faults_left = fault, 3

    waiting = Waiting(hiccup, nothing, nothing, nothing, lambda: issuer.approve(code.user_code))
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    assert flow.poll(code).access_token
    assert waiting.waits == [5, 10, 20, 40, 5]


def test_an_issuer_that_is_gone_is_waited_for_until_the_code_expires(issuer: Issuer) -> None:
    waiting = Waiting()
    flow = flow_of(issuer, waiting)
    code = flow.begin()
    issuer.fault = "drop"
    assert refused(lambda: flow.poll(code)) == "expired_token"
    assert max(waiting.waits) == 60


def test_the_waiting_ends_when_the_wait_says_so(issuer: Issuer) -> None:
    stop = threading.Event()
    flow = flow_of(issuer, Waiting(), wait=stop.wait)
    code = flow.begin()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    assert refused(lambda: flow.poll(code)) == "cancelled"
    assert time.monotonic() - began < 4


def test_an_interruption_gets_through(issuer: Issuer) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    flow = flow_of(issuer, Waiting(interrupt))
    code = flow.begin()
    with pytest.raises(KeyboardInterrupt):
        flow.poll(code)


def test_real_time_and_the_default_wait(issuer: Issuer) -> None:
    issuer.interval = 1
    flow = DeviceFlow(issuer.url, CLIENT_ID, ("openid",), ca_file=str(issuer.ca_file))
    code = flow.begin()
    assert code.expires == pytest.approx(time.time() + 600, abs=10)
    issuer.approve(code.user_code)
    assert flow.poll(code).access_token


@pytest.mark.parametrize(
    ("methods", "basic"),
    [(None, True), (["client_secret_post"], False), (["client_secret_post", "client_secret_basic"], True)],
)
def test_a_secret_and_an_audience_go_along(issuer: Issuer, methods: list[str] | None, basic: bool) -> None:
    issuer.overrides = {"token_endpoint_auth_methods_supported": methods}
    waiting = Waiting(lambda: issuer.approve(code.user_code))
    flow = flow_of(issuer, waiting, client_secret=CLIENT_SECRET, audience="https://drayman.example.org")
    code = flow.begin()
    tokens = flow.poll(code)
    flow.refresh(tokens.refresh_token)
    assert len(issuer.posted) == 3
    for _, form, authorization in issuer.posted:
        assert form["audience"] == "https://drayman.example.org"
        assert form.get("client_secret") == (None if basic else CLIENT_SECRET)
        assert bool(authorization) is basic
        if basic:
            assert base64.b64decode(authorization.split()[1]) == b"drayman:p%26ss%3Aw%25rd"


def test_a_wrong_secret_is_refused(issuer: Issuer) -> None:
    assert refused(flow_of(issuer, Waiting(), client_secret="wrong").begin) == "invalid_client"


def test_metadata_elsewhere(tmp_path: Path) -> None:
    with Issuer(tmp_path, "/realms/lab") as issuer:
        issuer.fault, issuer.faulty = "not_found", (DISCOVERY,)
        assert flow_of(issuer, Waiting()).begin().user_code
        assert issuer.requests[OAUTH_METADATA + "/realms/lab"] == 1


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"issuer": "https://issuer.example.org"}, "issuer"),
        ({"issuer": None}, "issuer"),
        ({"device_authorization_endpoint": None}, "unsupported"),
        ({"device_authorization_endpoint": "http://localhost/device"}, "malformed"),
        ({"device_authorization_endpoint": "http://issuer.example.org/device"}, "malformed"),
        ({"device_authorization_endpoint": "file:///etc/passwd"}, "malformed"),
    ],
)
def test_metadata_that_lead_astray(issuer: Issuer, overrides: dict[str, Any], reason: str) -> None:
    issuer.overrides = overrides
    assert refused(flow_of(issuer, Waiting()).begin) == reason
    assert not issuer.posted


@pytest.mark.parametrize(
    ("fault", "faulty", "reason"),
    [
        ("error", (), "unavailable"),
        ("drop", (), "unavailable"),
        ("not_found", (), "unsupported"),
        ("html", (), "malformed"),
        ("huge", (), "malformed"),
        ("circle", (), "unsupported"),
        ("elsewhere", (), "unsupported"),
        ("error", (DEVICE,), "unavailable"),
        ("html", (DEVICE,), "malformed"),
        ("huge", (DEVICE,), "malformed"),
        ("elsewhere", (DEVICE,), "malformed"),
        ("plaintext", (DEVICE,), "malformed"),
    ],
)
def test_an_issuer_that_misbehaves(issuer: Issuer, fault: str, faulty: tuple[str, ...], reason: str) -> None:
    issuer.fault, issuer.faulty = fault, faulty
    assert refused(flow_of(issuer, Waiting(), client_secret=CLIENT_SECRET).begin) == reason
    assert not issuer.posted
    assert issuer.poured < 20_000_000


@pytest.mark.parametrize(
    "answer",
    [
        {"user_code": None},
        {"user_code": 7},
        {"user_code": "\x1b[2J"},
        {"device_code": ""},
        {"verification_uri": None},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri_complete": "file:///etc/passwd"},
        {"verification_uri": "https://issuer.example.org/\x1b[2J"},
        {"expires_in": None},
        {"expires_in": "soon"},
        {"expires_in": 1e400},
        {"interval": "often"},
        {"interval": -1},
    ],
)
def test_codes_that_are_none(issuer: Issuer, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    good = {"user_code": "A", "device_code": "d", "verification_uri": "https://a.example.org", "expires_in": 600}
    monkeypatch.setattr(issuer, "answer_post", lambda *_: (200, good | answer))
    assert refused(flow_of(issuer, Waiting()).begin) == "malformed"


@pytest.mark.parametrize(
    ("status", "answer", "reason", "text"),
    [
        (
            400,
            {"error": "invalid_scope", "error_description": "no\x1b[2J such scope"},
            "invalid_scope",
            "no [2J such scope",
        ),
        (400, {"error": "invalid_scope", "error_description": ["a"]}, "invalid_scope", "refused: invalid_scope"),
        (400, {"error": "Kein\x1b[2J"}, "malformed", "HTTP status 400 and no reason"),
        (400, {}, "malformed", "HTTP status 400 and no reason"),
        (403, {"error": "access_denied"}, "access_denied", "refused: access_denied"),
        (200, {"access_token": "t", "token_type": "mac"}, "malformed", "no bearer token"),
        (200, {"access_token": "t"}, "malformed", "no bearer token"),
        (200, {"token_type": "Bearer"}, "malformed", "no access_token"),
        (
            200,
            {"access_token": "t", "token_type": "Bearer", "expires_in": "x"},
            "malformed",
            "no expires_in in seconds",
        ),
    ],
)
def test_answers_that_bring_no_token(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, status: int, answer: dict[str, Any], reason: str, text: str
) -> None:
    monkeypatch.setattr(issuer, "answer_post", lambda *_: (status, answer))
    waiting = Waiting()
    code = DeviceCode("A", "https://a.example.org", "", waiting.now + 60, 5, "d")
    flow = flow_of(issuer, waiting)
    for action in (lambda: flow.poll(code), lambda: flow.refresh("r")):
        with pytest.raises(DeviceFlowError) as error:
            action()
        assert error.value.reason == reason
        assert text in error.value.text
        assert "\x1b" not in error.value.text


def test_a_server_whose_certificate_nobody_knows_is_told_nothing(issuer: Issuer, tmp_path: Path) -> None:
    with Issuer(tmp_path) as other:
        for ca_file in (str(other.ca_file), None):
            assert refused(flow_of(issuer, Waiting(), ca_file=ca_file).begin) == "untrusted"
    assert not issuer.requests


def test_what_cannot_be_an_issuer_or_a_ca_file(tmp_path: Path) -> None:
    for url in ("http://issuer.example.org", "issuer.example.org", "https://", "ftp://a.example.org", "https://[::1"):
        assert refused(lambda url=url: DeviceFlow(url, CLIENT_ID, ())) == "issuer"
    (tmp_path / "empty.pem").write_text("")
    for name in ("absent.pem", "empty.pem"):
        ca_file = str(tmp_path / name)
        assert refused(lambda ca_file=ca_file: DeviceFlow("https://a", CLIENT_ID, (), ca_file=ca_file)) == "untrusted"


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        flow = DeviceFlow(f"http://127.0.0.1:{closed.getsockname()[1]}", CLIENT_ID, ())
        assert refused(flow.begin) == "unavailable"


def test_secrets_are_not_shown(issuer: Issuer) -> None:
    flow = flow_of(issuer, Waiting(lambda: issuer.approve(code.user_code)), client_secret=CLIENT_SECRET)
    code = flow.begin()
    assert code.device_code not in repr(code)
    tokens = flow.poll(code)
    for secret in (tokens.access_token, tokens.id_token, tokens.refresh_token):
        assert secret
        assert secret not in repr(tokens)
