"""Asking again while a service is away."""

import grpc
import pytest

from drayman.client.errors import DraymanError, NotFoundError, UnavailableError
from drayman.worker.persistence import persist


def away() -> DraymanError:
    return UnavailableError("away", code=grpc.StatusCode.UNAVAILABLE)


async def test_until_it_is_there() -> None:
    problems = [away(), away()]

    async def call() -> str:
        if problems:
            raise problems.pop()
        return "well"

    assert await persist(call) == "well"


async def test_not_for_ever() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise away()

    with pytest.raises(UnavailableError):
        await persist(call, 0.3)
    assert calls > 1


async def test_a_no_is_a_no() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise NotFoundError("none", code=grpc.StatusCode.NOT_FOUND)

    with pytest.raises(NotFoundError):
        await persist(call)
    assert calls == 1
