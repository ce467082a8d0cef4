"""Waits for something that is handed out: in memory, by kind, in the order of their arrival. Pure but for who waits."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar
from uuid import UUID


class Wish:
    """Somebody's wait for something. Wishes of one `kind` are served alike."""

    __slots__ = (
        "_waiter",
        "kind",
        "now_or_never",
        "number",
        "parked",
        "request_id",
        "result",
        "want",
        "withdrawn",
        "worker_id",
    )

    def __init__(
        self, worker_id: str, kind: Hashable, want: int, request_id: UUID | None, *, now_or_never: bool
    ) -> None:
        self.worker_id = worker_id
        self.kind = kind
        self.want = want
        self.request_id = request_id
        self.now_or_never = now_or_never
        self.number = 0
        self.parked = False
        self.withdrawn = False
        self.result: object = None
        self._waiter: asyncio.Future[None] | None = None

    async def change(self) -> None:
        """Wait until there is a result, or until it is clear that there is none yet (`parked`)."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def resolve(self, result: object) -> None:
        """Set the result."""
        self.result = result
        self.signal()

    def signal(self) -> None:
        """Wake who waits for a change."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


W = TypeVar("W", bound=Wish)


class Wishes(Generic[W]):
    """Wishes that wait, by kind and number."""

    def __init__(self) -> None:
        self._by_kind: dict[Hashable, OrderedDict[int, W]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[W]:
        for of_kind in self._by_kind.values():
            yield from of_kind.values()

    def put(self, wish: W) -> None:
        """Add a wish as the last of its kind."""
        self._by_kind.setdefault(wish.kind, OrderedDict())[wish.number] = wish
        self._count += 1

    def put_first(self, wish: W) -> None:
        """Put a wish back where it was taken from."""
        self.put(wish)
        self._by_kind[wish.kind].move_to_end(wish.number, last=False)

    def remove(self, wish: W) -> bool:
        """Remove a wish; tells whether it was there."""
        of_kind = self._by_kind.get(wish.kind)
        if of_kind is None or of_kind.pop(wish.number, None) is None:
            return False
        if not of_kind:
            del self._by_kind[wish.kind]
        self._count -= 1
        return True

    def kinds(self) -> list[Hashable]:
        """All kinds, in the order of their oldest wish."""
        return [kind for _, kind in sorted(((next(iter(of)), kind) for kind, of in self._by_kind.items()), key=_first)]

    def of(self, kind: Hashable) -> Iterable[W]:
        """The wishes of a kind, oldest first."""
        return self._by_kind[kind].values()

    def pop_first(self, kind: Hashable) -> W:
        """Take the oldest wish of a kind."""
        of_kind = self._by_kind[kind]
        _, wish = of_kind.popitem(last=False)
        if not of_kind:
            del self._by_kind[kind]
        self._count -= 1
        return wish

    def take_all(self) -> list[W]:
        """Take every wish."""
        wishes = list(self)
        self._by_kind.clear()
        self._count = 0
        return wishes


def _first(pair: tuple[int, Hashable]) -> int:
    return pair[0]
