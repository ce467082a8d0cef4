"""Users of a stack, each with a client of the registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from drayman.client import UnavailableError
from drayman.client.registry_calls import RegistryCalls
from drayman.client.registry_values import Version
from drayman.testing import LocalStack
from service.registry.small_upload import Linked, upload

T = TypeVar("T")


class People:
    """Users of a stack, each with a client."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self._clients: dict[str, RegistryCalls] = {}

    def __getitem__(self, name: str) -> RegistryCalls:
        if name not in self._clients:
            if name != self.stack.admin[0]:
                self.stack.add_user(name)
            self._clients[name] = RegistryCalls(self.stack.url, self.stack.token(name), timeout=30)
        return self._clients[name]

    async def upload(
        self, user: str, address: str, files: Mapping[str, bytes | Linked | None], **options: Any
    ) -> Version:
        assert self[user]
        return await upload(self.stack.url, self.stack.token(user), address, files, **options)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def restart(self) -> None:
        """Kill the services and start them again; everybody connects anew."""
        await asyncio.to_thread(self.stack.restart)
        for name, client in self._clients.items():
            await client.close()
            self._clients[name] = RegistryCalls(self.stack.url, self.stack.token(name), timeout=30)
        async with asyncio.timeout(30):
            while not await self._answered():
                await asyncio.sleep(0.05)

    async def _answered(self) -> bool:
        """Whether they do; gRPC believes for a while that nobody is there."""
        try:
            await self.admin.info()
        except UnavailableError:
            return False
        return True

    def document(self, *parts: str) -> Any:
        """Read a document of the registry's folder."""
        return json.loads(self.stack.registry.joinpath(*parts).read_text())

    @property
    def admin(self) -> RegistryCalls:
        """The administrator's client."""
        return self[self.stack.admin[0]]


async def listed(values: AsyncIterator[T]) -> list[T]:
    """Read to the end."""
    return [value async for value in values]
