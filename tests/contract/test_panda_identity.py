"""Who one is, through the PanDA mirror: texts, tokens of the environment, logins by device code, and what the service says."""

import base64
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import issuer as issuers
from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.client.credentials import bearer
from drayman.pandaclient import Client, token_sources
from drayman.testing import LocalStack
from issuer import CLIENT_ID, CLIENT_SECRET, DEVICE, DISCOVERY, TOKEN, Issuer
from service.auth.deployment import Deployment, deployed

VARIABLES = (
    *("PANDA_URL", "PANDA_URL_SSL", "PANDA_AUTH", "PANDA_AUTH_VO", "OIDC_AUTH_VO", "PANDA_CONFIG_ROOT"),
    *("PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN", "DRAYMAN_CA_FILE"),
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(token_sources, "_libraries", {})
    monkeypatch.setattr(token_sources, "_trades", {})


def jwt_of(**claims: Any) -> str:
    """A token that nobody has signed."""
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("/DC=x/CN=jdoe/CN=123/CN=Jane Doe", "JaneDoe"),
        ("/CN=jdoe", "jdoe"),
        ("/DC=x/CN=j.doe42/CN=other", "jdoe"),
        ("/DC=x/CN=Jane M. Doe 123/CN=Other One", "JaneMDoe"),
        ("/CN=123/CN=jdoe", "jdoe"),
        ("/CN= jdoe /CN=456", "jdoe"),
        ("/DC=x/OU=none", ""),
        ("", ""),
        ("CN=Jane Doe", "JaneDoe"),
        ("/cn=jdoe", ""),
    ],
)
def test_short_names(subject: str, name: str) -> None:
    assert Client.getDN(subject) == name


def test_is_https() -> None:
    assert Client.is_https("https://host") is True
    for url in ("HTTPS://host", "http://host", "", " https://host", "https:/host"):
        assert Client.is_https(url) is False


def test_str_decode() -> None:
    thing = object()
    assert Client.str_decode("ä".encode()) == "ä"
    assert Client.str_decode("ä") == "ä"
    assert Client.str_decode(thing) is thing
    assert Client.str_decode(None) is None


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ('curl -H "Authorization: Bearer abc.def" url', 'curl -H "Authorization: ***"" url'),
        ("curl -H 'Authorization: Bearer abc' -H 'Origin: vo'", "curl -H 'Authorization: ***\"' -H 'Origin: vo'"),
        ("Bearer abc", '***"'),
        ("nothing to hide", "nothing to hide"),
        (["Bearer abc"], "['***\"']"),
        (17, "17"),
        (None, "None"),
    ],
)
def test_bearer_tokens_are_hidden(command: object, shown: str) -> None:
    assert Client.hide_sensitive_info(command) == shown


def test_modes_are_those_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Client.use_oidc(), Client.use_x509_no_grid()) == (False, False)
    monkeypatch.setenv("PANDA_AUTH", "oidc")
    assert (Client.use_oidc(), Client.use_x509_no_grid()) == (True, False)
    monkeypatch.setenv("PANDA_AUTH", "x509_no_grid")
    assert (Client.use_oidc(), Client.use_x509_no_grid()) == (False, True)
    monkeypatch.setenv("PANDA_AUTH", "OIDC")
    assert (Client.use_oidc(), Client.use_x509_no_grid()) == (False, False)


# --- tokens of the environment ---------------------------------------------------------------------------------------


class Log:
    def __init__(self) -> None:
        self.said: list[str] = []

    def debug(self, text: str) -> None:
        self.said.append(text)


def test_the_order_of_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = Log()
    assert Client.get_token_string(log, True) is None
    monkeypatch.setenv("DRAYMAN_TOKEN", "not asked for")
    assert Client.get_token_string(log, True) is None
    monkeypatch.setenv("OIDC_AUTH_ID_TOKEN", "third")
    assert Client.get_token_string(log, True) == "third"
    (tmp_path / "token").write_text(" second\n")
    monkeypatch.setenv("OIDC_AUTH_TOKEN_FILE", str(tmp_path / "token"))
    assert Client.get_token_string(log, True) == " second\n", "to the byte"
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "first")
    assert Client.get_token_string(log, True) == "first"
    assert Client.get_token_string(None, False) == "first"
    assert log.said == ["use $OIDC_AUTH_ID_TOKEN", "use $OIDC_AUTH_TOKEN_FILE", "use $PANDA_AUTH_ID_TOKEN"]
    assert Client.get_new_token() == "first"


