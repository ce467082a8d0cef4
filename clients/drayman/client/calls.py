"""What the asyncio clients have in common: a channel, a token, and errors of one tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from drayman.client.channel import open_channel
from drayman.client.credentials import Credentials
from drayman.client.errors import from_rpc_error


class Client:
    """Base of the asyncio clients. Use it in `async with`, or call `close`.

    `url` None = `DRAYMAN_URL`; `token` None = `DRAYMAN_TOKEN`, else the token library. `timeout` bounds each unary call, in seconds,
    retries included; `patience` how many seconds in a row a service may be away before a wait for a file, or a report, gives up. With
    `channel` it uses that one, and leaves it open.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        timeout: float = 300.0,
        patience: float = 300.0,
    ) -> None:
        self.credentials = Credentials(url, token)
        self._own = channel is None
        self._channel = channel if channel is not None else open_channel(url)
        self._timeout = timeout
        self._patience = patience
        self._bind(self._channel)

    def _bind(self, channel: grpc.aio.Channel) -> None:
        """Make the stubs."""

    async def close(self) -> None:
        """Close the channel."""
        if self._own:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, *, timeout: float | None = None) -> Any:
        """Make one call with a single answer."""
        try:
            return await method(request, metadata=self.credentials.metadata(), timeout=timeout or self._timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def _send(self, method: Any, requests: AsyncIterator[Any]) -> Any:
        """Make one call with a stream of requests. What `requests` raises is raised here: gRPC would call it a cancellation."""
        problem: Exception | None = None

        async def guarded() -> AsyncIterator[Any]:
            nonlocal problem
            try:
                async for request in requests:
                    yield request
            except Exception as error:
                problem = error
                raise

        call = method(guarded(), metadata=self.credentials.metadata())
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise problem or from_rpc_error(error) from None
        except asyncio.CancelledError:
            if problem is None:
                raise
            raise problem from None
        finally:
            call.cancel()

    @asynccontextmanager
    async def _stream(self, method: Any, request: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """Make one call with a stream of answers. Whoever leaves early cancels it: an abandoned one would stay alive on both sides."""
        call = method(request, metadata=self.credentials.metadata())
        try:
            yield call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()
