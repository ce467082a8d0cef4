"""How functions that wait call the registry: by asyncio clients in one thread, which all threads of the process share."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc.aio

from drayman.client.channel import Address, open_channel, parse_url
from drayman.client.errors import DraymanError
from drayman.client.registry import RegistryClient
from drayman.pygobbler.errors import translated

_Result = TypeVar("_Result")

#: Clients that are kept: one for each URL and token.
_MOST_CLIENTS = 64


class Connections:
    """The channels and clients of a process; made when first needed, and anew in every process."""

    _lock: threading.Lock
    _loop: asyncio.AbstractEventLoop | None
    _thread: threading.Thread | None
    _running: int
    _channels: dict[Address, grpc.aio.Channel]
    _clients: dict[tuple[Address, str], RegistryClient]

    def __init__(self) -> None:
        #: tokens for calls that have none, by where they go
        self.tokens: dict[Address, str] = {}
        self._begin()
        # gRPC does not survive a fork while it is in use: what is idle is closed before, and made anew when needed
        os.register_at_fork(before=self.close, after_in_child=self._begin)
        atexit.register(self.close)

    def run(
        self, url: str, action: Callable[[RegistryClient], Coroutine[Any, Any, _Result]], *, missing: int = 404
    ) -> _Result:
        """Do something with the client of a deployment and wait for it.

        Raises RegistryError, with the status `missing` for what is not there; ConnectionError; ValueError for no URL.
        """
        address = parse_url(url)
        with self._lock:
            loop = self._started()
            self._running += 1
        try:
            future = asyncio.run_coroutine_threadsafe(self._with_client(url, address, action), loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()  # Ctrl-C, while it runs
                raise
        except DraymanError as error:
            raise translated(error, missing) from error
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        """Close what is open, unless somebody is at it; the next call opens it again."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None or self._running:
                return
            self._loop = self._thread = None
            channels, self._channels, self._clients = self._channels, {}, {}
        for channel in channels.values():
            asyncio.run_coroutine_threadsafe(channel.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    async def _with_client(
        self, url: str, address: Address, action: Callable[[RegistryClient], Coroutine[Any, Any, _Result]]
    ) -> _Result:
        given = os.environ.get("DRAYMAN_TOKEN") or self.tokens.get(address)
        # without a token it is that of a home folder
        key = (address, given or f"~{os.environ.get('HOME', '')}")
        client = self._clients.get(key)
        if client is None:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = open_channel(url)
            if len(self._clients) >= _MOST_CLIENTS:
                self._clients.clear()  # those in use stay until they are not
            client = self._clients[key] = RegistryClient(url, given, channel=channel)
        return await action(client)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._running = 0
        self._channels, self._clients = {}, {}

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_turn, args=(self._loop,), name="pygobbler", daemon=True)
            self._thread.start()
        return self._loop


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


#: What all functions of the process use.
CONNECTIONS = Connections()
