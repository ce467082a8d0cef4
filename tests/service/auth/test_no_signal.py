"""Nothing that auth answers, and nothing that it does meanwhile, tells a stranger which users there are.

Work is compared before time: the statements that reach PostgreSQL and the operations that reach the directory are counted, and the hashes.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc, session_service_pb2
from drayman.client.challenge import answer_challenge
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.server.auth import digest
from drayman.server.auth.digest_proof import DigestProof
from drayman.server.auth.nonces import Nonces
from drayman.server.auth.proof import NotProven
from drayman.server.auth.store import HERE, Store
from drayman.server.platform.calls import Call
from drayman.server.platform.database import migrate
from drayman.server.platform.embedded import EmbeddedPostgres
from grid import Grid, Identity
from issuer import Issuer
from service.auth.deployment import lift_login_limits, new_database
from service.auth.login_site import PATIENCE, Site, challenged, open_site
from slapd import SEARCHER, SEARCHER_PASSWORD, SUFFIX, Slapd

PASSWORD = "the right one"
AUDIENCE = "https://drayman.example"
#: Who may stand behind a name. The names are of one length, so that all else about them is the same, too.
HAS_PASSWORD, NO_PASSWORD, DISABLED, NOBODY = "with-pw", "without", "disable", "no-such"
NAMES = (HAS_PASSWORD, NO_PASSWORD, DISABLED, NOBODY)
#: Attempts of which the work is counted: far more than what happens beside them in that time.
COUNTED = 24
#: Rounds whose times are compared.
ROUNDS = 80

Attempt = Callable[[str], Awaitable[Any]]


@dataclass
class Watched:
    """A site whose work for a login is counted; every kind of login is offered, and login limits do not get in the way."""

    site: Site
    database: asyncpg.Connection
    slapd: Slapd
    issuer: Issuer
    certificate: Identity
    x509: grpc.aio.Channel

    async def statements(self, attempt: Attempt, name: str) -> dict[str, int]:
        """How often each statement runs for one attempt. What runs every second or so beside it is too rare to count."""
        await self.database.execute("SELECT pg_stat_statements_reset()")
        for _ in range(COUNTED):
            await attempt(name)
        rows = await self.database.fetch("SELECT query, sum(calls) AS calls FROM pg_stat_statements GROUP BY query")
        counts = {row["query"]: round(row["calls"] / COUNTED) for row in rows}
        return {query: count for query, count in counts.items() if count}

    async def operations(self, attempt: Attempt, name: str) -> Counter[str]:
        """What the directory is asked in one attempt, which is one connection; it writes that down a moment later."""
        before = self.slapd.log.stat().st_size
        await attempt(name)
        async with asyncio.timeout(PATIENCE):
            while True:
                written = self.slapd.log.read_bytes()[before:].decode(errors="replace")
                accepted = re.search(r"conn=(\d+) fd=\d+ ACCEPT", written)
                if accepted and re.search(rf"conn={accepted[1]} fd=\d+ closed", written):
                    return Counter(re.findall(rf"conn={accepted[1]} op=\d+ (BIND dn|SRCH base|STARTTLS)", written))
                await asyncio.sleep(0.01)


async def answer(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> tuple[Any, ...]:
    """All that a caller sees of a refusal."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        refusal = from_rpc_error(error)
        metadata = tuple(sorted(refusal.metadata.items()))
        shown = (error.code(), error.details(), refusal.reason, refusal.field, metadata, refusal.retry_after)
        return (
            *shown,
            sorted(trailing),
            trailing.get("grpc-status-details-bin"),
            sorted(dict(await call.initial_metadata())),
        )
    raise AssertionError(f"not refused: {reply}")


