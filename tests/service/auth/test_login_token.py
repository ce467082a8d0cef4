"""Logins by tokens over real channels: those of issuers that run over HTTPS on loopback, and those of the deployment itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc
import jwt
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import user_service_pb2
from drayman.client.credentials import bearer
from drayman.client.errors import DraymanError, from_rpc_error
from drayman.server.auth.issuers import Issuers
from drayman.server.auth.token_proof import TokenProof
from drayman.server.platform.calls import Call
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.errors import Refusal
from issuer import Issuer, new_key, public_pem
from service.auth.connections import Connection
from service.auth.deployment import new_database
from service.auth.login_site import PATIENCE, Site, fresh, open_site, refusal, seen

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
AUDIENCE = "https://drayman.example.org"
LEEWAY = 5


class Tokens:
    """A site and the issuers whose tokens it takes: `oidc`, whose subjects are names of users, `wlcg`, where they are not, `scitokens`."""

    def __init__(self, site: Site, issuers: dict[str, Issuer]) -> None:
        self.site = site
        self.issuers = issuers

    def make(self, profile: str, user: str, **claims: Any) -> str:
        """A good token but for the given claims."""
        wanted = {"aud": AUDIENCE} | ({"scope": "compute.create"} if profile != "oidc" else {}) | claims
        return self.issuers[profile].make_token(profile, sub=user, **wanted)


async def log_in(site: Site, token: str, username: str = "") -> pb.LoginResponse:
    request = pb.LoginRequest(token=pb.TokenCredential(username=username, token=token))
    reply: pb.LoginResponse = await site.auth.Login(request, timeout=PATIENCE)
    return reply


async def refused(site: Site, token: str, username: str = "") -> DraymanError:
    return await refusal(log_in(site, token, username))


def table(issuer: Issuer, profile: str, **further: str) -> str:
    """A table of the file of issuers."""
    lines = {
        "issuer": f'"{issuer.url}"',
        "profile": f'"{profile}"',
        "audiences": f'["{AUDIENCE}"]',
        "ca_file": f'"{issuer.ca_file}"',
        "leeway": str(LEEWAY),
        **further,
    }
    return "[[issuers]]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())


def write_issuers(path: Path, *tables: str) -> dict[str, str]:
    path.write_text("\n".join(tables))
    return {"TOKEN_ISSUERS": str(path)}


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Issuer]]:
    folder = tmp_path_factory.mktemp("issuers")
    with Issuer(folder, "/realms/site") as oidc, Issuer(folder) as wlcg, Issuer(folder) as scitokens:
        yield {"oidc": oidc, "wlcg": wlcg, "scitokens": scitokens}


@pytest_asyncio.fixture(scope="module")
async def tokens(
    postgres: EmbeddedPostgres, issuers: dict[str, Issuer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tokens]:
    folder = tmp_path_factory.mktemp("tokens")
    environment = write_issuers(
        folder / "issuers.toml",
        table(issuers["oidc"], "oidc", client_id='"drayman-cli"', device_scopes='["openid", "offline_access"]'),
        table(issuers["wlcg"], "wlcg", username_claim='""', required_scopes='["compute.create"]'),
        table(issuers["scitokens"], "scitokens", required_scopes='["compute.create"]'),
    )
    async with new_database(postgres) as dsn, open_site(dsn, folder, environment=environment) as site:
        yield Tokens(site, issuers)


def seconds(stamp: Any) -> float:
    return float(stamp.ToNanoseconds() / 1e9)


# --- who gets in -----------------------------------------------------------------------------------------------------


async def test_the_options_tell_which_issuers_there_are(tokens: Tokens) -> None:
    options = await tokens.site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
    listed = {issuer.issuer: issuer for issuer in options.token_issuers}
    assert listed.keys() == {issuer.url for issuer in tokens.issuers.values()}
    oidc = listed[tokens.issuers["oidc"].url]
    assert (list(oidc.audiences), oidc.client_id, list(oidc.scopes)) == (
        [AUDIENCE],
        "drayman-cli",
        ["openid", "offline_access"],
    )
    assert listed[tokens.issuers["wlcg"].url].client_id == ""


@pytest.mark.parametrize("profile", ["oidc", "scitokens"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_token_logs_in_the_user_whom_it_names(tokens: Tokens, profile: str, named: bool) -> None:
    name = await tokens.site.add_user()
    reply = await log_in(tokens.site, tokens.make(profile, name), name if named else "")
    assert reply.token.username == name
    info = await tokens.site.info(reply.token.token)
    assert info.username == name
    session = await tokens.site.session(name)
    assert (session.session_id, session.method, session.peer) == (info.session_id, "token", "127.0.0.1")
    (event,) = await tokens.site.audit(name)
    assert (event.method, event.refused) == ("token", False)
    assert (event.detail["issuer"], event.detail["subject"]) == (tokens.issuers[profile].url, name)


@pytest.mark.parametrize("profile", ["oidc", "wlcg", "scitokens"])
async def test_a_registered_subject_logs_in_its_user(tokens: Tokens, profile: str) -> None:
    issuer, subject = tokens.issuers[profile], str(uuid4())
    subjects: dict[str, Any] = {"token_subject": user_service_pb2.TokenSubject(issuer=issuer.url, subject=subject)}
    name = await tokens.site.add_user(**subjects)
    token = tokens.make(profile, subject)
    for username in (name, ""):
        assert (await log_in(tokens.site, token, username)).token.username == name
    # the same subject of another issuer is somebody else
    other = "oidc" if profile == "wlcg" else "wlcg"
    assert (await refused(tokens.site, tokens.make(other, subject), name)).reason == "FOREIGN_TOKEN_UNREGISTERED"
    # two users: it has to be said which
    second = await tokens.site.add_user(**subjects)
    assert (await refused(tokens.site, token)).reason == "FOREIGN_TOKEN_UNREGISTERED"
    assert (await log_in(tokens.site, token, second)).token.username == second
    await tokens.site.register(second, remove=True, **subjects)
    assert (await refused(tokens.site, token, second)).reason == "FOREIGN_TOKEN_UNREGISTERED"


# --- who does not ----------------------------------------------------------------------------------------------------


async def test_what_is_wrong_with_a_token_is_told(tokens: Tokens) -> None:
    name, now = await tokens.site.add_user(), int(time.time())
    oidc = tokens.issuers["oidc"]
    stranger = new_key("ES256")
    own = next(iter(oidc.keys.values()))[1]
    cases = {
        "expired": (tokens.make("oidc", name, exp=now - 60), "EXPIRED", "expired"),
        "not valid yet": (tokens.make("oidc", name, nbf=now + 60), "EXPIRED", "immature"),
        "issued too long ago": (tokens.make("oidc", name, iat=now - 8 * 86400), "EXPIRED", "expired"),
        "without an end": (tokens.make("oidc", name, exp=None), "REFUSED", "malformed"),
        "for somebody else": (tokens.make("oidc", name, aud="https://elsewhere.example.org"), "REFUSED", "audience"),
        "for nobody": (tokens.make("scitokens", name, aud=None), "REFUSED", "audience"),
        "without the scope": (tokens.make("wlcg", name, scope="storage.read:/"), "REFUSED", "scope"),
        "of another profile": (oidc.make_token("oidc", sub=name, iss=tokens.issuers["wlcg"].url), "REFUSED", ""),
        "signed by a stranger": (oidc.make_token(sub=name, aud=AUDIENCE, key=stranger), "REFUSED", "signature"),
        "not signed": (oidc.make_token(sub=name, aud=AUDIENCE, algorithm="none"), "REFUSED", "algorithm"),
        "signed with what is public": (
            oidc.make_token(sub=name, aud=AUDIENCE, algorithm="HS256", key=public_pem(own)),
            "REFUSED",
            "algorithm",
        ),
        "garbage": ("garbage", "REFUSED", "malformed"),
        "nested garbage": (f"{'W1tb' * 900}.{'W1tb' * 900}.W10", "REFUSED", "malformed"),
        "changed": (tampered(tokens.make("oidc", "nobody"), sub=name), "REFUSED", "signature"),
    }
    for cause, (token, kind, why) in cases.items():
        error = await refused(tokens.site, token, name)
        assert (error.code, error.reason) == (UNAUTHENTICATED, f"FOREIGN_TOKEN_{kind}"), cause
        assert error.metadata["why"] == why or not why, cause
        assert token not in error.message, cause
    events = await tokens.site.audit(name)
    assert len(events) == len(cases)
    assert {(event.refused, event.method) for event in events} == {(True, "token")}
    written = tokens.site.log.read_text() + repr(events)
    assert [cause for cause, (token, _, _) in cases.items() if token in written and cause != "garbage"] == []


def tampered(token: str, **claims: Any) -> str:
    """The same token with other claims and the old signature."""
    header, _, signature = token.split(".")
    said = jwt.decode(token, options={"verify_signature": False}) | claims
    body = jwt.encode(said, "a key of 32 characters, or longer", algorithm="HS256").split(".")[1]
    return f"{header}.{body}.{signature}"


async def test_an_issuer_that_is_not_configured_is_refused_unasked(tokens: Tokens, tmp_path: Path) -> None:
    name = await tokens.site.add_user()
    with Issuer(tmp_path) as strange:
        error = await refused(tokens.site, strange.make_token(sub=name, aud=AUDIENCE), name)
        assert strange.requests.total() == 0
    assert (error.code, error.reason, error.metadata["why"]) == (UNAUTHENTICATED, "FOREIGN_TOKEN_REFUSED", "issuer")


async def test_a_good_token_of_somebody_else_tells_nothing_about_users(tokens: Tokens) -> None:
    name, disabled = await tokens.site.add_user(), await tokens.site.add_user()
    await tokens.site.disable(disabled)
    unknown = fresh("nobody")
    strange = tokens.make("oidc", "somebody else")
    answers = set()
    for username in (name, unknown, disabled, "a/b"):
        error = await refused(tokens.site, strange, username)
        assert (error.code, error.reason) == (UNAUTHENTICATED, "FOREIGN_TOKEN_UNREGISTERED")
        answers.add(tuple(str(part).replace(username, "NAME") for part in seen(error)))
    assert len(answers) == 1
    # nor does one's own token if there is no such user, or one who may not log in
    answers = set()
    for username in (unknown, disabled):
        for claimed in (username, ""):
            error = await refused(tokens.site, tokens.make("oidc", username), claimed)
            assert error.reason == "FOREIGN_TOKEN_UNREGISTERED"
            if claimed:
                answers.add(tuple(str(part).replace(username, "NAME") for part in seen(error)))
    assert len(answers) == 1
    # where subjects are no names, a subject that is one is nobody
    assert (await refused(tokens.site, tokens.make("wlcg", name), name)).reason == "FOREIGN_TOKEN_UNREGISTERED"
    assert (await refused(tokens.site, tokens.make("wlcg", name))).reason == "FOREIGN_TOKEN_UNREGISTERED"


@pytest.mark.parametrize("token", ["", "x" * 16385])
async def test_what_can_never_be_right_is_named(tokens: Tokens, token: str) -> None:
    error = await refused(tokens.site, token)
    assert (error.reason, error.field) == ("INVALID_FIELD", "token.token")


# --- how long it lasts -----------------------------------------------------------------------------------------------


async def refresh(site: Site, refresh_token: str) -> pb.RefreshSessionResponse:
    request = pb.RefreshSessionRequest(refresh_token=refresh_token, request_id=str(uuid4()))
    reply: pb.RefreshSessionResponse = await site.auth.RefreshSession(request, timeout=PATIENCE)
    return reply


async def test_a_session_ends_with_its_token_however_often_it_is_refreshed(tokens: Tokens) -> None:
    name = await tokens.site.add_user()
    # once of less and once of more than a session token lasts
    for lifetime in (600, 3 * 86400):
        end = int(time.time()) + lifetime
        reply: Any = await log_in(tokens.site, tokens.make("oidc", name, exp=end))
        for _ in range(3):
            assert seconds(reply.session_end_time) == end
            assert seconds(reply.session_expire_time) == end
            assert seconds(reply.token.expire_time) <= end
            claims = jwt.decode(reply.token.token, options={"verify_signature": False})
            assert claims["exp"] == seconds(reply.token.expire_time)
            reply = await refresh(tokens.site, reply.refresh_token)


async def test_when_the_token_has_ended_nothing_goes_on(tokens: Tokens) -> None:
    name = await tokens.site.add_user()
    end = int(time.time()) + 2
    reply = await log_in(tokens.site, tokens.make("oidc", name, exp=end))
    assert seconds(reply.session_end_time) == end
    async with asyncio.timeout(PATIENCE):
        while time.time() <= end:
            await asyncio.sleep(0.05)
    assert (await refusal(tokens.site.info(reply.token.token))).reason == "TOKEN_EXPIRED"
    assert (await refusal(refresh(tokens.site, reply.refresh_token))).reason == "REFRESH_REFUSED"


async def test_what_is_accepted_within_the_leeway_ends_with_it(tokens: Tokens) -> None:
    name = await tokens.site.add_user()
    end = int(time.time()) - 1
    reply = await log_in(tokens.site, tokens.make("oidc", name, exp=end))
    assert seconds(reply.session_end_time) == end + LEEWAY
    assert seconds(reply.token.expire_time) <= end + LEEWAY


# --- tokens of the deployment itself ---------------------------------------------------------------------------------


async def own_token(site: Site, name: str, lifetime: int = 600) -> str:
    request = user_service_pb2.IssueTokenRequest(username=name)
    request.lifetime.FromSeconds(lifetime)
    reply = await site.users.IssueToken(request, metadata=await site.as_admin(), timeout=PATIENCE)
    token: str = reply.token.token
    return token


async def test_a_session_token_of_the_deployment_is_a_proof_until_it_ends(tokens: Tokens) -> None:
    name, other = await tokens.site.add_user(), await tokens.site.add_user()
    token = await own_token(tokens.site, name)
    end = jwt.decode(token, options={"verify_signature": False})["exp"]
    for username in (name, ""):
        reply: Any = await log_in(tokens.site, token, username)
        assert reply.token.username == name
        assert seconds(reply.session_end_time) == end
    reply = await refresh(tokens.site, reply.refresh_token)
    assert seconds(reply.session_end_time) == end
    assert seconds(reply.token.expire_time) <= end
    for username in (other, fresh("nobody")):
        assert (await refused(tokens.site, token, username)).reason == "FOREIGN_TOKEN_UNREGISTERED"


async def test_a_session_token_that_is_good_no_more_proves_nothing(tokens: Tokens) -> None:
    name = await tokens.site.add_user()
    token = await own_token(tokens.site, name)
    for forged in (tampered(token, adm=True), tampered(token, sub="admin"), f"{token.rpartition('.')[0]}."):
        error = await refused(tokens.site, forged)
        assert (error.code, error.reason) == (UNAUTHENTICATED, "TOKEN_INVALID")
    await tokens.site.auth.Logout(pb.LogoutRequest(), metadata=bearer(token), timeout=PATIENCE)
    await revoked(tokens.site, token)
    token = await own_token(tokens.site, name, lifetime=1)
    end = jwt.decode(token, options={"verify_signature": False})["exp"]
    async with asyncio.timeout(PATIENCE):
        while time.time() <= end:
            await asyncio.sleep(0.05)
    assert (await refused(tokens.site, token)).reason == "TOKEN_EXPIRED"
    token = await own_token(tokens.site, name)
    await tokens.site.disable(name)
    await revoked(tokens.site, token)


async def revoked(site: Site, token: str) -> None:
    """Wait until it has got about that a token is revoked: then it proves nothing."""
    async with asyncio.timeout(PATIENCE):
        while await _reason(site, token) != "TOKEN_REVOKED":
            await asyncio.sleep(0.05)
    error = await refused(site, token)
    assert (error.code, error.reason) == (UNAUTHENTICATED, "TOKEN_REVOKED")


async def _reason(site: Site, token: str) -> str:
    try:
        await site.info(token)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return ""


# --- issuers that go away and come back ------------------------------------------------------------------------------


async def test_an_issuer_that_is_away_says_nothing_about_the_token(database_url: str, tmp_path: Path) -> None:
    """When it is back, with another key, its tokens are good again, without a restart; those of a withdrawn key are not."""
    with Issuer(tmp_path) as issuer:
        issuer.fault = "error"
        environment = write_issuers(tmp_path / "issuers.toml", table(issuer, "oidc"))
        async with open_site(database_url, tmp_path, environment=environment) as site:
            name = await site.add_user()
            for token in (issuer.make_token(sub=name, aud=AUDIENCE), issuer.make_token(sub="nobody", aud=AUDIENCE)):
                error = await refused(site, token)
                assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_PROVIDER_AWAY")
                assert error.retry_after == 5.0
            assert [event.refused for event in await site.audit(name)] == []
            issuer.fault = ""
            old = list(issuer.keys)[-1]
            assert (await when_asked_again(site, issuer.make_token(sub=name, aud=AUDIENCE))).token.username == name
            issuer.rotate()
            assert (await log_in(site, issuer.make_token(sub=name, aud=AUDIENCE, key_id=old))).token.username == name
            new = issuer.make_token(sub=name, aud=AUDIENCE)
            issuer_asked = issuer.requests.total()
            assert (await refused(site, new)).reason == "FOREIGN_TOKEN_REFUSED"  # its keys were read a moment ago
            assert issuer.requests.total() == issuer_asked
            withdrawn = issuer.make_token(sub=name, aud=AUDIENCE, key_id=old)
            issuer.withdraw(old)
            assert (await when_asked_again(site, new)).token.username == name
            error = await refused(site, withdrawn)
            assert (error.reason, error.metadata["why"]) == ("FOREIGN_TOKEN_REFUSED", "signature")
            issuer.fault = "drop"
            # what is known of it serves on
            assert (await log_in(site, new)).token.username == name


async def when_asked_again(site: Site, token: str) -> pb.LoginResponse:
    """Log in as soon as the issuer's keys are read again, which is at most every ten seconds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await log_in(site, token)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.25)


