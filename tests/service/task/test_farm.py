"""The farm: what workers offer, and credentials."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from drayman.task.v1 import farm_service_pb2
from service.task.workshop import Workshop, workshop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url) as running:
        yield running


async def offers(shop: Workshop, software: str = "") -> list[tuple[str, str, list[str]]]:
    reply = await shop.farm().ListOffers(farm_service_pb2.ListOffersRequest(software=software), timeout=10)
    return [(offer.site, offer.platform, list(offer.software)) for offer in reply.offers]


async def test_offers_are_seen_once_each(shop: Workshop) -> None:
    pilot = shop.pilot("ann")
    for _ in range(3):
        await pilot.take(site="CERN", platform="x86_64-el9", software=["b", "a", "a"])
        await pilot.take(site="BNL")
    async with asyncio.timeout(10):
        while len(found := await offers(shop)) < 2:
            await asyncio.sleep(0.02)
    assert found == [("BNL", "", []), ("CERN", "x86_64-el9", ["a", "b"])]
    assert await offers(shop, "b") == [("CERN", "x86_64-el9", ["a", "b"])]
    await shop.pool.execute("UPDATE task.offer SET seen_at = now() - interval '2 hours'")
    assert await offers(shop) == []
    await pilot.take(site="BNL")  # within a minute of the last one: not written again
    assert await offers(shop) == []


async def test_the_credential_that_lasts_longest(shop: Workshop) -> None:
    farm = shop.farm()

    async def register(user: str, name: str, hours: float | None, **more: Any) -> None:
        request = farm_service_pb2.RegisterCredentialRequest(name=name, **more)
        if hours is not None:
            request.expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=hours))
        await farm.RegisterCredential(request, metadata=shop.login(user), timeout=10)

    async def get(user: str) -> Any:
        return await farm.GetCredential(farm_service_pb2.GetCredentialRequest(), metadata=shop.login(user), timeout=10)

    assert (await get("ann")).name == ""
    await register("ann", "short", 1, origin="host", repository="myproxy")
    await register("ann", "usual", None)
    await register("bob", "his", 100)
    found = await get("ann")
    left = found.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert (found.name, timedelta(hours=11) < left < timedelta(hours=13)) == ("usual", True)
    await register("ann", "short", 50, origin="other", repository="myproxy")
    found = await get("ann")
    assert (found.name, found.origin, found.repository) == ("short", "other", "myproxy")
    await shop.pool.execute("UPDATE task.credential SET expires_at = now() WHERE owner = 'ann'")
    assert (await get("ann")).name == ""
    for name, hours, more in (("", 1, {}), ("x", -1, {}), ("x" * 1001, 1, {}), ("x", 1, {"origin": "\x00"})):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await register("ann", name, hours, **more)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    request = farm_service_pb2.RegisterCredentialRequest(name="x", expire_time=Timestamp(seconds=2**60))
    with pytest.raises(grpc.aio.AioRpcError):
        await farm.RegisterCredential(request, metadata=shop.login("ann"), timeout=10)