@pytest_asyncio.fixture(scope="module")
async def counting_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """A server that counts statements."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("counting") / "server", fsync=False)
    server.start()
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    await connection.close()
    server.stop()
    server.start()
    yield server
    server.destroy()


@pytest_asyncio.fixture(scope="module")
async def watched(
    counting_postgres: EmbeddedPostgres, slapd: Slapd, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    grid = Grid()
    certificate, key = grid.host().write(folder, "host")
    authorities = folder / "authorities.pem"
    authorities.write_bytes(grid.root_pem)
    with Issuer(folder) as issuer:
        issuers = folder / "issuers.toml"
        issuers.write_text(
            f'[[issuers]]\nissuer = "{issuer.url}"\naudiences = ["{AUDIENCE}"]\nca_file = "{issuer.ca_file}"\n'
        )
        settings = {
            "LDAP_URL": slapd.ldap,
            "LDAP_CA_FILE": str(slapd.ca_file),
            "LDAP_SEARCH_BASE": SUFFIX,
            "LDAP_BIND_DN": SEARCHER,
            "LDAP_BIND_PASSWORD": SEARCHER_PASSWORD,
            "TOKEN_ISSUERS": str(issuers),
            "TLS_CERT": str(certificate),
            "TLS_KEY": str(key),
            "X509_LISTEN": "127.0.0.1:0",
            "X509_CA": str(authorities),
        }
        async with (
            new_database(counting_postgres) as dsn,
            open_site(dsn, folder, roots=grid.root_pem, environment=settings) as site,
        ):
            await people(site)
            await lift_login_limits(dsn)
            stranger = grid.user("A stranger")
            port = (await site.auth.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=PATIENCE)).x509_port
            database = await asyncpg.connect(dsn)
            await database.execute("CREATE EXTENSION pg_stat_statements")
            async with site.open(port, stranger) as x509:
                yield Watched(site, database, slapd, issuer, stranger, x509)
            await database.close()


async def people(site: Site) -> None:
    await site.add_user(HAS_PASSWORD, password=PASSWORD)
    await site.add_user(NO_PASSWORD)
    await site.add_user(DISABLED, password=PASSWORD, disabled=True)


# --- the ways to try somebody out ------------------------------------------------------------------------------------


def by_digest(watched: Watched, password: str = "a guess") -> Attempt:
    async def attempt(name: str) -> tuple[Any, ...]:
        request = await challenged(watched.site.auth, name, password)
        return await answer(watched.site.auth.Login(request, timeout=PATIENCE))

    return attempt


def by_md5(watched: Watched) -> Attempt:
    async def attempt(name: str) -> tuple[Any, ...]:
        challenge = await watched.site.auth.GetChallenge(pb.GetChallengeRequest(username=name), timeout=PATIENCE)
        challenge.algorithms[:] = ["MD5"]
        credential = answer_challenge(name, "a guess", challenge)[0].credential
        return await answer(watched.site.auth.Login(pb.LoginRequest(digest=credential), timeout=PATIENCE))

    return attempt


def by_ldap(watched: Watched) -> Attempt:
    async def attempt(name: str) -> tuple[Any, ...]:
        request = pb.LoginRequest(ldap=pb.LdapCredential(username=name, password="a guess"))
        return await answer(watched.site.auth.Login(request, timeout=PATIENCE))

    return attempt


def by_token(watched: Watched) -> Attempt:
    """With a good token, which is not that user's."""
    token = watched.issuer.make_token(aud=AUDIENCE, sub="a-stranger")

    async def attempt(name: str) -> tuple[Any, ...]:
        request = pb.LoginRequest(token=pb.TokenCredential(username=name, token=token))
        return await answer(watched.site.auth.Login(request, timeout=PATIENCE))

    return attempt


def by_x509(watched: Watched) -> Attempt:
    """With a good certificate, which is not that user's."""
    stub = auth_service_pb2_grpc.AuthServiceStub(watched.x509)

    async def attempt(name: str) -> tuple[Any, ...]:
        return await answer(stub.Login(pb.LoginRequest(x509=pb.X509Credential(username=name)), timeout=PATIENCE))

    return attempt


WAYS = pytest.mark.parametrize("way", [by_digest, by_md5, by_ldap, by_token, by_x509])


def nameless(seen: tuple[Any, ...], name: str) -> str:
    """An answer, with the name that the caller gave taken out."""
    return repr(seen).replace(name, "NAME")


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_a_challenge_is_the_same_for_everybody(watched: Watched) -> None:
    seen = set()
    for name in (*NAMES, "no:name"):
        call = watched.site.auth.GetChallenge(pb.GetChallengeRequest(username=name), timeout=PATIENCE)
        reply = await call
        fields = tuple(field.name for field, _ in reply.ListFields())
        lifetime = reply.expire_time.seconds - int(time.time())
        assert 50 <= lifetime <= 60
        metadata = (*sorted(dict(await call.initial_metadata())), *sorted(dict(await call.trailing_metadata())))
        seen.add((fields, reply.realm, len(reply.nonce), tuple(reply.algorithms), metadata))
    assert len(seen) == 1