async def test_a_site_without_issuers_takes_its_own_tokens_only(
    database_url: str, issuers: dict[str, Issuer], tmp_path: Path
) -> None:
    async with open_site(database_url, tmp_path) as plain:
        name = await plain.add_user()
        assert (await log_in(plain, await own_token(plain, name))).token.username == name
        error = await refused(plain, issuers["oidc"].make_token(sub=name))
        options = await plain.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
    assert (error.reason, error.metadata["why"]) == ("FOREIGN_TOKEN_REFUSED", "issuer")
    assert not options.token_issuers


# --- plaintext -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peer", "private"), [("ipv4:127.0.0.1:4711", True), ("ipv4:192.0.2.1:4711", False)])
def test_a_token_does_not_travel_where_others_could_read_it(peer: str, private: bool) -> None:
    call = Call(cast("Any", Connection(peer)), None)
    nothing = cast("Any", None)  # the form is all that is looked at
    strict, lax = (TokenProof(Issuers([]), nothing, "drayman", nothing, plaintext=asked) for asked in (False, True))
    credential = pb.TokenCredential(token="x")
    lax.check_form(credential, call)
    if private:
        strict.check_form(credential, call)
    else:
        with pytest.raises(Refusal) as caught:
            strict.check_form(credential, call)
        assert caught.value.reason == "TLS_REQUIRED"