def test_what_a_token_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**claims: Any) -> tuple[Any, ...]:
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", jwt_of(**claims))
        return Client.get_user_name_from_token()

    groups = ["vo", "vo/production"]
    assert said(name="jane van DOE", groups=groups, preferred_username="jdoe") == ("Jane Van Doe", groups, "jdoe")
    assert said(name="jane doe", **{"wlcg.groups": ["/vo"]}) == ("Jane Doe", ["/vo"], None)
    assert said(name="jane", sub="4711") == ("Jane", [], "4711")
    assert said(sub="jdoe", roles=["r"], adm=False) == ("jdoe", ["r"], "jdoe"), "a session token"
    assert said(groups=groups) == (None, None, None)
    assert said(name=["jane"], groups="vo", sub=17) == (None, None, None)
    for token in ("nonsense", "a.b.c", jwt_of()):
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", token)
        assert Client.get_user_name_from_token() == (None, None, None)
    monkeypatch.delenv("PANDA_AUTH_ID_TOKEN")
    assert Client.get_user_name_from_token() == (None, None, None)
    monkeypatch.setenv("OIDC_AUTH_TOKEN_FILE", "/nowhere")
    assert Client.get_user_name_from_token() == (None, None, None)


# --- the service -----------------------------------------------------------------------------------------------------


