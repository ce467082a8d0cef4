"""No line of any log holds a password, a token or a key. This runs last, and speaks of the whole run."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio
import structlog

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import secret_service_pb2, secret_service_pb2_grpc, user_service_pb2
from drayman.client import digest
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.server.platform.embedded import EmbeddedPostgres
from log_watch import WATCH, LogWatch, is_telling
from service.auth.deployment import ADMIN, Deployment, deployed, new_database

PASSWORD = "never-in-a-log-4711"
KEY = bytes(range(100, 132))
HA1 = {name: hashlib.new(name, f"ann:drayman:{PASSWORD}".encode()).hexdigest() for name in ("sha256", "md5")}
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

PLANTED = {
    "a JWT": f'{{"event": "x", "value": "{JWT}"}}',
    "a refresh token": "drr_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY",
    "a bearer token": "authorization: Bearer opaque-0123456789",
    "a private key": "-----BEGIN PRIVATE KEY-----\\nMC4CAQAwBQYDK2Vw\\n-----END PRIVATE KEY-----",
    "a row with its values": "DETAIL:  Failing row contains (ann, SHA-256).",
    "a password": f"wrong password {PASSWORD}",
    "an HA1 (sha256)": f"secret {HA1['sha256']} of ann",
    "an HA1 (md5)": f"secret {HA1['md5']} of ann",
    "the value of DRAYMAN_SERVICE_KEY": "key is the-services-key-the-services-key",
    "a sealing key": f"opened with {base64.b64encode(KEY).decode()}",
}


def watch_of(log: Path, text: str) -> LogWatch:
    """A watch over one log, with what it has to know."""
    keys = log.parent / "secrets-keys"
    keys.write_text(f"# a comment\nk1 {base64.b64encode(KEY).decode()}\n")
    watch = LogWatch()
    watch.register_password("ann", "drayman", PASSWORD)
    watch.register_environment(
        {"DRAYMAN_SERVICE_KEY": "the-services-key-the-services-key", "DRAYMAN_LOG_LEVEL": "info"}
    )
    watch.follow(log, [keys])
    log.write_text(f"an ordinary line\n{text}\nanother one\n")
    watch.look()
    return watch


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_secret_is_found_and_not_repeated(tmp_path: Path, what: str) -> None:
    watch = watch_of(tmp_path / "log", PLANTED[what])
    assert [finding.partition(" in log: ")[0] for finding in watch.findings] == [what]
    assert "<HERE>" in watch.findings[0]
    for secret in (JWT, PASSWORD, *HA1.values(), base64.b64encode(KEY).decode(), "opaque-0123456789"):
        assert secret not in watch.findings[0]
    assert (watch.lines, watch.processes) == (3, 1)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    line = (
        "expected `authorization: Bearer <token>`; secrets-keys: key k1; password of ann; -----BEGIN CERTIFICATE-----"
    )
    assert watch_of(tmp_path / "log", line).findings == []


def test_lines_are_read_once_they_are_whole_and_counted_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    watch = watch_of(log, "harmless")
    with log.open("a") as file:
        file.write("half of it: drr_QUJDREVG")
        file.flush()
        watch.look()
        assert (watch.lines, watch.findings) == (3, [])
        file.write("R0hJSktM\n")
    watch.look()
    assert (watch.lines, len(watch.findings)) == (4, 1)
    # what turns out to be a secret later is looked for in what was read before
    watch.register("an ordinary line", "a phrase")
    watch.look()
    assert (watch.lines, len(watch.findings)) == (4, 2)


def test_what_the_tests_themselves_log_is_looked_at() -> None:
    before, found = WATCH.lines, len(WATCH.findings)
    password = f"{uuid4().hex} in-process"
    WATCH.register(password, "a planted password")
    structlog.get_logger().info("harmless")
    assert (WATCH.lines, len(WATCH.findings)) == (before + 1, found)
    structlog.get_logger().info("oh", text=f"he said {password}")
    planted = WATCH.findings[found:]
    del WATCH.findings[found:]
    assert len(planted) == 1
    assert planted[0].startswith("a planted password in the process of the tests")


def test_only_words_that_anybody_logs_are_not_looked_for() -> None:
    assert not any(map(is_telling, ("secret", "password", "new", "pw-1", "s3cret!")))
    assert all(map(is_telling, (PASSWORD, "hunter22", "a sentence of plain words")))


# --- a stack at its most talkative -----------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module")
async def talkative(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("talkative")
    async with new_database(postgres) as dsn:
        with deployed(dsn, folder, log_level="debug") as deployment:
            yield deployment


async def test_not_at_debug_level_and_not_of_a_defect(talkative: Deployment) -> None:
    stack, found = talkative, len(WATCH.findings)
    name = stack.add_user(PASSWORD)
    reply = await asyncio.to_thread(stack.log_in, name, PASSWORD)
    refused = []
    for attempt in (
        lambda: stack.log_in(name, f"not-{PASSWORD}"),
        lambda: stack.auth.GetAuthInfo(pb.GetAuthInfoRequest(), metadata=bearer(reply.token.token + "x"), timeout=10),
        lambda: stack.auth.Login(
            pb.LoginRequest(token=pb.TokenCredential(username="somebody", token=reply.token.token)), timeout=10
        ),
        # in the wrong field
        lambda: stack.auth.RefreshSession(
            pb.RefreshSessionRequest(refresh_token="drr_", request_id=reply.refresh_token), timeout=10
        ),
        lambda: stack.auth.RefreshSession(
            pb.RefreshSessionRequest(refresh_token=reply.refresh_token, request_id=reply.refresh_token), timeout=10
        ),
        lambda: stack.users.GetUser(
            user_service_pb2.GetUserRequest(username=reply.token.token[:200]), metadata=stack.as_admin(), timeout=10
        ),
        lambda: set_password_in_a_broken_database(stack, name),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(attempt)
        refused.append(from_rpc_error(caught.value).reason)
    assert refused == [
        "LOGIN_REFUSED",
        "TOKEN_INVALID",
        "FOREIGN_TOKEN_UNREGISTERED",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "USER_NOT_FOUND",
        "DEFECT",
    ]
    secrets = secret_service_pb2_grpc.SecretServiceStub(stack.channels[0])
    kept = f"kept-{uuid4().hex}"
    WATCH.register(kept, "a secret of a user")
    request = secret_service_pb2.SetSecretRequest(key="k", value=kept)
    secrets.SetSecret(request, metadata=bearer(reply.token.token), timeout=10)
    request.key = kept * 10  # too long, and in the wrong field
    with pytest.raises(grpc.RpcError):
        secrets.SetSecret(request, metadata=bearer(reply.token.token), timeout=10)

    WATCH.look()
    log = stack.logs[0].read_text()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("refused") >= 6, "the level is not debug"
    assert "defect" in events
    assert "violates check constraint" in log
    assert WATCH.findings[found:] == []
    # and these were looked for
    assert {PASSWORD, f"not-{PASSWORD}", digest.ha1(name, "drayman", PASSWORD), kept} <= WATCH.secrets.keys()
    assert "the value of DRAYMAN_SERVICE_KEY" in WATCH.secrets.values()
    assert "a sealing key" in WATCH.secrets.values()


def set_password_in_a_broken_database(stack: Deployment, name: str) -> None:
    """The database refuses what nobody expects it to, and says in full what that was."""

    async def break_it() -> None:
        connection = await asyncpg.connect(stack.dsn)
        await connection.execute("ALTER TABLE auth.digest_secret ADD CONSTRAINT broken CHECK (false) NOT VALID")
        await connection.close()

    metadata = stack.as_admin()
    asyncio.run(break_it())
    request = user_service_pb2.SetPasswordRequest(username=name)
    request.secrets.add(algorithm="SHA-256", realm="drayman", ha1=digest.ha1(name, "drayman", f"new-{PASSWORD}"))
    stack.users.SetPassword(request, metadata=metadata, timeout=10)


# --- the whole run ---------------------------------------------------------------------------------------------------


def test_no_process_of_the_suite_wrote_a_secret_into_its_log(talkative: Deployment) -> None:
    WATCH.look()
    assert WATCH.processes >= 1
    assert WATCH.lines >= 10
    assert ADMIN not in WATCH.secrets
    assert WATCH.findings == []
