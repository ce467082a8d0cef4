"""Logins and tokens through the mirror, against a live stack."""

import stat
import time
import uuid
from pathlib import Path

import pytest

from drayman.data_dispatcher.api import APIError, AuthenticationError, DataDispatcherClient, WebAPIError
from drayman.testing import LocalStack

PASSWORD = "pässword: with everything"


@pytest.fixture
def name(stack: LocalStack) -> str:
    made = f"u{uuid.uuid4().hex}"
    stack.add_user(made, password=PASSWORD)
    return made


@pytest.mark.parametrize("method", ["login_digest", "login_password"])
def test_login(stack: LocalStack, name: str, tmp_path: Path, method: str) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w")
    user, expiration = getattr(client, method)(name, PASSWORD)
    assert user == name
    assert isinstance(expiration, float)
    assert time.time() < expiration < time.time() + 400 * 86400
    assert client.auth_info() == (name, expiration)
    library = tmp_path / ".token_library"
    assert library.read_text().split() == [stack.url, client.token()], "kept although save_token is False"
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    assert client.tokens_saved() is True
    other = DataDispatcherClient(stack.url, worker_id="w")
    assert other.auth_info() == (name, expiration)


def test_a_login_elsewhere_is_noticed(stack: LocalStack, name: str) -> None:
    waiting = DataDispatcherClient(stack.url, worker_id="w")
    assert waiting.tokens_saved() is False
    with pytest.raises(AuthenticationError):
        waiting.auth_info()
    DataDispatcherClient(stack.url, worker_id="w").login_digest(name, PASSWORD)
    assert waiting.auth_info()[0] == name


def test_a_login_whose_token_cannot_be_kept_still_counts(stack: LocalStack, name: str, tmp_path: Path) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w", token_library=tmp_path / "no" / "such" / "folder")
    client.login_digest(name, PASSWORD)
    assert client.auth_info()[0] == name


def test_refused_logins(stack: LocalStack, name: str, tmp_path: Path) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w")
    for user, password in ((name, "wrong"), ("nobody" + name, PASSWORD)):
        with pytest.raises(AuthenticationError, match="Authentication failed") as refused:
            client.login_digest(user, password)
        assert (refused.value.StatusCode, refused.value.Message) == (401, "Authentication failed")
        assert isinstance(refused.value, WebAPIError)
    with pytest.raises(APIError) as empty:
        client.login_digest("", PASSWORD)
    assert empty.value.StatusCode == 400
    assert client.Token is None
    assert not (tmp_path / ".token_library").exists()


def test_auth_info_without_a_token(stack: LocalStack) -> None:
    with pytest.raises(AuthenticationError, match="No token found"):
        DataDispatcherClient(stack.url, worker_id="w").auth_info()
    with pytest.raises(AuthenticationError, match="Token verification failed"):
        DataDispatcherClient(stack.url, worker_id="w", token="nonsense").auth_info()


def test_environment_as_for_a_user(stack: LocalStack, name: str) -> None:
    with stack.as_user(name):
        client = DataDispatcherClient(worker_id="w")
    assert client.auth_info()[0] == name
    assert client.list_projects(owner=name) == []


def test_token_may_be_set(stack: LocalStack, name: str) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w")
    client.Token = stack.token(name)
    assert client.auth_info()[0] == name


def test_version(stack: LocalStack) -> None:
    version = DataDispatcherClient(stack.url, worker_id="w").version()
    assert isinstance(version, str)
    assert version[0].isdigit()


def test_http_urls_mean_the_same(stack: LocalStack) -> None:
    assert DataDispatcherClient(stack.url.replace("grpc://", "http://"), worker_id="w").version()
