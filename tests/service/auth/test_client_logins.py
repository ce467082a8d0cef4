"""Every login by the clients, against a site that has all of them: TLS, LDAP, certificates, issuers."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from drayman.client import AuthClient, OverloadedError, UnauthenticatedError
from drayman.client.bearer_discovery import BearerTokenError
from drayman.client.device_flow import DeviceCode
from drayman.client.x509 import IdentityFileError
from drayman.data_dispatcher.api import AuthenticationError, DataDispatcherClient
from drayman.server.platform.embedded import EmbeddedPostgres
from grid import Grid, Identity
from issuer import Issuer
from service.auth.deployment import new_database
from service.auth.login_site import Site, fresh, open_site
from slapd import PASSWORDS, TEMPLATE, Slapd


@dataclass
class Place:
    """The site and what is around it."""

    site: Site
    grid: Grid
    slapd: Slapd
    issuer: Issuer
    folder: Path

    @property
    def url(self) -> str:
        return self.site.url.replace("grpc://", "grpcs://")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DRAYMAN_URL": self.url,
            "DRAYMAN_CA_FILE": str(self.folder / "root.pem"),
            "SSL_CERT_FILE": str(self.issuer.ca_file),
            "XDG_RUNTIME_DIR": str(self.folder),
        }

    def files(self, identity: Identity) -> tuple[str, str]:
        certificate, key = identity.write(self.folder, fresh("identity"))
        return str(certificate), str(key)


@asynccontextmanager
async def placed(dsn: str, folder: Path, slapd: Slapd, issuer: Issuer) -> AsyncIterator[Place]:
    grid = Grid()
    (folder / "root.pem").write_bytes(grid.root_pem)
    certificate, key = grid.host().write(folder, "host")
    (folder / "issuers.toml").write_text(
        f'[[issuers]]\nissuer = "{issuer.url}"\naudiences = ["drayman"]\nprofile = "wlcg"\nclient_id = "drayman"\n'
        f'device_scopes = ["openid"]\nca_file = "{issuer.ca_file}"\nusername_claim = "sub"\n'
    )
    environment = {
        "TLS_CERT": str(certificate),
        "TLS_KEY": str(key),
        "X509_LISTEN": "127.0.0.1:0",
        "X509_CA": str(folder / "root.pem"),
        "LDAP_URL": slapd.ldaps,
        "LDAP_DN_TEMPLATE": TEMPLATE,
        "LDAP_CA_FILE": str(slapd.ca_file),
        "TOKEN_ISSUERS": str(folder / "issuers.toml"),
    }
    async with open_site(dsn, folder, roots=grid.root_pem, environment=environment) as site:
        for name in PASSWORDS:
            await site.add_user(name)
        await site.add_user("ada")
        yield Place(site, grid, slapd, issuer, folder)


@pytest_asyncio.fixture(scope="module")
async def shared(
    postgres: EmbeddedPostgres, slapd: Slapd, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("logins")
    with Issuer(folder) as issuer:
        issuer.interval = 1
        async with new_database(postgres) as dsn, placed(dsn, folder, slapd, issuer) as place:
            yield place


@pytest.fixture
def place(shared: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    return shared


async def method_of(client: AuthClient) -> str:
    return next(each.method for each in await client.sessions() if each.current)


async def test_what_the_site_offers(place: Place) -> None:
    async with AuthClient() as client:
        options = await client.login_options()
    assert options.ldap
    assert options.x509_port > 0
    assert [each.issuer for each in options.token_issuers] == [place.issuer.url]


async def test_ldap(place: Place) -> None:
    async with AuthClient() as client:
        session = await client.login_ldap("ann", PASSWORDS["ann"])
        assert (session.username, await method_of(client)) == ("ann", "ldap")
        with pytest.raises(UnauthenticatedError):
            await client.login_ldap("ann", "wrong")
    mirror = DataDispatcherClient(worker_id="w")
    assert mirror.login_ldap("ann", PASSWORDS["ann"])[0] == "ann"
    assert mirror.auth_info()[0] == "ann"
    with pytest.raises(AuthenticationError, match="Authentication failed"):
        mirror.login_ldap("ann", "wrong")


async def test_a_password_is_ldaps_or_ours(place: Place) -> None:
    name = await place.site.add_user(password="secret")
    async with AuthClient() as client:
        await client.login_password("ann", PASSWORDS["ann"])
        assert await method_of(client) == "ldap"
        await client.login_password(name, "secret")
        assert await method_of(client) == "digest"
        with pytest.raises(UnauthenticatedError, match="Authentication failed"):
            await client.login_password(name, "wrong")
    mirror = DataDispatcherClient(worker_id="w")
    assert [mirror.login_password(*each)[0] for each in (("ann", PASSWORDS["ann"]), (name, "secret"))] == ["ann", name]


async def test_certificates_and_proxies(place: Place) -> None:
    jane = place.grid.user(fresh("Jane"))
    name = await place.site.add_user(x509_dn=jane.certificate.subject.rfc4514_string())
    proxy = str(place.grid.proxy(jane).write_proxy(place.folder / fresh("proxy")))
    mirror = DataDispatcherClient(worker_id="w")
    async with AuthClient() as client:
        for username, files in ((name, place.files(jane)), (name, (proxy, None)), ("", place.files(jane))):
            session = await client.login_x509(username, *files)
            assert (session.username, await method_of(client)) == (name, "x509")
            if username:
                assert mirror.login_x509(username, *files)[0] == name
        assert session.session_end is not None
        for identity, reason in (
            (place.grid.user("Nobody"), "CERTIFICATE_UNREGISTERED"),
            (place.grid.user("Late", days=(-3, -1)), "CERTIFICATE_EXPIRED"),
            (Grid("Elsewhere").user("Jane"), "CERTIFICATE_UNTRUSTED"),
        ):
            with pytest.raises(UnauthenticatedError) as refused:
                await client.login_x509(name, *place.files(identity))
            assert refused.value.reason == reason
        with pytest.raises(IdentityFileError):
            await client.login_x509(name, str(place.folder / "host.toml"))


async def test_the_names_of_a_certificate_are_what_may_be_registered(place: Place) -> None:
    jane = place.grid.user(fresh("Jane"))
    mirror = DataDispatcherClient(worker_id="w")
    subject, issuer = mirror.my_x509_dn(*place.files(jane))
    assert re.fullmatch(r"/DC=org/DC=grid/O=Site/CN=Jane-\w+", subject)
    assert issuer == "/DC=org/DC=grid/O=Site/CN=Grid CA"
    name = await place.site.add_user(x509_dn=subject)
    assert mirror.login_x509(name, *place.files(jane))[0] == name
    # also of one that is registered, and that begins no session
    assert mirror.my_x509_dn(*place.files(jane)) == (subject, issuer)
    with pytest.raises(AuthenticationError) as expired:
        mirror.my_x509_dn(*place.files(place.grid.user("Late", days=(-3, -1))))
    assert expired.value.json()["reason"] == "CERTIFICATE_EXPIRED"


async def test_tokens_of_an_issuer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    token = place.issuer.make_token("wlcg", sub="ada", aud="drayman")
    mirror = DataDispatcherClient(worker_id="w")
    async with AuthClient() as client:
        for username, given in (("ada", token), ("", token)):
            session = await client.login_token(username, given)
            assert (session.username, await method_of(client)) == ("ada", "token")
        assert session.session_end is not None
        with pytest.raises(BearerTokenError):
            await client.login_token("ada")
        (place.folder / f"bt_u{os.geteuid()}").write_text(token + "\n")
        assert (await client.login_token("ada")).username == "ada"
    user, expiration = mirror.login_token("ada", token)
    assert (user, expiration) == ("ada", session.session_end.timestamp()), "it expires when the presented token does"
    with pytest.raises(AuthenticationError) as refused:
        mirror.login_token("ann", token)
    assert refused.value.json()["reason"] == "FOREIGN_TOKEN_UNREGISTERED"


async def test_a_session_of_a_token_goes_on_with_the_next_token_that_lies_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lay(seconds: int) -> str:
        end = int(datetime.now(UTC).timestamp()) + seconds
        token = place.issuer.make_token("wlcg", sub="ada", aud="drayman", exp=end)
        (tmp_path / "bearer").write_text(token)
        return token

    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "bearer"))
    given = lay(3)
    mirror = DataDispatcherClient(worker_id="w")
    async with AuthClient() as client:
        first = await client.login_token("ada")
        await asyncio.to_thread(mirror.login_token, "ada", given)
        lay(600)
        await asyncio.sleep(max(0.0, first.expires.timestamp() - datetime.now(UTC).timestamp()))
        assert (await client.auth_info()).session_id != first.session_id
        assert (await asyncio.to_thread(mirror.auth_info))[0] == "ada"


async def test_a_web_login(place: Place) -> None:
    shown: list[DeviceCode] = []

    def approve(code: DeviceCode) -> None:
        shown.append(code)
        place.issuer.approve(code.user_code, "ada")

    async with AuthClient() as client:
        session = await client.login_oidc(approve)
        assert (session.username, await method_of(client)) == ("ada", "token")
        assert shown[0].verification_uri.startswith("https://")
        with pytest.raises(UnauthenticatedError) as denied:
            await client.login_oidc(lambda code: place.issuer.deny(code.user_code))
        assert denied.value.reason == "FOREIGN_TOKEN_REFUSED"


# --- the command -----------------------------------------------------------------------------------------------------


def drayman(place: Place, *words: str, module: str = "drayman", stdin: str = "", **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        input=stdin,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def ran(place: Place, *words: str, **options: str) -> str:
    done = await asyncio.to_thread(drayman, place, *words, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def test_the_command_has_every_method(place: Place, tmp_path: Path) -> None:
    jane = place.grid.user(fresh("Jane"))
    name = await place.site.add_user(password="secret", x509_dn=jane.certificate.subject.rfc4514_string())
    certificate, key = place.files(jane)
    token = place.issuer.make_token("wlcg", sub="ada", aud="drayman")
    (tmp_path / "token").write_text(token)
    for words, stdin, who, method in (
        (("ann", "--password-stdin"), PASSWORDS["ann"], "ann", "ldap"),
        (("ann", "--method", "ldap", "--password-stdin"), PASSWORDS["ann"], "ann", "ldap"),
        ((name, "--method", "digest", "--password-stdin"), "secret", name, "digest"),
        ((name, "--method", "x509", "--cert", certificate, "--key", key), "", name, "x509"),
        (("ada", "--method", "token", "--bearer", str(tmp_path / "token")), "", "ada", "token"),
        (("ada", "--method", "token", "--bearer", token), "", "ada", "token"),
    ):
        assert (await ran(place, "login", *words, stdin=stdin)).startswith(f"{who} is logged in")
        out = await ran(place, "whoami")
        assert re.search(rf"user +{re.escape(who)}\n", out)
        assert re.search(rf"logged in by +{method}\n", out)
    assert f"User:    {name}\n" in await ran(
        place, "-s", place.url, "login", "-m", "x509", name, certificate, key, module="drayman.ddisp"
    )
    assert "User:    ada\n" in await ran(
        place, "-s", place.url, "login", "-m", "token", "ada", module="drayman.ddisp", BEARER_TOKEN=token
    )
    refused = await asyncio.to_thread(
        drayman, place, "login", "ann", "--method", "x509", "--cert", certificate, "--key", key
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "(CERTIFICATE_UNREGISTERED)" in refused.stderr
    assert refused.stderr.count("\n") == 1


async def test_the_command_logs_in_on_a_web_page(place: Place) -> None:
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drayman", "login", "--oidc", "--issuer", place.issuer.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert command.stderr is not None
    line = (await asyncio.wait_for(command.stderr.readline(), 30)).decode()
    match = re.fullmatch(r"open (https://\S+) and enter (\S+)\n", line)
    assert match, line
    place.issuer.approve(match[2], "ada")
    out, _ = await asyncio.wait_for(command.communicate(), 30)
    assert command.returncode == 0
    assert out.decode().startswith("ada is logged in")


async def limit_of(client: AuthClient, name: str) -> OverloadedError:
    """Try wrong passwords until that is not allowed any more."""
    for _ in range(40):
        try:
            await client.login(name, "wrong")
        except UnauthenticatedError:
            continue
        except OverloadedError as error:
            return error
    raise AssertionError("never limited")


async def test_attempts_are_limited_and_told_in_one_line(place: Place) -> None:
    name = await place.site.add_user(password="secret")
    async with AuthClient() as client:
        limit = await limit_of(client, name)
    assert limit.reason == "LOGIN_THROTTLED"
    assert limit.retry_after
    done = await asyncio.to_thread(drayman, place, "login", name, "--method", "digest", "--password-stdin", stdin="x\n")
    assert done.returncode == 1
    assert re.search(r"\(LOGIN_THROTTLED\); try again in \d+ s\n$", done.stderr)
    assert done.stderr.count("\n") == 1
