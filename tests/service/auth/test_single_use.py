"""What serves once serves once, however many come at the same time and to whichever replica."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from drayman.client.challenge import answer_challenge
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.dispatch.v1 import project_service_pb2, project_service_pb2_grpc
from drayman.server.platform.embedded import EmbeddedPostgres
from service.auth.deployment import Deployment, deployed, lift_login_limits, new_database

AT_ONCE = 50
#: Calls that certainly meet, of those.
HELD_UP = 8
GRACE = 0.5
PASSWORD = "served once, not twice"


@pytest_asyncio.fixture(scope="module")
async def two_replicas(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    """Two processes on one database whose login limits do not get in the way."""
    folder = tmp_path_factory.mktemp("replicas")
    async with new_database(postgres) as dsn:
        with deployed(dsn, folder, 2, refresh_grace=str(GRACE)) as deployment:
            await lift_login_limits(dsn)
            yield deployment


@pytest_asyncio.fixture(scope="module")
async def channels(two_replicas: Deployment) -> AsyncIterator[list[grpc.aio.Channel]]:
    first, second = two_replicas.urls
    async with open_channel(first) as one, open_channel(second) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def replicas(channels: list[grpc.aio.Channel]) -> list[auth_service_pb2_grpc.AuthServiceStub]:
    return [auth_service_pb2_grpc.AuthServiceStub(channel) for channel in channels]


@asynccontextmanager
async def held_up(two_replicas: Deployment, table: str) -> AsyncIterator[None]:
    """Nobody writes into a table until as many calls wait for that as there can be: what was read before is then old for all of them."""
    connection = await asyncpg.connect(two_replicas.dsn)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
            yield
            async with asyncio.timeout(10):
                while await connection.fetchval(waiting) < HELD_UP:
                    await asyncio.sleep(0.01)
                    await connection.execute("SELECT pg_stat_clear_snapshot()")
    finally:
        await connection.close()


async def reason(call: object) -> str:
    """What the call was refused with, or an empty text."""
    try:
        await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return ""


def refreshing(token: str) -> pb.RefreshSessionRequest:
    return pb.RefreshSessionRequest(refresh_token=token, request_id=str(uuid4()))


async def test_a_nonce_lets_in_one_of_fifty(
    two_replicas: Deployment, replicas: list[auth_service_pb2_grpc.AuthServiceStub]
) -> None:
    # a nonce is nobody's; of one user alone only some would be let in at a time
    names = [two_replicas.add_user(PASSWORD) for _ in range(10)]
    for _ in range(5):
        challenge = await replicas[0].GetChallenge(pb.GetChallengeRequest(username=names[0]), timeout=10)
        # other bytes each time, and all of them right
        requests = [
            pb.LoginRequest(digest=answer_challenge(names[number % 10], PASSWORD, challenge)[0].credential)
            for number in range(0, AT_ONCE * 3, 3)
        ]
        async with held_up(two_replicas, "auth.used_nonce"):
            calls = [replicas[number % 2].Login(request, timeout=30) for number, request in enumerate(requests)]
        answers = await asyncio.gather(*map(reason, calls))
        assert Counter(answers) == {"": 1, "LOGIN_REFUSED": AT_ONCE - 1}


async def test_a_refresh_token_serves_one_of_fifty_and_the_session_lives(
    two_replicas: Deployment, replicas: list[auth_service_pb2_grpc.AuthServiceStub]
) -> None:
    name = two_replicas.add_user(PASSWORD)
    refresh_token = two_replicas.log_in(name, PASSWORD).refresh_token
    for _ in range(3):
        async with held_up(two_replicas, "auth.session"):
            calls = [
                replicas[number % 2].RefreshSession(refreshing(refresh_token), timeout=30) for number in range(AT_ONCE)
            ]
        assert Counter(await asyncio.gather(*map(reason, calls))) == {"": 1, "REFRESH_REFUSED": AT_ONCE - 1}
        replies = [await call for call in calls if await call.code() is grpc.StatusCode.OK]
        (reply,) = replies
        # the session goes on with what the one of them got
        token = reply.token.token
        for replica in replicas:
            info = await replica.GetAuthInfo(pb.GetAuthInfoRequest(), metadata=bearer(token), timeout=10)
            assert info.username == name
        refresh_token = reply.refresh_token


async def test_one_request_repeated_fifty_times_gets_one_refresh_token(
    two_replicas: Deployment, replicas: list[auth_service_pb2_grpc.AuthServiceStub]
) -> None:
    name = two_replicas.add_user(PASSWORD)
    request = refreshing(two_replicas.log_in(name, PASSWORD).refresh_token)
    replies = await asyncio.gather(
        *(replicas[number % 2].RefreshSession(request, timeout=30) for number in range(AT_ONCE))
    )
    (following,) = {reply.refresh_token for reply in replies}
    assert following != request.refresh_token
    assert await reason(replicas[1].RefreshSession(refreshing(following), timeout=10)) == ""


async def test_a_copy_that_is_used_later_ends_the_session_on_every_replica(
    two_replicas: Deployment,
    channels: list[grpc.aio.Channel],
    replicas: list[auth_service_pb2_grpc.AuthServiceStub],
) -> None:
    name = two_replicas.add_user(PASSWORD)
    first = two_replicas.log_in(name, PASSWORD)
    second = await replicas[0].RefreshSession(refreshing(first.refresh_token), timeout=10)
    used_at = time.monotonic()
    metadata = bearer(second.token.token)
    elsewhere = project_service_pb2_grpc.ProjectServiceStub(channels[1])
    search = project_service_pb2.ListProjectsRequest()
    assert await reason(elsewhere.ListProjects(search, metadata=metadata, timeout=10)) == ""
    # within the grace it is somebody who came second, and nothing happens
    assert await reason(replicas[1].RefreshSession(refreshing(first.refresh_token), timeout=10)) == "REFRESH_REFUSED"
    assert time.monotonic() - used_at < GRACE, "too slow to have tried within the grace"
    assert await reason(replicas[1].GetAuthInfo(pb.GetAuthInfoRequest(), metadata=metadata, timeout=10)) == ""
    await asyncio.sleep(GRACE + 0.2 - (time.monotonic() - used_at))  # nothing but time makes it late
    assert await reason(replicas[0].RefreshSession(refreshing(first.refresh_token), timeout=10)) == "REFRESH_REFUSED"
    # whoever has the newest tokens is out as well: here at once, and at the other replica soon
    assert await reason(replicas[0].RefreshSession(refreshing(second.refresh_token), timeout=10)) == "REFRESH_REFUSED"
    async with asyncio.timeout(3):
        while await reason(elsewhere.ListProjects(search, metadata=metadata, timeout=10)) != "TOKEN_REVOKED":
            await asyncio.sleep(0.05)
    for replica in replicas:
        answer = await reason(replica.GetAuthInfo(pb.GetAuthInfoRequest(), metadata=metadata, timeout=10))
        assert answer == "TOKEN_REVOKED"


async def test_refreshes_and_revocations_at_once_do_not_get_into_each_others_way(
    two_replicas: Deployment, channels: list[grpc.aio.Channel], replicas: list[auth_service_pb2_grpc.AuthServiceStub]
) -> None:
    """Both lock the user and the session. Whoever ends sessions succeeds, and whoever refreshes is told, if only that it is over."""
    name = two_replicas.add_user(PASSWORD)
    metadata = two_replicas.as_admin()
    everything = session_service_pb2.RevokeSessionsRequest(username=name, all=True)
    for _ in range(5):
        sessions = [two_replicas.log_in(name, PASSWORD).refresh_token for _ in range(10)]
        refreshes = [
            reason(replicas[number % 2].RefreshSession(refreshing(token), timeout=30))
            for number, token in enumerate(sessions)
        ]
        revocations = [
            reason(
                session_service_pb2_grpc.SessionServiceStub(channel).RevokeSessions(
                    everything, metadata=metadata, timeout=30
                )
            )
            for channel in channels
        ]
        answers = await asyncio.gather(*refreshes, *revocations)
        assert set(answers[: len(refreshes)]) <= {"", "REFRESH_REFUSED"}
        assert answers[len(refreshes) :] == ["", ""]
        listed = session_service_pb2.ListSessionsRequest(username=name)
        left = await session_service_pb2_grpc.SessionServiceStub(channels[0]).ListSessions(
            listed, metadata=metadata, timeout=10
        )
        assert len(left.sessions) == 0
