"""Logins and tokens through the mirror, against a live stack."""

import stat
import time
import uuid
from pathlib import Path

import pytest

from drayman.client.session_token import expiration as token_end
from drayman.client.session_token import session_id_of
from drayman.data_dispatcher.api import APIError, AuthenticationError, DataDispatcherClient, ServerError, WebAPIError
from drayman.testing import LocalStack
from grid import Grid

PASSWORD = "pässword: with everything"


@pytest.fixture
def name(stack: LocalStack) -> str:
    made = f"u{uuid.uuid4().hex}"
    stack.add_user(made, password=PASSWORD)
    return made


@pytest.fixture(scope="module")
def grid_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Certificate and key of somebody."""
    certificate, key = Grid().user("Ann").write(tmp_path_factory.mktemp("grid"), "ann")
    return str(certificate), str(key)


@pytest.mark.parametrize("method", ["login_digest", "login_password"])
def test_login(stack: LocalStack, name: str, tmp_path: Path, method: str) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w")
    user, expiration = getattr(client, method)(name, PASSWORD)
    assert user == name
    assert isinstance(expiration, float)
    # the documented seven days: the session's; its token, which is replaced in time, lasts an hour
    assert abs(expiration - (time.time() + 7 * 86400)) < 60
    assert 3500 < (token_end(client.token() or "") or 0.0) - time.time() < 3700
    assert client.auth_info() == (name, pytest.approx(expiration, abs=1e-3))
    library = tmp_path / ".token_library"
    assert library.read_text().split() == [stack.url, client.token()], "kept although save_token is False"
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    assert client.tokens_saved() is True
    other = DataDispatcherClient(stack.url, worker_id="w")
    assert other.auth_info() == (name, pytest.approx(expiration, abs=1e-3))


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


def test_a_login_by_a_token_of_this_deployment(stack: LocalStack, name: str) -> None:
    """Section 12: a token that the system itself issued for that user."""
    given = stack.token(name, lifetime=1000)
    client = DataDispatcherClient(stack.url, worker_id="w")
    for encoded in (given, given.encode()):
        user, expiration = client.login_token(name, encoded)
        assert user == name
        assert expiration <= (token_end(given) or 0.0), "it expires when the presented token does"
        assert client.auth_info()[0] == name
        assert session_id_of(client.token() or "") != session_id_of(given)
    for user, token in (("nobody" + name, given), (name, "nonsense"), (name, given[:-8] + "AAAAAAAA")):
        with pytest.raises(AuthenticationError) as refused:
            client.login_token(user, token)
        assert refused.value.StatusCode == 401
    with pytest.raises(APIError) as empty:
        client.login_token(name, "")
    assert empty.value.StatusCode == 400


def test_logins_that_the_deployment_does_not_offer(
    stack: LocalStack, name: str, tmp_path: Path, grid_files: tuple[str, str]
) -> None:
    client = DataDispatcherClient(stack.url, worker_id="w")
    certificate, key = grid_files
    for call in (
        lambda: client.login_ldap(name, PASSWORD),
        lambda: client.login_x509(name, certificate, key),
        lambda: client.my_x509_dn(certificate, key),
    ):
        with pytest.raises(ServerError) as refused:
            call()
        assert (refused.value.StatusCode, refused.value.json()["reason"]) == (501, "NOT_OFFERED")
    with pytest.raises(ValueError, match=r"none\.pem"):
        client.login_x509(name, str(tmp_path / "none.pem"))


def test_what_others_could_read_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where plaintext was asked for; nobody is at that address (RFC 5737)."""
    monkeypatch.setenv("DRAYMAN_INSECURE_PLAINTEXT", "true")
    client = DataDispatcherClient("grpc://192.0.2.1:1", worker_id="w")
    for call in (lambda: client.login_ldap("ann", "secret"), lambda: client.login_token("ann", "token")):
        with pytest.raises(APIError, match="grpcs://") as refused:
            call()
        assert (refused.value.StatusCode, refused.value.json()["reason"]) == (409, "TLS_REQUIRED")
    monkeypatch.delenv("DRAYMAN_INSECURE_PLAINTEXT")
    with pytest.raises(ValueError, match="grpcs://"):
        client.login_digest("ann", "secret")


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