@WAYS
async def test_a_refused_login_is_answered_alike(watched: Watched, way: Callable[[Watched], Attempt]) -> None:
    attempt = way(watched)
    seen = {name: nameless(await attempt(name), name) for name in NAMES}
    assert len(set(seen.values())) == 1, seen


async def test_the_right_password_of_a_disabled_user_is_answered_like_a_wrong_one(watched: Watched) -> None:
    guess, right = by_digest(watched), by_digest(watched, PASSWORD)
    assert await right(DISABLED) == await guess(DISABLED) == await guess(NOBODY)


async def test_anothers_name_with_ones_own_session_token_is_answered_alike(watched: Watched) -> None:
    request = await challenged(watched.site.auth, HAS_PASSWORD, PASSWORD)
    own = (await watched.site.auth.Login(request, timeout=PATIENCE)).token.token
    seen = set()
    for name in (NO_PASSWORD, DISABLED, NOBODY):
        login = pb.LoginRequest(token=pb.TokenCredential(username=name, token=own))
        seen.add(nameless(await answer(watched.site.auth.Login(login, timeout=PATIENCE)), name))
    assert len(seen) == 1


def refresh_token(session: UUID) -> str:
    """One of that session, with a secret that nobody has given out."""
    return "drr_" + base64.urlsafe_b64encode(session.bytes + bytes(range(32))).decode()


async def sessions(watched: Watched) -> dict[str, UUID]:
    """Sessions that never were, were ended, are of somebody who has been disabled since, and that live."""
    site = watched.site
    ids = {"never": uuid4()}
    for kind in ("ended", "disabled", "alive"):
        name = await site.add_user(password=PASSWORD)
        reply = await site.auth.Login(await challenged(site.auth, name, PASSWORD), timeout=PATIENCE)
        ids[kind] = UUID((await site.info(reply.token.token)).session_id)
        if kind == "ended":
            await site.auth.Logout(pb.LogoutRequest(), metadata=bearer(reply.token.token), timeout=PATIENCE)
        if kind == "disabled":
            await site.disable(name)
    return ids


def by_refresh(watched: Watched, ids: Mapping[str, UUID]) -> Attempt:
    async def attempt(kind: str) -> tuple[Any, ...]:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token(ids[kind]), request_id=str(uuid4()))
        return await answer(watched.site.auth.RefreshSession(request, timeout=PATIENCE))

    return attempt


async def test_a_refused_refresh_does_not_tell_which_sessions_there_are(watched: Watched) -> None:
    ids = await sessions(watched)
    attempt = by_refresh(watched, ids)
    seen = {kind: await attempt(kind) for kind in ids}
    assert len({repr(each) for each in seen.values()}) == 1, seen
    work = {kind: await watched.statements(attempt, kind) for kind in ids}
    assert all(each == work["never"] for each in work.values()), difference(work)


async def test_the_real_refresh_token_of_a_disabled_user_is_answered_like_any(watched: Watched) -> None:
    site = watched.site
    name = await site.add_user(password=PASSWORD)
    reply = await site.auth.Login(await challenged(site.auth, name, PASSWORD), timeout=PATIENCE)
    await site.disable(name)
    seen = []
    for token in (reply.refresh_token, refresh_token(uuid4())):
        request = pb.RefreshSessionRequest(refresh_token=token, request_id=str(uuid4()))
        seen.append(await answer(site.auth.RefreshSession(request, timeout=PATIENCE)))
    assert seen[0] == seen[1]


