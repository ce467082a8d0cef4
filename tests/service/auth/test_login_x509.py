"""Logins by X.509 certificate over real channels: what grids have, and what strangers try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from cryptography.x509.oid import NameOID

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.errors import DraymanError
from drayman.server.platform.embedded import EmbeddedPostgres
from grid import INDEPENDENT, LIMITED, Grid, Identity
from service.auth.deployment import new_database
from service.auth.login_site import PATIENCE, Site, challenged, fresh, open_site, refusal, relay, seen

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DAY = 86400.0
ATTEMPTS = 10  # that one user may fail in a row from one address


class Certified:
    """A site with a port for certificates, and the authority behind them."""

    def __init__(self, site: Site, grid: Grid, port: int) -> None:
        self.site = site
        self.grid = grid
        self.port = port

    async def log_in(self, identity: Identity | None, username: str = "", port: int = 0) -> pb.LoginResponse:
        async with self.site.open(port or self.port, identity) as channel:
            reply: pb.LoginResponse = await login(channel, username)
        return reply

    async def refused(self, identity: Identity | None, username: str = "", port: int = 0) -> DraymanError:
        async with self.site.open(port or self.port, identity) as channel:
            return await refusal(login(channel, username))

    async def add_user(self, identity: Identity | None = None, **registered: Any) -> str:
        """Create a user, for whom the subject of a certificate is registered."""
        if identity is not None:
            registered = {"x509_dn": slashed(identity)}
        return await self.site.add_user(**registered)


async def login(channel: grpc.aio.Channel, username: str = "") -> Any:
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    return await stub.Login(pb.LoginRequest(x509=pb.X509Credential(username=username)), timeout=PATIENCE)


def slashed(identity: Identity) -> str:
    """The subject as grids write it."""
    short = {NameOID.DOMAIN_COMPONENT: "DC", NameOID.ORGANIZATION_NAME: "O", NameOID.COMMON_NAME: "CN"}
    return "".join(f"/{short[part.oid]}={part.value!s}" for part in identity.certificate.subject)


@asynccontextmanager
async def open_certified(
    dsn: str, folder: Path, grid: Grid, authorities: Path, **environment: str
) -> AsyncIterator[Certified]:
    certificate, key = grid.host().write(folder, "host")
    settings = {
        "TLS_CERT": str(certificate),
        "TLS_KEY": str(key),
        "X509_LISTEN": "127.0.0.1:0",
        "X509_CA": str(authorities),
        **environment,
    }
    async with open_site(dsn, folder, roots=grid.root_pem, environment=settings) as site:
        options = await site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
        yield Certified(site, grid, options.x509_port)


@pytest_asyncio.fixture(scope="module")
async def certified(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Certified]:
    folder = tmp_path_factory.mktemp("certified")
    grid = Grid()
    authorities = folder / "authorities.pem"
    authorities.write_bytes(grid.root_pem)
    async with new_database(postgres) as dsn, open_certified(dsn, folder, grid, authorities) as running:
        yield running


# --- who gets in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["/DC=org/DC=grid/O=Site/CN={}", "CN={},O=Site,DC=grid,DC=org"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_certificate_logs_in_whom_it_is_registered_for(
    certified: Certified, spelling: str, named: bool
) -> None:
    jane = fresh("Jane Doe")
    name = await certified.add_user(x509_dn=spelling.format(jane))
    reply = await certified.log_in(certified.grid.user(jane), name if named else "")
    assert reply.token.username == name
    assert reply.refresh_token
    assert not reply.rspauth
    info = await certified.site.info(reply.token.token)
    assert info.username == name
    session = await certified.site.session(name)
    assert (session.session_id, session.method) == (info.session_id, "x509")
    (event,) = await certified.site.audit(name)
    assert (event.subject, event.method, event.refused) == (name, "x509", False)
    assert event.detail["certificate"] == f"CN={jane},O=Site,DC=grid,DC=org"


async def test_numbers_in_a_name_do_not_count(certified: Certified) -> None:
    """Authorities number people of one name, and renumber them."""
    jane = fresh("Jane Doe")
    name = await certified.add_user(x509_dn=f"/DC=org/DC=grid/O=Site/CN={jane}/CN=12345")
    for number in ("12345", "67890"):
        parts = [[(NameOID.COMMON_NAME, jane)], [(NameOID.COMMON_NAME, number)]]
        for username in (name, ""):
            assert (await certified.log_in(certified.grid.user(parts=parts), username)).token.username == name
    assert (await certified.log_in(certified.grid.user(jane))).token.username == name


async def test_proxies_log_in_their_owner(certified: Certified) -> None:
    grid = certified.grid
    owner = grid.user(fresh("Jane Doe"))
    proxy = grid.proxy(owner)
    name = await certified.add_user(owner)
    for identity in (proxy, grid.proxy(proxy), grid.proxy(owner, policy=LIMITED), grid.proxy(grid.proxy(proxy))):
        for username in (name, ""):
            assert (await certified.log_in(identity, username)).token.username == name


async def test_without_a_name_it_is_the_one_user_of_the_certificate(certified: Certified) -> None:
    shared = certified.grid.user(fresh("Robot"))
    first = await certified.add_user(shared)
    assert (await certified.log_in(shared)).token.username == first
    second = await certified.add_user(shared)
    error = await certified.refused(shared)
    assert (error.code, error.reason) == (UNAUTHENTICATED, "CERTIFICATE_UNREGISTERED")
    assert "exactly one user" in error.message
    for name in (first, second):
        assert (await certified.log_in(shared, name)).token.username == name


# --- who does not ----------------------------------------------------------------------------------------------------


async def test_what_is_wrong_with_a_certificate_is_told(certified: Certified) -> None:
    grid = certified.grid
    name = fresh("Jane Doe")
    owner, mallory = grid.user(name), grid.user("Mallory")
    user = await certified.add_user(owner)
    elsewhere = Grid()  # the same names, another key
    cases = {
        "expired": (grid.user(name, days=(-10, -1)), "CERTIFICATE_EXPIRED", "expired on"),
        "not yet valid": (grid.user(name, days=(1, 10)), "CERTIFICATE_EXPIRED", "not valid before"),
        "expired proxy": (grid.proxy(owner, days=(-2, -1)), "CERTIFICATE_EXPIRED", "the proxy certificate"),
        "proxy of an expired one": (
            grid.proxy(grid.user(name, days=(-10, -1))),
            "CERTIFICATE_EXPIRED",
            f"the certificate CN={name}",
        ),
        "of another authority": (elsewhere.user(name), "CERTIFICATE_UNTRUSTED", "issued by"),
        "proxy of another authority": (
            elsewhere.proxy(elsewhere.user(name)),
            "CERTIFICATE_UNTRUSTED",
            "issued by",
        ),
        "signed by a user": (grid.user(name, signer=mallory), "CERTIFICATE_UNTRUSTED", "not an authority's"),
        "forged proxy": (grid.proxy(owner, signing_key=mallory.key), "CERTIFICATE_UNTRUSTED", "proxy"),
        "proxy without rights": (
            grid.proxy(owner, policy=INDEPENDENT),
            "CERTIFICATE_UNTRUSTED",
            "does not pass on its owner's rights",
        ),
        "proxy of an old kind": (grid.legacy_proxy(owner), "CERTIFICATE_UNTRUSTED", "-rfc"),
    }
    for cause, (identity, reason, text) in cases.items():
        for username in (user, ""):
            error = await certified.refused(identity, username)
            assert (error.code, error.reason) == (UNAUTHENTICATED, reason), cause
            assert text in error.message, cause
            assert name in error.metadata["identity"], cause
    events = await certified.site.audit(user)
    assert len(events) == len(cases)
    assert {(event.refused, event.method) for event in events} == {(True, "x509")}
    assert events[-1].reason.startswith("CERTIFICATE_EXPIRED: ")


async def test_a_good_certificate_of_somebody_else_tells_nothing_about_users(certified: Certified) -> None:
    mine, strange = certified.grid.user(fresh("Jane Doe")), certified.grid.user(fresh("Mallory"))
    name, unknown, disabled = await certified.add_user(mine), fresh("nobody"), await certified.add_user(strange)
    await certified.site.disable(disabled)
    answers = set()
    for username in (name, unknown, "a/b", disabled):
        error = await certified.refused(strange, username)
        assert (error.code, error.reason) == (UNAUTHENTICATED, "CERTIFICATE_UNREGISTERED")
        assert f"for user {username}" in error.message
        answers.add(tuple(str(part).replace(username, "NAME") for part in seen(error)))
    assert len(answers) == 1
    # the log of administrators knows more
    reasons = [(await certified.site.audit(who))[0].reason for who in (name, disabled)]
    assert reasons == ["CERTIFICATE_UNREGISTERED: not registered", "CERTIFICATE_UNREGISTERED: disabled"]
    # and without a name it is nobody's
    assert (await certified.refused(certified.grid.user(fresh("Mallory")))).reason == "CERTIFICATE_UNREGISTERED"


async def test_what_is_registered_no_longer_lets_nobody_in(certified: Certified) -> None:
    jane = certified.grid.user(fresh("Jane Doe"))
    name = await certified.add_user(jane)
    await certified.log_in(jane, name)
    await certified.site.register(name, remove=True, x509_dn=slashed(jane))
    for username in (name, ""):
        assert (await certified.refused(jane, username)).reason == "CERTIFICATE_UNREGISTERED"


async def test_a_certificate_must_be_shown_and_on_its_own_port(certified: Certified) -> None:
    jane = certified.grid.user(fresh("Jane Doe"))
    name = await certified.add_user(jane)
    # no certificate on the port for them; none, and one that nobody asked for, on the other port
    for identity, port in ((None, certified.port), (None, certified.site.port), (jane, certified.site.port)):
        error = await certified.refused(identity, name, port)
        assert (error.code, error.reason) == (UNAUTHENTICATED, "CERTIFICATE_MISSING")
        assert "no client certificate" in error.message
        assert error.metadata == {"port": str(certified.port)}


async def test_a_connection_from_the_same_port_number_is_nobody_elses(certified: Certified) -> None:
    """Whoever is on the same machine can have the port number of Jane's connection, towards another port."""
    jane = certified.grid.user(fresh("Jane Doe"))
    name = await certified.add_user(jane)
    tried = 0
    async with certified.site.open(certified.port, jane) as channel:
        assert (await login(channel, name)).token.username == name
        for number in _own_connections(certified.site.process.pid):
            async with relay(certified.site.port, own_port=number) as entrance, certified.site.open(entrance) as thief:
                error = await refusal(login(thief, name))
            # a number that cannot be had gives no connection, and no reason
            assert error.reason in ("CERTIFICATE_MISSING", ""), error
            tried += error.reason != ""
    assert tried


