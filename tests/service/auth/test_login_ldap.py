"""Logins by LDAP over real channels: a service, its database, and a real slapd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth.ldap_login import LdapLogin, LdapSettings
from drayman.server.auth.ldap_proof import LdapProof
from drayman.server.platform.calls import Call
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.errors import Refusal
from drayman.server.platform.settings import Settings
from drayman.server.platform.transport import is_private
from service.auth.connections import Connection
from service.auth.deployment import new_database
from service.auth.login_site import PATIENCE, Site, challenged, fresh, open_site, refusal, seen
from slapd import PASSWORDS, PEOPLE, SEARCHER, SEARCHER_PASSWORD, SUFFIX, TEMPLATE, Slapd

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_REFUSED", "Authentication failed", "", (), None)
ATTEMPTS = 10  # that one user may fail in a row from one address


def by_template(slapd: Slapd, url: str = "") -> dict[str, str]:
    return {
        "LDAP_URL": url or slapd.ldaps,
        "LDAP_DN_TEMPLATE": TEMPLATE,
        "LDAP_CA_FILE": str(slapd.ca_file),
        "LDAP_TIMEOUT": "2",
    }


def ldap(username: str, password: str) -> pb.LoginRequest:
    return pb.LoginRequest(ldap=pb.LdapCredential(username=username, password=password))


async def log_in(site: Site, username: str, password: str) -> pb.LoginResponse:
    reply: pb.LoginResponse = await site.auth.Login(ldap(username, password), timeout=PATIENCE)
    return reply


async def refused(site: Site, username: str, password: str) -> Any:
    return await refusal(site.auth.Login(ldap(username, password), timeout=PATIENCE))


@pytest_asyncio.fixture(scope="module")
async def site(
    postgres: EmbeddedPostgres, slapd: Slapd, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A site whose users are known to LDAP: `ann` to both, `bob` to LDAP only, `carol` here only, `zoë` to both and disabled here."""
    folder = tmp_path_factory.mktemp("site")
    async with new_database(postgres) as dsn, open_site(dsn, folder, environment=by_template(slapd)) as running:
        for name in ("ann", "carol"):
            await running.add_user(name)
        await running.add_user("zoë", disabled=True)
        yield running


# --- who gets in, and who does not -----------------------------------------------------------------------------------


async def test_a_password_of_the_directory_begins_a_session(site: Site) -> None:
    options = await site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
    assert options.ldap
    reply = await log_in(site, "ann", PASSWORDS["ann"])
    info = await site.info(reply.token.token)
    assert (reply.token.username, info.username) == ("ann", "ann")
    assert reply.refresh_token
    assert not reply.rspauth
    assert not reply.HasField("session_end_time")  # LDAP sets no end
    session = await site.session("ann")
    assert (session.session_id, session.method, session.peer) == (info.session_id, "ldap", "127.0.0.1")


async def test_all_who_may_not_log_in_get_the_same_answer(site: Site) -> None:
    causes = {
        "wrong password": ("ann", PASSWORDS["bob"]),
        "known to LDAP only": ("bob", PASSWORDS["bob"]),
        "known to LDAP only, wrong password": ("bob", "wrong"),
        "known here only": ("carol", "wrong"),
        "known to nobody": (fresh("nobody"), "wrong"),
        "disabled": ("zoë", PASSWORDS["zoë"]),
        "without a password in LDAP": ("mute", "wrong"),
        "no name at all": ("a/b", "wrong"),
        "a name with NUL": ("ann\0", PASSWORDS["ann"]),
        "a name with more of a DN": (f"ann,{PEOPLE}", PASSWORDS["ann"]),
        "a password with NUL": ("ann", PASSWORDS["ann"] + "\0"),
        "another case of the password": ("ann", PASSWORDS["ann"].upper()),
    }
    answers = {cause: seen(await refused(site, *claimed)) for cause, claimed in causes.items()}
    assert answers == dict.fromkeys(causes, REFUSED)


async def test_who_is_enabled_again_gets_in_again(site: Site) -> None:
    await site.disable("zoë", disabled=False)
    assert (await log_in(site, "zoë", PASSWORDS["zoë"])).token.username == "zoë"
    await site.disable("zoë")
    assert seen(await refused(site, "zoë", PASSWORDS["zoë"])) == REFUSED


@pytest.mark.parametrize(
    ("username", "password", "field"),
    [
        ("", "secret", "ldap.username"),
        ("ann", "", "ldap.password"),  # which many a directory would take for an anonymous login, and accept
        ("ann", "x" * 2000, "ldap.password"),
    ],
)
async def test_what_can_never_be_right_is_named(site: Site, username: str, password: str, field: str) -> None:
    error = await refused(site, username, password)
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)


