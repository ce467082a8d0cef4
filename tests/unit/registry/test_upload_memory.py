import asyncio

import pytest

from drayman.server.registry.upload_memory import Memory


async def test_who_exceeds_it_waits_and_the_first_comes_first() -> None:
    memory = Memory(100)
    order: list[int] = []

    async def take(number: int, size: int) -> None:
        await memory.take(size)
        order.append(number)

    await take(0, 60)
    tasks = [asyncio.create_task(take(1, 60)), asyncio.create_task(take(2, 10))]
    await asyncio.sleep(0)
    assert order == [0]  # a small one does not pass a large one by
    memory.give_back(60)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert memory.used == 70


async def test_what_is_larger_than_all_of_it_gets_through_alone() -> None:
    memory = Memory(100)
    await memory.take(1)
    large = asyncio.create_task(memory.take(500))
    await asyncio.sleep(0)
    assert not large.done()
    memory.give_back(1)
    await large
    memory.give_back(500)
    assert memory.used == 0


async def test_who_goes_takes_nothing_along() -> None:
    memory = Memory(100)
    await memory.take(100)
    waiting = asyncio.create_task(memory.take(50))
    going = asyncio.create_task(memory.take(50))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    memory.give_back(100)
    # its turn has come, and it goes in the same moment
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert memory.used == 0