async def test_what_is_for_administrators_is_refused_alike_whoever_it_is_about(watched: Watched) -> None:
    site = watched.site
    request = await challenged(site.auth, HAS_PASSWORD, PASSWORD)
    own = bearer((await site.auth.Login(request, timeout=PATIENCE)).token.token)
    seen = set()
    for name in (NO_PASSWORD, DISABLED, NOBODY):
        asked = session_service_pb2.ListSessionsRequest(username=name)
        seen.add(nameless(await answer(site.sessions.ListSessions(asked, metadata=own, timeout=PATIENCE)), name))
    assert len(seen) == 1


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_the_throttle_begins_at_the_same_attempt_and_says_the_same(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with new_database(postgres) as dsn, open_site(dsn, tmp_path) as site:
        await people(site)
        seen: dict[str, list[tuple[Any, ...]]] = {name: [] for name in NAMES}
        for _ in range(13):
            for name in NAMES:
                call = site.auth.Login(await challenged(site.auth, name, "a guess"), timeout=PATIENCE)
                *shown, wait, keys, _, initial = await answer(call)
                # a token comes back every ten seconds
                assert wait is None or 0 < wait <= 10
                seen[name].append((*shown, wait is None, keys, initial))
        assert [each[2] for each in seen[NOBODY]] == ["LOGIN_REFUSED"] * 10 + ["LOGIN_THROTTLED"] * 3
        assert all(each == seen[NOBODY] for each in seen.values())


# --- work and time ---------------------------------------------------------------------------------------------------


def difference(work: Mapping[str, Mapping[str, int]]) -> str:
    """What runs for some more often than for others."""
    every = {query for each in work.values() for query in each}
    lines = [
        f"{query}\n    {counts}"
        for query in sorted(every)
        if len(set((counts := {kind: each.get(query, 0) for kind, each in work.items()}).values())) > 1
    ]
    return "\n".join(lines)


@WAYS
async def test_a_refused_login_costs_the_database_the_same(watched: Watched, way: Callable[[Watched], Attempt]) -> None:
    attempt = way(watched)
    work = {name: await watched.statements(attempt, name) for name in NAMES}
    assert work[NOBODY], "nothing was counted"
    assert all(each == work[NOBODY] for each in work.values()), difference(work)


async def test_a_refused_login_costs_the_directory_the_same(watched: Watched) -> None:
    """`ann` and `bob` are in the directory, and only `ann` is a user; the others are not in it."""
    await watched.site.add_user("ann")
    attempt = by_ldap(watched)
    work = {name: await watched.operations(attempt, name) for name in ("ann", "bob", *NAMES)}
    assert work[NOBODY]["BIND dn"] >= 2
    assert all(each == work[NOBODY] for each in work.values()), work


async def test_a_refused_login_takes_the_same_hashes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(database_url, "auth", HERE / "migrations")
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await pool.execute(
            "INSERT INTO auth.user (name, disabled) VALUES ($1, false), ($2, false), ($3, true)", *NAMES[:3]
        )
        for name in (HAS_PASSWORD, DISABLED):
            secret = digest.Secret("SHA-256", "drayman", hashlib.sha256(name.encode()).hexdigest())
            await pool.execute(
                "INSERT INTO auth.digest_secret (username, algorithm, realm, ha1) VALUES ($1, $2, $3, $4)",
                *(name, secret.algorithm, secret.realm, secret.ha1),
            )
        nonces = Nonces(b"k" * 32, 60)
        proof = DigestProof(Store(pool), nonces, "drayman")
        work = {}
        for name in NAMES:
            nonce, _ = nonces.new(time.time())
            credential = pb.DigestCredential(
                username=name, nonce=nonce, cnonce="c" * 32, algorithm="SHA-256", response="0" * 64
            )
            calls: Counter[str] = Counter()

            def count(_frame: object, event: str, function: Any, calls: Counter[str] = calls) -> None:
                if event == "c_call" and function.__module__ in ("_hashlib", "_operator"):
                    calls[function.__name__] += 1

            sys.setprofile(count)
            try:
                await proof.prove(credential, cast("Call", None))
            except NotProven:
                work[name] = calls
            finally:
                sys.setprofile(None)
    assert work[NOBODY]["compare_digest"] == 2  # of the nonce and of the response
    assert work[NOBODY]["new"] == 4
    assert all(calls == work[NOBODY] for calls in work.values()), work


async def test_a_refused_login_takes_the_same_time(watched: Watched) -> None:
    """Medians of rounds in which all take turns: what disturbs one, disturbs all.

    The bound is a third of a login. What could make the difference, a statement or a transaction more or a slow hash, takes longer, and
    what the tests above count is the same for all; a scheduler does not get a median of so many so far away.
    """
    attempt = by_digest(watched)
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for name in NAMES:
        await attempt(name)
    gc.collect()
    for round_ in range(ROUNDS):
        for place in range(len(NAMES)):
            name = NAMES[(round_ + place) % len(NAMES)]  # nobody is always first
            began = time.perf_counter()
            await attempt(name)
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    least = min(medians.values())
    assert max(medians.values()) - least < least / 3, medians