async def test_a_registered_entry_takes_the_place_of_the_template(site: Site) -> None:
    """Also where the template would find somebody: that one is somebody else."""
    name = await site.add_user()
    assert seen(await refused(site, name, PASSWORDS["bob"])) == REFUSED
    await site.register(name, ldap_dn=f"uid=bob,{PEOPLE}")
    assert (await log_in(site, name, PASSWORDS["bob"])).token.username == name
    await site.register("ann", ldap_dn=f"uid=bob,{PEOPLE}")
    try:
        assert (await log_in(site, "ann", PASSWORDS["bob"])).token.username == "ann"
        assert seen(await refused(site, "ann", PASSWORDS["ann"])) == REFUSED
    finally:
        await site.register("ann", remove=True, ldap_dn=f"uid=bob,{PEOPLE}")
    await site.register(name, remove=True, ldap_dn=f"uid=bob,{PEOPLE}")
    assert seen(await refused(site, name, PASSWORDS["bob"])) == REFUSED


async def test_users_are_found_by_a_search(slapd: Slapd, database_url: str, tmp_path: Path) -> None:
    """By StartTLS as well, and one that finds two entries has found nobody."""
    environment = {
        "LDAP_URL": slapd.ldap,
        "LDAP_SEARCH_BASE": SUFFIX,
        "LDAP_BIND_DN": SEARCHER,
        "LDAP_BIND_PASSWORD": SEARCHER_PASSWORD,
        "LDAP_CA_FILE": str(slapd.ca_file),
    }
    async with open_site(database_url, tmp_path, environment=environment) as searching:
        for name in ("ann", "twin", "*"):
            await searching.add_user(name)
        assert (await log_in(searching, "ann", PASSWORDS["ann"])).token.username == "ann"
        for name, password in (("twin", PASSWORDS["twin"]), ("*", PASSWORDS["ann"]), ("ann", SEARCHER_PASSWORD)):
            assert seen(await refused(searching, name, password)) == REFUSED
        assert SEARCHER_PASSWORD not in searching.log.read_text()


async def test_a_site_without_ldap_says_so(database_url: str, tmp_path: Path) -> None:
    async with open_site(database_url, tmp_path) as plain:
        options = await plain.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
        error = await refused(plain, "ann", "secret")
    assert not options.ldap
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_OFFERED")


# --- a directory that is away ----------------------------------------------------------------------------------------


async def test_a_directory_that_is_away_costs_nobody_an_attempt(
    slapd_folder: Path, database_url: str, tmp_path: Path
) -> None:
    away = (grpc.StatusCode.UNAVAILABLE, "IDENTITY_PROVIDER_AWAY", "the LDAP server does not answer", "", (), 5.0)
    with Slapd(slapd_folder) as directory:
        async with open_site(database_url, tmp_path, environment=by_template(directory)) as site:
            await site.add_user("ann", password="here")
            await log_in(site, "ann", PASSWORDS["ann"])
            directory.kill()
            for number in range(ATTEMPTS + 5):
                # right, wrong or unknown: nobody can tell
                name, password = (("ann", PASSWORDS["ann"]), ("ann", "wrong"), ("nobody", "wrong"))[number % 3]
                assert seen(await refused(site, name, password)) == away
            # what was counted would be in the way now
            digest = await challenged(site.auth, "ann", "here")
            assert (await site.auth.Login(digest, timeout=PATIENCE)).token.username == "ann"
            assert await site.audit("ann", "LOGIN_THROTTLED") == []
            log = site.log.read_text()
    assert "LDAP away" in log  # the operator hears what the caller need not know
    assert str(directory.tls_port) in log


async def test_a_directory_that_hangs_is_away_after_a_while(
    slapd_folder: Path, database_url: str, tmp_path: Path
) -> None:
    with Slapd(slapd_folder) as directory:
        environment = by_template(directory) | {"LDAP_TIMEOUT": "0.5"}
        async with open_site(database_url, tmp_path, environment=environment) as site:
            directory.freeze()
            error = await refused(site, "ann", PASSWORDS["ann"])
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_PROVIDER_AWAY")


async def test_a_directory_with_a_strange_certificate_gets_no_password(
    slapd: Slapd, slapd_folder: Path, database_url: str, tmp_path: Path
) -> None:
    with Slapd(slapd_folder) as impostor:
        environment = by_template(slapd, impostor.ldaps)
        async with open_site(database_url, tmp_path, environment=environment) as site:
            error = await refused(site, "ann", PASSWORDS["ann"])
            assert "certificate is not trusted" in site.log.read_text()
        assert b"BIND" not in impostor.log.read_bytes()
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_PROVIDER_AWAY")


