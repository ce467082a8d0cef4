"""Users' secrets for their jobs: all of them, to services of the deployment only, as they are now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.auth.v1 import secret_service_pb2, secret_service_pb2_grpc
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.client.user_secrets import SecretClient
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.task.secrets_delivery import SecretDelivery
from drayman.testing import LocalStack
from service.task.closed_deployment import channel, closed_stack, identity


@pytest.fixture(scope="module")
def closed() -> Iterator[LocalStack]:
    with closed_stack() as stack:
        yield stack


@pytest_asyncio.fixture
async def delivery(closed: LocalStack) -> AsyncIterator[SecretDelivery]:
    async with channel(closed.url) as opened:
        yield SecretDelivery(opened, identity(closed))


async def test_a_users_secrets_as_they_are_now(closed: LocalStack, delivery: SecretDelivery) -> None:
    async with (
        SecretClient(closed.url, closed.token("ann")) as ann,
        SecretClient(closed.url, closed.token("bob")) as bob,
    ):
        assert await delivery.of("ann") == {}
        await ann.set("key", "first")
        await ann.set("file", "ü" * 10_000)
        await bob.set("key", "bob's")
        assert await delivery.of("ann") == {"key": "first", "file": "ü" * 10_000}
        await ann.set("key", "second")
        await ann.delete("file")
        assert await delivery.of("ann") == {"key": "second"}
        assert await delivery.of("bob") == {"key": "bob's"}


async def test_more_than_fits_into_a_message(closed: LocalStack, delivery: SecretDelivery) -> None:
    closed.add_user("rich")
    async with SecretClient(closed.url, closed.token("rich")) as rich:
        for number in range(30):
            await rich.set(f"k{number}", "ä" * 65_000)
    assert len(await delivery.of("rich")) == 30


@pytest.mark.parametrize("user", ["nobody", "", "'; DROP", "x" * 10_000])
async def test_nobodys_secrets(delivery: SecretDelivery, user: str) -> None:
    assert await delivery.of(user) == {}


@pytest.mark.parametrize("who", ["ann", "administrator", "nobody", "another deployment"])
async def test_users_are_not_given_any(closed: LocalStack, who: str) -> None:
    tokens = {
        "ann": closed.token("ann"),
        "administrator": closed.token(closed.admin[0]),
        "another deployment": ServiceIdentity("another key, of another deployment, as long").token(),
    }
    async with channel(closed.url) as opened:
        stub = secret_service_pb2_grpc.SecretServiceStub(opened)
        request = secret_service_pb2.DeliverSecretsRequest(username="ann")
        call = stub.DeliverSecrets(request, metadata=bearer(tokens[who]) if who in tokens else (), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            assert [secret async for secret in call] == []
    assert from_rpc_error(refused.value).reason in ("SERVICE_ONLY", "TOKEN_INVALID", "TOKEN_MISSING")


async def test_auth_that_is_away(closed: LocalStack) -> None:
    async with channel("grpc://127.0.0.1:9") as away:
        with pytest.raises(Refusal) as refused:
            await SecretDelivery(away, identity(closed)).of("ann")
    assert refused.value.reason == "UNAVAILABLE"
