"""Two replicas and one database: what one announces the other hears."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest_asyncio

from drayman.server.platform.wakeups import WakeupBus

PATIENCE = 15.0


class Ear:
    """A bus and what it heard."""

    def __init__(self, dsn: str) -> None:
        self.bus = WakeupBus(dsn, "test")
        self.words: list[str] = []
        self.missed = asyncio.Event()
        self._news = asyncio.Event()
        self.bus.subscribe(self._hear, self.missed.set)

    def _hear(self, word: str) -> None:
        self.words.append(word)
        self._news.set()

    async def hears(self, word: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while word not in self.words:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[Ear]:
    ear = Ear(dsn)
    await ear.bus.start()
    try:
        yield ear
    finally:
        await ear.bus.stop()


@pytest_asyncio.fixture
async def payloads(database_url: str) -> AsyncIterator[list[str]]:
    """Every single notification on the channel."""
    seen: list[str] = []
    connection = await asyncpg.connect(database_url)
    await connection.add_listener("test", lambda *event: seen.append(event[-1]))
    yield seen
    await connection.close()


async def test_the_others_hear_and_the_speaker_does_not(database_url: str) -> None:
    async with listening(database_url) as one, listening(database_url) as two, listening(database_url) as three:
        one.bus.announce("p1")
        await two.hears("p1")
        await three.hears("p1")
        two.bus.announce("p2")
        await one.hears("p2")
        assert one.words == ["p2"]


async def test_what_is_announced_together_is_told_at_once(database_url: str, payloads: list[str]) -> None:
    async with listening(database_url) as one, listening(database_url) as two:
        for number in range(1000):
            one.bus.announce(f"p{number % 10}")
        await two.hears("p9")
        assert two.words == [f"p{number}" for number in range(10)]
        one.bus.announce("end")
        await two.hears("end")
        await reached(lambda: len(payloads) >= 2)
        assert len(payloads) == 2


async def test_a_steady_stream_of_announcements_is_gathered(database_url: str, payloads: list[str]) -> None:
    loop = asyncio.get_running_loop()
    async with listening(database_url) as one, listening(database_url) as two:
        end = loop.time() + 0.2
        announced = 0
        while loop.time() < end:
            one.bus.announce(f"p{announced % 50}")
            announced += 1
            await asyncio.sleep(0)
        one.bus.announce("the-end")
        await two.hears("the-end")
        assert announced > 200
        # one a pause, one for the beginning, one for the end
        assert 2 <= len(payloads) <= 12
        assert set(two.words) == {f"p{number}" for number in range(50)} | {"the-end"}


async def test_many_words_do_not_exceed_what_one_notification_carries(database_url: str, payloads: list[str]) -> None:
    async with listening(database_url) as one, listening(database_url) as two:
        words = [f"p{10**12 + number}" for number in range(2000)]
        for word in words:
            one.bus.announce(word)
        for word in words:
            await two.hears(word)
        assert sorted(two.words) == sorted(words)
    assert max(map(len, payloads)) < 8000


async def test_who_lost_the_connection_is_told_and_hears_again(database_url: str) -> None:
    async with listening(database_url) as one, listening(database_url) as two:
        await cut(database_url)
        async with asyncio.timeout(PATIENCE):
            await one.missed.wait()
            await two.missed.wait()
        one.bus.announce("p5")
        await two.hears("p5")


async def test_a_cut_in_the_middle_of_announcing_does_not_end_the_bus(database_url: str) -> None:
    async with listening(database_url) as one, listening(database_url) as two:
        for number in range(3):
            two.missed.clear()
            cutting = asyncio.create_task(cut(database_url))
            while not cutting.done():
                one.bus.announce("noise")
                await asyncio.sleep(0)
            await cutting
            async with asyncio.timeout(PATIENCE):
                await two.missed.wait()
            # told again and again, because the speaker's own connection may still be on its way back
            word = f"p{number}"
            async with asyncio.timeout(PATIENCE):
                while word not in two.words:
                    one.bus.announce(word)
                    await asyncio.sleep(0.01)


async def test_what_waits_is_told_before_the_end(database_url: str) -> None:
    async with listening(database_url) as two:
        async with listening(database_url) as one:
            one.bus.announce("last")
        await two.hears("last")


async def test_it_can_be_stopped_twice_and_without_a_start(database_url: str) -> None:
    bus = WakeupBus(database_url, "test")
    await bus.stop()
    await bus.start()
    await bus.stop()
    await bus.stop()


async def cut(dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'drayman wakeups' AND datname = current_database()"
        )
    finally:
        await connection.close()


async def reached(condition: Callable[[], bool], pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await pause(0.005)
