"""Secrets through the PanDA mirror, against a live stack."""

import base64
import threading
from uuid import uuid4

import pytest

from drayman.pandaclient import Client, token_sources
from drayman.testing import LocalStack


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, stack: LocalStack) -> None:
    for name in ("PANDA_URL", "PANDA_URL_SSL", "PANDA_AUTH", "PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OIDC_AUTH_TOKEN_FILE", raising=False)
    monkeypatch.setenv("DRAYMAN_URL", stack.url)
    monkeypatch.setattr(token_sources, "_libraries", {})


def become(monkeypatch: pytest.MonkeyPatch, stack: LocalStack, name: str | None = None) -> str:
    """Be a user, a new one unless it is named."""
    if name is None:
        name = f"u{uuid4().hex}"
        stack.add_user(name)
    monkeypatch.setenv("DRAYMAN_TOKEN", stack.token(name))
    return name


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, stack: LocalStack) -> str:
    return become(monkeypatch, stack)


def test_both_spellings_are_the_same() -> None:
    assert Client.set_user_secert is Client.set_user_secret
    assert Client.get_user_secerts is Client.get_user_secrets


@pytest.mark.usefixtures("user")
def test_a_secrets_life() -> None:
    assert Client.get_user_secerts() == (0, (True, {}))
    assert Client.set_user_secert("KEY", "value") == (0, (True, "OK"))
    assert Client.set_user_secret("Zoë", "日本\n\U0001f600") == (0, (True, "OK"))
    assert Client.get_user_secrets() == (0, (True, {"KEY": "value", "Zoë": "日本\n\U0001f600"}))
    assert Client.set_user_secert("KEY", "other") == (0, (True, "OK"))
    assert Client.get_user_secerts() == (0, (True, {"KEY": "other", "Zoë": "日本\n\U0001f600"}))

    assert Client.set_user_secert("KEY", None) == (0, (True, "OK"))
    assert Client.set_user_secert("KEY", None) == (0, (True, "OK")), "one that is not there is no error"
    assert Client.get_user_secerts() == (0, (True, {"Zoë": "日本\n\U0001f600"}))
    Client.set_user_secert("KEY", "again")
    assert Client.set_user_secert(None, "the value is irrelevant") == (0, (True, "OK"))
    assert Client.set_user_secert(None, None) == (0, (True, "OK"))
    assert Client.get_user_secerts() == (0, (True, {}))


@pytest.mark.usefixtures("user")
def test_the_results_have_the_documented_types() -> None:
    for status, payload in (
        Client.set_user_secert("k", "v"),
        Client.get_user_secerts(),
        Client.set_user_secert("", ""),
    ):
        assert type(status) is int
        assert isinstance(payload, tuple)
        assert len(payload) == 2
        assert type(payload[0]) is bool


@pytest.mark.usefixtures("user")
def test_an_empty_text_is_not_none() -> None:
    Client.set_user_secert("kept", "value")
    for value in ("value", "", None):
        status, (stored, text) = Client.set_user_secert("", value)
        assert (status, stored) == (0, False)
        assert "key" in text
    assert Client.set_user_secert("empty", "") == (0, (True, "OK"))
    assert Client.get_user_secerts() == (0, (True, {"kept": "value", "empty": ""}))


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k" * 256, "v"),
        ("a\nb", "v"),
        ("k", "x" * 1_024_001),
        ("k", "NUL \0"),
        ("k", 17),
        ("k", b"bytes"),
        (17, "v"),
        (b"k", None),
        ("k", "\ud800"),
        ("\ud800", "v"),
    ],
)
def test_what_cannot_be_stored_is_refused(key: str, value: str) -> None:
    status, (stored, text) = Client.set_user_secert(key, value)
    assert (status, stored) == (0, False)
    assert text
    assert "xxxx" not in text
    assert Client.get_user_secerts() == (0, (True, {}))


@pytest.mark.usefixtures("user")
def test_the_largest_value() -> None:
    value = "ä" * (1000 * 1024)
    assert Client.set_user_secert("large", value) == (0, (True, "OK"))
    assert Client.get_user_secerts() == (0, (True, {"large": value}))


@pytest.mark.usefixtures("user")
def test_a_file_secret_is_base64_under_its_key() -> None:
    key, value = "___file___:proxy.pem", base64.b64encode(bytes(range(256))).decode()
    assert Client.set_user_secert(key, value) == (0, (True, "OK"))
    assert Client.get_user_secerts() == (0, (True, {key: value}))


def test_nobody_sees_the_secrets_of_others(monkeypatch: pytest.MonkeyPatch, stack: LocalStack) -> None:
    ann = become(monkeypatch, stack)
    Client.set_user_secert("key", "ann's")
    become(monkeypatch, stack)
    assert Client.get_user_secerts() == (0, (True, {}))
    Client.set_user_secert(None, None)
    become(monkeypatch, stack, stack.admin[0])
    found = Client.get_user_secerts()[1]
    assert isinstance(found, tuple)
    assert "ann's" not in str(found)
    become(monkeypatch, stack, ann)
    assert Client.get_user_secerts() == (0, (True, {"key": "ann's"}))


def test_without_a_token() -> None:
    for status, (done, text) in (Client.set_user_secert("k", "v"), Client.get_user_secerts()):
        assert (status, done) == (0, False)
        assert "TOKEN_MISSING" in text


@pytest.mark.parametrize("token", ["nonsense", "a.b.c"])
def test_with_a_token_that_is_none(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("DRAYMAN_TOKEN", token)
    for status, text in (
        Client.set_user_secert("k", "v"),
        Client.set_user_secert(None, None),
        Client.get_user_secerts(),
    ):
        assert status == 255
        assert isinstance(text, str)
        assert "TOKEN_INVALID" in text


def test_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("grpc://127.0.0.1:1", "ftp://nowhere", "grpc://user:pass@host"):
        monkeypatch.setenv("PANDA_URL_SSL", url)
        for status, text in (Client.set_user_secert("k", "v"), Client.get_user_secerts()):
            assert status == 255
            assert isinstance(text, str)
            assert text


def test_verbose_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Client.set_user_secert("key", "hunter2", True) == Client.set_user_secert("key", "hunter2")
    assert Client.get_user_secerts(True) == Client.get_user_secerts(verbose=False)
    monkeypatch.delenv("DRAYMAN_TOKEN")
    Client.get_user_secerts(True)
    shown = capsys.readouterr().out
    assert "OK" in shown
    assert "TOKEN_MISSING" in shown
    assert "hunter2" not in shown


@pytest.mark.usefixtures("user")
def test_threads_share_the_connection() -> None:
    results: list[object] = []

    def work(number: int) -> None:
        results.append(Client.set_user_secert(f"k{number}", str(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(0, (True, "OK"))] * 8
    assert Client.get_user_secerts() == (0, (True, {f"k{number}": str(number) for number in range(8)}))
