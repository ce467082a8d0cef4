"""Channels of one client: opened when first needed, and anew in every process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from drayman.client.channel import Address, UrlError, open_sync_channel, parse_url

_Stub = TypeVar("_Stub")

# A child process must not touch its parent's channels, not even to close them.
_inherited: list[grpc.Channel] = []


class Connections:
    """The channels and stubs of one client."""

    def __init__(self) -> None:
        self._begin()

    def stub(self, kind: Callable[[grpc.Channel], _Stub], url: str | None) -> _Stub:
        """Return a stub for the services at a URL. Raises UrlError (a ValueError) for no URL, or one that names no server."""
        if self._pid != os.getpid():
            _inherited.extend(self._channels.values())
            self._begin()
        if not url:
            raise UrlError("no server URL: give server_url or set DATA_DISPATCHER_URL")
        with self._lock:
            key = (kind, url)
            if key not in self._stubs:
                address = parse_url(url)  # with or without /auth it is one place
                if address not in self._channels:
                    # calls are repeated by us, with the documented budget
                    self._channels[address] = open_sync_channel(address, retries=False)
                self._stubs[key] = kind(self._channels[address])
            stub: _Stub = self._stubs[key]
            return stub

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        if self._pid == os.getpid():
            for opened in self._channels.values():
                opened.close()
            self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._channels: dict[Address, grpc.Channel] = {}
        self._stubs: dict[tuple[object, str], Any] = {}

    def __reduce__(self) -> tuple[type[Connections], tuple[()]]:
        # a client may be sent to a worker process: it connects there
        return Connections, ()