# --- guessing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
async def test_guesses_are_throttled_whether_or_not_there_is_such_a_user(site: Site, known: bool) -> None:
    name = fresh("guessed")
    if known:
        await site.add_user(name)
        await site.register(name, ldap_dn=f"uid=bob,{PEOPLE}")
    assert [(await refused(site, name, f"guess {number}")).reason for number in range(ATTEMPTS)] == [
        "LOGIN_REFUSED"
    ] * ATTEMPTS
    for password in ("one more", PASSWORDS["bob"]):  # it is not even looked at
        error = await refused(site, name, password)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOGIN_THROTTLED")
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 10
    # nobody else is in the way of anybody
    assert (await log_in(site, "ann", PASSWORDS["ann"])).token.username == "ann"
    (event,) = await site.audit(name, "LOGIN_THROTTLED")
    assert (event.actor, event.refused, event.method, event.peer) == (name, True, "ldap", "127.0.0.1")


async def test_whoever_logs_in_is_never_throttled(site: Site) -> None:
    for _ in range(ATTEMPTS + 2):
        await log_in(site, "ann", PASSWORDS["ann"])


# --- what is written down --------------------------------------------------------------------------------------------


async def test_the_audit_log_has_every_login_and_why_it_was_refused(site: Site) -> None:
    name, secret = await site.add_user(), "not the right one 8f1c"
    await site.register(name, ldap_dn=f"uid=bob,{PEOPLE}")
    reply = await log_in(site, name, PASSWORDS["bob"])
    await refused(site, name, secret)
    await site.disable(name)
    await refused(site, name, PASSWORDS["bob"])
    disabled, wrong, good = await site.audit(name)
    assert {(event.actor, event.subject, event.method, event.peer) for event in (disabled, wrong, good)} == {
        (name, name, "ldap", "127.0.0.1")
    }
    assert (good.refused, good.reason, set(good.detail)) == (False, "", {"session"})
    assert (wrong.refused, wrong.reason) == (True, "LOGIN_REFUSED: refused by LDAP")
    assert (disabled.refused, disabled.reason) == (True, "LOGIN_REFUSED: disabled")
    stranger = fresh("stranger")
    await refused(site, stranger, secret)
    (event,) = await site.audit(stranger)
    assert (event.actor, event.refused) == (stranger, True)
    # and nothing of a secret anywhere
    written = site.log.read_text() + repr([disabled, wrong, good, event])
    hidden = [secret, PASSWORDS["bob"], reply.token.token, reply.refresh_token]
    assert [text for text in hidden if text in written] == []


# --- plaintext -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "security", "private"),
    [
        ("ipv4:127.0.0.1:4711", b"insecure", True),
        ("ipv6:%5B::1%5D:4711", b"insecure", True),
        ("ipv6:[::1]:4711", b"insecure", True),
        ("unix:/run/drayman", b"insecure", True),
        ("ipv4:192.0.2.1:4711", b"ssl", True),
        ("ipv4:192.0.2.1:4711", b"tls", True),
        ("ipv4:192.0.2.1:4711", b"insecure", False),
        ("ipv4:12.7.0.1:4711", b"insecure", False),
        ("ipv6:%5B2001:db8::1%5D:4711", b"insecure", False),
        ("ipv6:%5B::1:2%5D:4711", b"insecure", False),
        ("", b"", False),
    ],
)
def test_what_others_can_read_is_known(slapd: Slapd, peer: str, security: bytes, private: bool) -> None:
    connection = cast("grpc.aio.ServicerContext[Any, Any]", Connection(peer, security))
    assert is_private(connection) is private
    environment = {f"DRAYMAN_{name}": text for name, text in by_template(slapd).items()}
    settings = LdapSettings.from_settings(Settings.from_environment(environment))
    assert settings is not None
    login = LdapLogin(settings)
    credential, call = pb.LdapCredential(username="ann", password="x"), Call(connection, None)
    strict, lax = (LdapProof(login, cast("Any", None), plaintext=asked_for) for asked_for in (False, True))
    try:
        lax.check_form(credential, call)
        if private:
            strict.check_form(credential, call)
        else:
            with pytest.raises(Refusal) as caught:
                strict.check_form(credential, call)
            assert (caught.value.reason, caught.value.code) == (
                "TLS_REQUIRED",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
    finally:
        login.close()