def _own_connections(pid: int) -> list[int]:
    """Local port numbers of the connections over loopback that a process has, where one can look."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        names = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        pytest.skip("the connections of a process cannot be seen here")
    rows = [line.split() for line in lines]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in names]


# --- how long it lasts -----------------------------------------------------------------------------------------------


async def test_a_session_ends_with_the_certificate_or_later_by_the_usual_time(certified: Certified) -> None:
    grid = certified.grid
    owner = grid.user(fresh("Jane Doe"))
    name = await certified.add_user(owner)
    before = time.time()
    reply = await certified.log_in(owner, name)
    expires = owner.certificate.not_valid_after_utc.timestamp()
    assert seconds(reply.session_end_time) == pytest.approx(expires, abs=0.01)
    assert before + 7 * DAY <= seconds(reply.session_expire_time) <= time.time() + 7 * DAY
    # half a day of a proxy begins a usual session, whose refreshes do not move its end
    reply = await certified.log_in(grid.proxy(owner), name)
    end = seconds(reply.session_end_time)
    assert before + 7 * DAY <= end <= time.time() + 7 * DAY
    request = pb.RefreshSessionRequest(refresh_token=reply.refresh_token, request_id=str(uuid4()))
    refreshed = await certified.site.auth.RefreshSession(request, timeout=PATIENCE)
    assert seconds(refreshed.session_end_time) == pytest.approx(end, abs=0.001)
    assert refreshed.session_expire_time.ToMicroseconds() <= refreshed.session_end_time.ToMicroseconds()
    assert refreshed.token.username == name


def seconds(stamp: Any) -> float:
    return float(stamp.ToNanoseconds() / 1e9)


# --- from where ------------------------------------------------------------------------------------------------------


async def test_the_address_is_the_client_s_and_not_that_of_the_hop_behind_the_port(certified: Certified) -> None:
    jane = certified.grid.user(fresh("Jane Doe"))
    name = await certified.add_user(jane)
    async with relay(certified.port, source="127.0.0.9") as entrance:
        async with certified.site.open(entrance, jane) as channel:
            reply = await login(channel, name)
            stub = auth_service_pb2_grpc.AuthServiceStub(channel)
            request = pb.RefreshSessionRequest(refresh_token=reply.refresh_token, request_id=str(uuid4()))
            await stub.RefreshSession(request, timeout=PATIENCE)
            replay = pb.RefreshSessionRequest(refresh_token="drr_rubbish", request_id=str(uuid4()))
            assert (await refusal(stub.RefreshSession(replay, timeout=PATIENCE))).field == "refresh_token"
        await certified.refused(certified.grid.user(fresh("Mallory")), name, entrance)
    refused, good = await certified.site.audit(name)
    assert (good.peer, good.refused, refused.peer, refused.refused) == ("127.0.0.9", False, "127.0.0.9", True)
    assert (await certified.site.session(name)).peer == "127.0.0.9"


async def test_guesses_through_the_port_for_certificates_count_for_the_address_of_the_client(
    certified: Certified,
) -> None:
    name = await certified.site.add_user(password="secret")
    async with relay(certified.port, source="127.0.0.10") as entrance, certified.site.open(entrance) as channel:
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)

        async def guess(password: str) -> str:
            return (await refusal(stub.Login(await challenged(stub, name, password), timeout=PATIENCE))).reason

        assert [await guess("wrong") for _ in range(ATTEMPTS)] == ["LOGIN_REFUSED"] * ATTEMPTS
        assert await guess("secret") == "LOGIN_THROTTLED"
    request = await challenged(certified.site.auth, name, "secret")
    assert (await certified.site.auth.Login(request, timeout=PATIENCE)).token.username == name


# --- revocation lists ------------------------------------------------------------------------------------------------


async def test_a_revoked_certificate_is_refused(database_url: str, tmp_path: Path) -> None:
    grid = Grid()
    good, revoked = grid.user("Jane Doe"), grid.user("John Doe")
    folder = grid.write_hashed(tmp_path / "authorities", grid.revocation_list(revoked))
    async with open_certified(database_url, tmp_path, grid, folder, X509_CRLS="true") as certified:
        names = [await certified.add_user(identity) for identity in (good, revoked)]
        assert (await certified.log_in(good)).token.username == names[0]
        assert (await certified.log_in(grid.proxy(good))).token.username == names[0]
        for identity in (revoked, grid.proxy(revoked)):
            error = await certified.refused(identity, names[1])
            assert (error.code, error.reason) == (UNAUTHENTICATED, "CERTIFICATE_UNTRUSTED")
            assert "was revoked by its issuer" in error.message


async def test_without_a_list_nobody_is_taken_where_lists_are_asked_for(database_url: str, tmp_path: Path) -> None:
    grid = Grid()
    jane = grid.user("Jane Doe")
    folder = grid.write_hashed(tmp_path / "authorities")
    async with open_certified(database_url, tmp_path, grid, folder, X509_CRLS="true") as certified:
        name = await certified.add_user(jane)
        error = await certified.refused(jane, name)
    assert error.reason == "CERTIFICATE_UNTRUSTED"
    assert "no revocation list" in error.message


async def test_a_site_without_the_port_says_so(database_url: str, tmp_path: Path) -> None:
    async with open_site(database_url, tmp_path) as plain:
        error = await refusal(login(plain.channel))
        options = await plain.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_OFFERED")
    assert options.x509_port == 0


async def test_many_certificates_at_once_are_not_mixed_up(certified: Certified) -> None:
    people = [certified.grid.user(fresh("Jane Doe")) for _ in range(10)]
    names = [await certified.add_user(identity) for identity in people]
    replies = await asyncio.gather(*(certified.log_in(identity) for identity in people * 2))
    assert [reply.token.username for reply in replies] == names * 2
