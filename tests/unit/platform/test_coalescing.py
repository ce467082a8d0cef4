"""Batches that form by themselves."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.platform.coalescing import Coalescing
from drayman.server.platform.wishes import Wish, Wishes


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one() -> None:
    batches: list[tuple[str, list[int]]] = []
    go_on = asyncio.Event()

    async def work(key: str, items: list[int]) -> list[int]:
        batches.append((key, items))
        await go_on.wait()
        return [item * 10 for item in items]

    queue = Coalescing[str, int, int]("numbers", work, largest=3)
    first = queue.submit("a", [1])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [queue.submit("a", [2, 3]), queue.submit("a", [4]), queue.submit("a", [5, 6, 7, 8])]
    other = queue.submit("b", [9])
    go_on.set()
    assert [await first, *[await done for done in rest], await other] == [[10], [20, 30], [40], [50, 60, 70, 80], [90]]
    assert [items for key, items in batches if key == "a"] == [[1], [2, 3, 4], [5, 6, 7, 8]]
    assert [items for key, items in batches if key == "b"] == [[9]]
    await queue.stop()


async def test_a_batch_that_fails_fails_for_those_in_it_only() -> None:
    async def work(_key: int, items: list[int]) -> list[int]:
        if 1 in items:
            raise ValueError("one")
        return items

    queue = Coalescing[int, int, int]("numbers", work)
    bad = queue.submit(0, [1])
    with pytest.raises(ValueError, match="one"):
        await bad
    assert await queue.submit(0, [2]) == [2]
    gone = queue.submit(0, [3])
    gone.cancel()
    assert await queue.submit(0, [4]) == [4]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20))
def test_wishes_keep_their_order_and_their_number(moves: list[tuple[str, bool]]) -> None:
    book = Wishes[Wish]()
    there: list[Wish] = []
    for number, (kind, takes) in enumerate(moves):
        if takes and any(wish.kind == kind for wish in there):
            oldest = next(wish for wish in there if wish.kind == kind)
            assert book.pop_first(kind) is oldest
            there.remove(oldest)
        else:
            wish = Wish("w", kind, 1, None, now_or_never=False)
            wish.number = number
            book.put(wish)
            there.append(wish)
        assert len(book) == len(there)
        assert book.kinds() == list(dict.fromkeys(wish.kind for wish in there))
    for wish in there:
        assert book.remove(wish)
        assert not book.remove(wish)
    assert not book
