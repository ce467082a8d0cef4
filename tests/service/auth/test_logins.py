"""Password logins over a real channel."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import grpc
import jwt
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client import AuthClient, DispatchClient, InvalidRequestError, UnauthenticatedError, digest
from drayman.client.auth import Secret
from drayman.client.challenge import answer_challenge
from drayman.client.channel import open_channel
from drayman.client.errors import from_rpc_error
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

REFUSED = ("LOGIN_REFUSED", "Authentication failed")


def fresh(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


@pytest_asyncio.fixture(scope="module")
async def admin(stack: LocalStack) -> AsyncIterator[AuthClient]:
    async with AuthClient(stack.url, stack.token(stack.admin[0]), timeout=30) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def auth(stack: LocalStack) -> AsyncIterator[auth_service_pb2_grpc.AuthServiceStub]:
    async with open_channel(stack.url) as channel:
        yield auth_service_pb2_grpc.AuthServiceStub(channel)


@pytest_asyncio.fixture
async def ann(admin: AuthClient) -> str:
    """A user whose password is `secret`."""
    name = fresh("ann")
    await admin.create_user(name, "secret")
    return name


async def challenged(
    auth: auth_service_pb2_grpc.AuthServiceStub, username: str, password: str = "secret"
) -> pb.LoginRequest:
    challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=username), timeout=10)
    return pb.LoginRequest(digest=answer_challenge(username, password, challenge)[0].credential)


async def outcome(auth: auth_service_pb2_grpc.AuthServiceStub, request: pb.LoginRequest) -> tuple[str, str]:
    try:
        reply = await auth.Login(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        assert isinstance(refusal, UnauthenticatedError | InvalidRequestError)
        return refusal.reason, refusal.message
    return "ok", reply.token.username


async def test_a_login_makes_a_session(stack: LocalStack, ann: str) -> None:
    async with AuthClient(stack.url) as client:
        session = await client.login(ann, "secret")
        info = await client.auth_info()
    assert session.username == info.username == ann
    assert session.expires == info.expires
    assert 3590 < (session.expires - datetime.now(UTC)).total_seconds() < 3602
    assert session.session_expires is not None
    assert 6.9 < (session.session_expires - datetime.now(UTC)).total_seconds() / 86400 < 7.1
    assert (info.admin, info.roles) == (False, ())
    claims = jwt.decode(session.token, options={"verify_signature": False})
    assert {"iss", "sub", "iat", "nbf", "exp", "jti", "sid", "ver", "adm", "roles"} == claims.keys()
    assert jwt.get_unverified_header(session.token)["alg"] == "EdDSA"


async def test_auth_info_tells_administrators_and_roles(stack: LocalStack, admin: AuthClient) -> None:
    name = fresh("eve")
    roles = sorted(fresh("role") for _ in range(3))
    await admin.create_user(name, "pw", admin=True, roles=roles[::-1], create_roles=True)
    async with AuthClient(stack.url) as client:
        await client.login(name, "pw")
        info = await client.auth_info()
    assert (info.admin, info.roles) == (True, tuple(roles))
    await admin.delete_user(name)


async def test_without_a_token_nobody_is_anybody(stack: LocalStack) -> None:
    async with AuthClient(stack.url) as client:
        with pytest.raises(UnauthenticatedError) as caught:
            await client.auth_info()
    assert caught.value.reason == "TOKEN_MISSING"


async def test_a_refusal_tells_nothing_about_its_cause(
    auth: auth_service_pb2_grpc.AuthServiceStub, admin: AuthClient, ann: str
) -> None:
    disabled, without = fresh("disabled"), fresh("without")
    await admin.create_user(disabled, "secret")
    await admin.update_user(disabled, disabled=True)
    await admin.create_user(without)
    causes = {
        "wrong password": await challenged(auth, ann, "wrong"),
        "empty password": await challenged(auth, ann, ""),
        "unknown user": await challenged(auth, fresh("nobody")),
        "disabled user": await challenged(auth, disabled),
        "no password": await challenged(auth, without),
        "impossible name": await challenged(auth, "a/b"),
        "name with NUL": await challenged(auth, "a\x00b"),
    }
    assert {cause: await outcome(auth, request) for cause, request in causes.items()} == dict.fromkeys(causes, REFUSED)
    assert await outcome(auth, await challenged(auth, ann)) == ("ok", ann)


async def test_a_challenge_does_not_tell_who_exists(auth: auth_service_pb2_grpc.AuthServiceStub, ann: str) -> None:
    shapes = set()
    for name in (ann, fresh("nobody"), "a/b"):
        challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=name), timeout=10)
        shapes.add((challenge.realm, len(challenge.nonce), tuple(challenge.algorithms)))
    assert len(shapes) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await auth.GetChallenge(pb.GetChallengeRequest(), timeout=10)
    assert from_rpc_error(caught.value).field == "username"


async def test_a_nonce_serves_once(auth: auth_service_pb2_grpc.AuthServiceStub, ann: str) -> None:
    request = await challenged(auth, ann)
    assert await outcome(auth, request) == ("ok", ann)
    assert await outcome(auth, request) == REFUSED


async def test_of_many_logins_with_one_nonce_exactly_one_wins(
    auth: auth_service_pb2_grpc.AuthServiceStub, stack: LocalStack
) -> None:
    for _ in range(3):
        name = fresh("many")  # more failures than these would be too many for one user
        stack.add_user(name, "secret")
        request = await challenged(auth, name)
        outcomes = await asyncio.gather(*(outcome(auth, request) for _ in range(10)))
        assert sorted(outcomes) == sorted([("ok", name), *[REFUSED] * 9])


async def test_a_wrong_password_does_not_use_up_the_nonce(
    auth: auth_service_pb2_grpc.AuthServiceStub, ann: str
) -> None:
    challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=ann), timeout=10)
    for password, expected in (("wrong", REFUSED), ("secret", ("ok", ann))):
        credential = answer_challenge(ann, password, challenge)[0].credential
        assert await outcome(auth, pb.LoginRequest(digest=credential)) == expected


async def test_a_nonce_of_another_user_serves_as_well_and_still_once(
    auth: auth_service_pb2_grpc.AuthServiceStub, ann: str
) -> None:
    challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=fresh("nobody")), timeout=10)
    request = pb.LoginRequest(digest=answer_challenge(ann, "secret", challenge)[0].credential)
    assert [await outcome(auth, request) for _ in range(2)] == [("ok", ann), REFUSED]


@pytest.mark.parametrize("nonce", ["rubbish", "é", "A" * 76])
async def test_a_nonce_that_was_never_given_out_is_refused(
    auth: auth_service_pb2_grpc.AuthServiceStub, ann: str, nonce: str
) -> None:
    challenge = pb.GetChallengeResponse(realm="drayman", nonce=nonce, algorithms=["SHA-256"])
    credential = answer_challenge(ann, "secret", challenge)[0].credential
    assert await outcome(auth, pb.LoginRequest(digest=credential)) == REFUSED


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("username", ""),
        ("nonce", ""),
        ("cnonce", ""),
        ("cnonce", "short"),
        ("algorithm", ""),
        ("algorithm", "sha-256"),
        ("algorithm", "SHA-512-256"),
        ("response", ""),
    ],
)
async def test_a_credential_with_a_part_missing_is_named(
    auth: auth_service_pb2_grpc.AuthServiceStub, ann: str, part: str, value: str
) -> None:
    request = await challenged(auth, ann)
    setattr(request.digest, part, value)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await auth.Login(request, timeout=10)
    error = from_rpc_error(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"digest.{part}")


async def test_no_credential_at_all(auth: auth_service_pb2_grpc.AuthServiceStub) -> None:
    assert (await outcome(auth, pb.LoginRequest()))[0] == "INVALID_FIELD"


async def test_an_imported_md5_hash_lets_its_user_in(stack: LocalStack, admin: AuthClient) -> None:
    """RFC 2617: H(username:realm:password) as htdigest files have it."""
    name = fresh("old")
    ha1 = hashlib.md5(f"{name}:drayman:pässword".encode(), usedforsecurity=False).hexdigest()
    await admin.create_user(name, secrets=[Secret("MD5", "drayman", ha1)])
    async with AuthClient(stack.url) as client:
        assert (await client.login(name, "pässword")).username == name
        with pytest.raises(UnauthenticatedError):
            await client.login(name, "password")
        # whoever sets a new password has a better hash from then on, and only that
        await client.login(name, "pässword")
        await client.set_password(name, "new")
        assert (await client.login(name, "new")).username == name
        with pytest.raises(UnauthenticatedError):
            await client.login(name, "pässword")


async def test_while_an_md5_hash_is_stored_it_is_offered_last_and_to_everybody(
    auth: auth_service_pb2_grpc.AuthServiceStub, admin: AuthClient, ann: str
) -> None:
    name = fresh("old")
    await admin.create_user(name, secrets=[Secret("MD5", "drayman", "0" * 32)])
    for username in (name, ann, fresh("nobody")):
        challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=username), timeout=10)
        assert list(challenge.algorithms) == ["SHA-256", "MD5"]
    # who has no MD5 hash cannot be forced down to it
    weak = answer_challenge(ann, "secret", challenge)[1].credential
    assert weak.algorithm == "MD5"
    assert await outcome(auth, pb.LoginRequest(digest=weak)) == REFUSED


@pytest.mark.parametrize(
    ("secret", "part"),
    [
        (Secret("MD5", "elsewhere", "0" * 32), "realm"),
        (Secret("SHA-256", "elsewhere", "0" * 64), "realm"),
        (Secret("SHA-256", "drayman", "0" * 32), "ha1"),
        (Secret("SHA-1", "drayman", "0" * 40), "algorithm"),
    ],
)
async def test_a_secret_that_could_never_be_checked_is_refused(
    admin: AuthClient, ann: str, secret: Secret, part: str
) -> None:
    for call in (admin.create_user(fresh("x"), secrets=[secret]), admin.set_password(ann, secrets=[secret])):
        with pytest.raises(InvalidRequestError) as caught:
            await call
        assert caught.value.field == f"secrets[0].{part}"
        assert secret.ha1 not in caught.value.message + str(caught.value.metadata)


async def test_one_algorithm_twice_is_refused(admin: AuthClient, ann: str) -> None:
    twice = [Secret("MD5", "drayman", "0" * 32)] * 2
    with pytest.raises(InvalidRequestError) as caught:
        await admin.set_password(ann, secrets=twice)
    assert caught.value.field == "secrets[1].algorithm"


async def test_what_is_secret_is_not_in_the_log(stack: LocalStack, ann: str) -> None:
    async with AuthClient(stack.url) as client:
        session = await client.login(ann, "secret")
        with pytest.raises(UnauthenticatedError):
            await client.login(ann, "wr0ng-passw0rd")
    log = stack.log.read_text()
    ha1 = digest.ha1(ann, "drayman", "secret")
    assert [hidden for hidden in (session.token, ha1, "wr0ng-passw0rd", stack.admin[1]) if hidden in log] == []


async def test_new_tokens_are_of_the_new_key_and_old_ones_stay_good(
    stack: LocalStack, auth: auth_service_pb2_grpc.AuthServiceStub, admin: AuthClient, ann: str
) -> None:
    async with AuthClient(stack.url) as client:
        before = (await client.login(ann, "secret")).token
        key_id = await admin.rotate_signing_key()
        after = (await client.login(ann, "secret")).token
    assert jwt.get_unverified_header(before)["kid"] != key_id
    assert jwt.get_unverified_header(after)["kid"] == key_id
    published = await auth.GetKeySet(pb.GetKeySetRequest(), timeout=10)
    keys = {key["kid"]: key for key in json.loads(published.jwks_json)["keys"]}
    assert {key_id, jwt.get_unverified_header(before)["kid"]} <= keys.keys()
    assert all("d" not in key for key in keys.values())
    for token in (before, after):
        claims = jwt.decode(
            token,
            jwt.PyJWK(keys[jwt.get_unverified_header(token)["kid"]]),
            algorithms=["EdDSA"],
            issuer=published.issuer,
        )
        assert claims["sub"] == ann
        async with AuthClient(stack.url, token) as client, DispatchClient(stack.url, token) as dispatch:
            assert (await client.auth_info()).username == ann
            assert (await dispatch.create_project([])).owner == ann


async def test_a_token_of_nobody_we_know_is_refused_by_every_service(stack: LocalStack, ann: str) -> None:
    forged = stack.token(ann)[:-8] + "AAAAAAAA"
    async with AuthClient(stack.url, forged) as client, DispatchClient(stack.url, forged) as dispatch:
        for call in (client.auth_info(), dispatch.create_project([])):
            with pytest.raises(UnauthenticatedError) as caught:
                await call
            assert caught.value.reason == "TOKEN_INVALID"
            assert forged not in caught.value.message


async def test_a_token_ends_when_it_says(stack: LocalStack, ann: str) -> None:
    async with AuthClient(stack.url, stack.token(ann, lifetime=0.1)) as client:
        expires = (await client.auth_info()).expires.timestamp()
        async with asyncio.timeout(10):
            while time.time() < expires:
                await asyncio.sleep(0.02)
        with pytest.raises(UnauthenticatedError) as caught:
            await client.auth_info()
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_token_outlives_neither_its_user_nor_their_disabling(stack: LocalStack, admin: AuthClient) -> None:
    name = fresh("gone")
    await admin.create_user(name)
    async with AuthClient(stack.url, stack.token(name)) as client:
        await client.auth_info()
        await admin.update_user(name, disabled=True)
        with pytest.raises(UnauthenticatedError):
            await client.auth_info()
        await admin.update_user(name, disabled=False)
        with pytest.raises(UnauthenticatedError) as caught:  # what was revoked stays so
            await client.auth_info()
        assert caught.value.reason == "TOKEN_REVOKED"
    async with AuthClient(stack.url, stack.token(name)) as client:
        await client.auth_info()
        await admin.delete_user(name)
        with pytest.raises(UnauthenticatedError):
            await client.auth_info()


async def test_an_expired_nonce_is_refused(database_url: str, tmp_path: Path) -> None:
    """A deployment whose nonces end almost at once, and of another realm."""
    environment = {
        "DRAYMAN_DATABASE_URL": database_url,
        "DRAYMAN_NONCE_LIFETIME": "0.05",
        "DRAYMAN_REALM": "metacat",
        "DRAYMAN_ADMIN_PASSWORD": "secret",
    }
    arguments = ["auth", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"]
    process = ServiceProcess(arguments, environment, tmp_path / "log")
    try:
        async with open_channel(process.await_ready(30)) as channel:
            auth = auth_service_pb2_grpc.AuthServiceStub(channel)
            challenge = await auth.GetChallenge(pb.GetChallengeRequest(username="admin"), timeout=10)
            assert challenge.realm == "metacat"
            async with asyncio.timeout(10):
                while time.time() < challenge.expire_time.ToNanoseconds() / 1e9:
                    await asyncio.sleep(0.01)
            request = pb.LoginRequest(digest=answer_challenge("admin", "secret", challenge)[0].credential)
            assert await outcome(auth, request) == REFUSED
    finally:
        assert process.terminate() == 0