def test_hello(monkeypatch: pytest.MonkeyPatch, stack: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DRAYMAN_TOKEN", "nonsense")  # it needs none
    monkeypatch.setenv("PANDA_URL", stack.url)
    assert Client.hello() == (0, "OK")
    assert capsys.readouterr().out == ""
    assert Client.hello(True) == (0, "OK")
    assert "OK" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["grpc://127.0.0.1:1", "grpcs://127.0.0.1:1", "http://[", "ftp://x", "grpc://127.0.0.1:no"]
)
def test_hello_where_nobody_answers(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PANDA_URL", url)
    began = time.monotonic()
    status, text = Client.hello()
    assert (status, type(text)) == (255, str)
    assert text
    assert time.monotonic() - began < 10


def test_attributes_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, stack: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"u{uuid4().hex}"
    stack.add_user(name, roles=[f"z-{name}", f"a-{name}"])
    monkeypatch.setenv("DRAYMAN_URL", stack.url)
    monkeypatch.setenv("DRAYMAN_TOKEN", stack.token(name))
    status, attributes = Client.get_cert_attributes()
    assert status == 0
    assert isinstance(attributes, dict)
    assert time.time() < attributes.pop("expiry") < time.time() + 400 * 86400
    assert attributes == {"identity": name, "role": "user", "groups": [f"a-{name}", f"z-{name}"]}
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("DRAYMAN_TOKEN", stack.token(stack.admin[0]))
    assert Client.get_cert_attributes(True)[1]["role"] == "administrator"
    assert f"identity={stack.admin[0]}\n" in capsys.readouterr().out
    # the variables of PanDA go first
    monkeypatch.setenv("OIDC_AUTH_ID_TOKEN", stack.token(name))
    assert Client.get_cert_attributes()[1]["identity"] == name


def test_attributes_of_nobody(monkeypatch: pytest.MonkeyPatch, stack: LocalStack) -> None:
    monkeypatch.setenv("DRAYMAN_URL", stack.url)
    for token in ("", "nonsense"):
        monkeypatch.setenv("DRAYMAN_TOKEN", token)
        status, text = Client.get_cert_attributes()
        assert status == 255
        assert "TOKEN_" in text


def test_attributes_by_a_kept_login(monkeypatch: pytest.MonkeyPatch, stack: LocalStack, tmp_path: Path) -> None:
    name = f"u{uuid4().hex}"
    stack.add_user(name)
    (tmp_path / ".token_library").write_text(f"{stack.url} {stack.token(name)}\n")
    monkeypatch.setenv("DRAYMAN_URL", stack.url)
    assert Client.get_cert_attributes()[1]["identity"] == name


# --- logins by device code -------------------------------------------------------------------------------------------


class _Pages(issuers._Handler):
    def do_GET(self) -> None:
        server = self.server.issuer
        assert isinstance(server, AuthServer)
        name = self.path.removeprefix("/auth/")
        if name == self.path:
            super().do_GET()
            return
        server.asked.append(name)
        page = server.pages.get(name)
        self._answer(404 if page is None else 200, page)


class AuthServer(Issuer):
    """An issuer with pages about virtual organisations; `answer` is what the user does in the browser, and `asked` what was looked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server.RequestHandlerClass = _Pages
        self.interval = 1
        self.answer = self.approve
        self.lifetime = 3600
        self.asked: list[str] = []
        page = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "audience": "https://panda.example.org"}
        self.pages: dict[str, Any] = {
            "eic_auth_config.json": page | {"oidc_config_url": self.url + DISCOVERY, "vo": "eic"}
        }

    def claims(self, profile: str = "oidc", **claims: Any) -> dict[str, Any]:
        person = {"name": "ada LOVELACE", "groups": ["eic"], "preferred_username": "ada"}
        return super().claims(profile, **{"exp": int(time.time()) + self.lifetime, **person, **claims})

    def _begin(self) -> dict[str, Any]:
        code = super()._begin()
        self.answer(code["user_code"])
        return code


@pytest.fixture
def auth_server(tmp_path: Path) -> Iterator[AuthServer]:
    with AuthServer(tmp_path) as running:
        yield running


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, auth_server: AuthServer) -> Path:
    """Somebody at a terminal who answers `y`; returns the folder of the token cache."""
    root = tmp_path / "panda"
    monkeypatch.setenv("PANDA_AUTH", "oidc")
    monkeypatch.setenv("PANDA_AUTH_VO", "eic")
    monkeypatch.setenv("PANDA_URL_SSL", f"{auth_server.origin}/server/panda")
    monkeypatch.setenv("PANDA_CONFIG_ROOT", str(root))
    monkeypatch.setenv("DRAYMAN_CA_FILE", str(auth_server.ca_file))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    return root


def test_a_new_token(root: Path, auth_server: AuthServer, capsys: pytest.CaptureFixture[str]) -> None:
    token = Client.get_new_token()
    assert token is not None
    assert token.count(".") == 2
    told = capsys.readouterr().out
    assert auth_server.url + "/activate?code=" in told
    assert "[y/n]" in told
    assert token not in told
    form = auth_server.posted[0][1]
    assert form["scope"].split() == ["openid", "profile", "email", "offline_access"]
    assert form["audience"] == "https://panda.example.org"
    assert CLIENT_SECRET not in told

    cached = json.loads((root / ".token").read_text())
    assert cached["id_token"] == token
    assert cached["refresh_token"]
    assert len(list(root.glob(".page_cache_*"))) == 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in root.iterdir())
    assert Client.get_user_name_from_token() == ("Ada Lovelace", ["eic"], "ada")
    assert Client.get_token_string(None, False) is None, "that is the environment's only"
    # what is cached is forgotten first, pages as well
    assert Client.get_new_token() is not None
    assert auth_server.asked == ["eic_auth_config.json"] * 2


def test_scopes_of_a_wlcg_profile(root: Path, auth_server: AuthServer) -> None:
    auth_server.pages["eic_auth_config.json"]["token_profile"] = "wlcg"
    assert Client.get_new_token()
    assert auth_server.posted[0][1]["scope"].split()[-2:] == ["wlcg", "wlcg.groups"]


@pytest.mark.parametrize("organisation", ["eic:production", "eic.production"])
def test_a_role_has_a_page_of_its_own_or_that_of_its_organisation(
    root: Path, auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch, organisation: str
) -> None:
    monkeypatch.setenv("PANDA_AUTH_VO", organisation)
    assert Client.get_new_token()
    assert auth_server.asked == ["eic.production_auth_config.json", "eic_auth_config.json"]
    auth_server.pages["eic.production_auth_config.json"] = auth_server.pages.pop("eic_auth_config.json")
    assert Client.get_new_token()
    assert auth_server.asked[2:] == ["eic.production_auth_config.json"]


@pytest.mark.parametrize("answers", ["n\n", "what?\n\nn\n", ""])
def test_who_does_not_confirm_gets_no_token(
    root: Path, auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    assert Client.get_new_token() is None
    assert [path for path, *_ in auth_server.posted] == [DEVICE]
    assert not (root / ".token").exists()


def test_a_refused_login_is_none_and_ends_nothing(
    root: Path, auth_server: AuthServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Client.get_new_token()
    auth_server.answer = auth_server.deny
    assert Client.get_new_token() is None
    assert "access_denied" in capsys.readouterr().out
    assert not (root / ".token").exists(), "forgotten first"


@pytest.mark.parametrize(
    ("organisation", "page"),
    [
        ("none", None),
        ("../eic", None),
        ("eic/..", None),
        ("bad", []),
        ("bad", {"client_id": CLIENT_ID}),
        ("bad", {"client_id": CLIENT_ID, "oidc_config_url": "http://localhost" + DISCOVERY}),
        ("bad", {"client_id": CLIENT_ID, "oidc_config_url": "https://localhost:1" + DISCOVERY}),
    ],
)
def test_no_issuer_no_token(
    root: Path, auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch, organisation: str, page: Any
) -> None:
    if page is not None:
        auth_server.pages["bad_auth_config.json"] = page
    monkeypatch.setenv("PANDA_AUTH_VO", organisation)
    assert Client.get_new_token() is None
    assert auth_server.posted == []


def test_metadata_of_another_issuer_is_not_believed(root: Path, auth_server: AuthServer) -> None:
    auth_server.lies = "https://other.example.org"
    assert Client.get_new_token() is None
    assert auth_server.posted == []
    auth_server.lies = auth_server.url + "/"  # as some call themselves
    assert Client.get_new_token()


def test_a_server_that_is_not_trusted(root: Path, auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRAYMAN_CA_FILE")
    monkeypatch.setenv("PANDA_VERIFY_HOST", "off")
    assert Client.get_new_token() is None
    assert auth_server.posted == []


# --- tokens of an issuer at the service --------------------------------------------------------------------------------


@pytest.fixture
def deployment(auth_server: AuthServer, database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    folder = tmp_path / "deployment"
    folder.mkdir()
    listed = folder / "issuers.toml"
    listed.write_text(
        f'[[issuers]]\nissuer = "{auth_server.url}"\nprofile = "oidc"\naudiences = ["drayman"]\n'
        f'ca_file = "{auth_server.ca_file}"\nclient_id = "{CLIENT_ID}"\n'
    )
    with deployed(database_url, folder, token_issuers=str(listed)) as running:
        running.add_user(name="ada")
        yield running


def identity() -> Any:
    status, attributes = Client.get_cert_attributes()
    return attributes["identity"] if isinstance(attributes, dict) else (status, attributes)


def test_a_token_of_the_issuer_is_traded_for_a_session(
    root: Path, auth_server: AuthServer, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANDA_URL_SSL", deployment.urls[0])
    # without a page the service says where to log in
    token = Client.get_new_token()
    assert token is not None
    assert identity() == "ada"
    assert Client.set_user_secert("key", "value") == (0, (True, "OK"))
    (keeper,) = token_sources._trades.values()
    session = keeper.token()
    assert identity() == "ada"
    assert (len(token_sources._trades), keeper.token()) == (1, session), "once for many calls"

    # a session that was ended is followed by another one while the token lasts
    assert session is not None
    deployment.auth.Logout(pb.LogoutRequest(), metadata=bearer(session), timeout=10)
    deadline = time.monotonic() + 20
    while keeper.token() == session:  # services hear of it a moment later
        assert identity() == "ada"
        assert time.monotonic() < deadline
    assert identity() == "ada"

    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", auth_server.make_token(sub="nobody"))
    status, text = Client.get_user_secerts()
    assert status == 255
    assert "FOREIGN_TOKEN_UNREGISTERED" in text
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", auth_server.make_token(sub="ada", exp=int(time.time()) - 4000))
    assert "FOREIGN_TOKEN_EXPIRED" in str(identity())
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "")
    monkeypatch.setenv("PANDA_AUTH", "")
    assert "TOKEN_MISSING" in str(identity()), "the cache is for PANDA_AUTH=oidc"
    monkeypatch.setenv("OIDC_AUTH_TOKEN_FILE", str(root / "token"))
    assert identity()[0] == 255
    (root / "token").write_text(f"{token}\n")
    assert identity() == "ada"


def test_a_cached_token_that_ends_is_refreshed(
    root: Path, auth_server: AuthServer, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANDA_URL_SSL", deployment.urls[0])
    auth_server.lifetime = 290
    first = Client.get_new_token()
    auth_server.lifetime = 3600
    assert identity() == "ada"
    cached = json.loads((root / ".token").read_text())
    assert cached["id_token"] != first
    assert identity() == "ada"
    assert [form.get("grant_type") for path, form, _ in auth_server.posted if path == TOKEN].count("refresh_token") == 1

    # while the issuer is away, or refuses, the old one serves to its end
    cached["id_token"] = auth_server.make_token(sub="ada", exp=int(time.time()) + 200)
    (root / ".token").write_text(json.dumps(cached | {"refresh_token": "used"}))
    assert identity() == "ada"
    (root / ".token").write_text(json.dumps({"id_token": auth_server.make_token(sub="ada", exp=int(time.time()) - 1)}))
    assert "TOKEN_MISSING" in str(identity())


def test_a_page_is_read_once_an_hour(root: Path, auth_server: AuthServer) -> None:
    auth_server.lifetime = 200
    Client.get_new_token()
    assert auth_server.asked == ["eic_auth_config.json"]
    token_sources._cached_or_refreshed()
    assert auth_server.asked == ["eic_auth_config.json"]
    for path in root.glob(".page_cache_*"):
        os.utime(path, (time.time() - 3601, time.time() - 3601))
    token_sources._cached_or_refreshed()
    assert auth_server.asked == ["eic_auth_config.json"] * 2
