"""What the asyncio clients have in common: a channel, a token, and errors of one tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from drayman.client.channel import open_channel
from drayman.client.credentials import Credentials, Metadata
from drayman.client.errors import UnauthenticatedError, UnavailableError, from_rpc_error


class Client:
    """Base of the asyncio clients. Use it in `async with`, or call `close`.

    `url` None = `DRAYMAN_URL`; `token` None = `DRAYMAN_TOKEN`, else the token library. A login's token is replaced before it expires, as
    long as its user may log in: see `drayman.client.credentials`. `timeout` bounds each unary call, in seconds, retries included;
    `patience` how many seconds in a row a service may be away before a wait for a file, or a report, gives up. With `channel` it uses that
    one, and leaves it open; `url` then says where it leads. With the `credentials` of another client it calls as that one does.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        timeout: float = 300.0,
        patience: float = 300.0,
        credentials: Credentials | None = None,
    ) -> None:
        self.credentials = Credentials(url, token) if credentials is None else credentials
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
        return await self._ask(method, request, timeout or self._timeout)

    async def _ask(self, method: Any, request: Any, timeout: float | None) -> Any:
        """Make one call with a single answer; `timeout` None = wait for ever. A token that has just expired is replaced, once."""
        metadata = await self.credentials.fresh()
        try:
            return await method(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            problem = from_rpc_error(error)
        if not await self.credentials.cures(problem, metadata):
            raise problem
        try:
            return await method(request, metadata=await self.credentials.fresh(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def _ask_openly(self, method: Any, request: Any) -> Any:
        """Make a call that needs no token, without one."""
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def _send(self, method: Any, requests: Callable[[], AsyncIterator[Any]], *, again: bool = False) -> Any:
        """Make one call with a stream of requests. What `requests` raises is raised here: gRPC would call it a cancellation.

        `again`: the requests can be made a second time, if it turns out that another token is needed.
        """
        metadata = await self.credentials.fresh()
        try:
            return await self._send_once(method, requests(), metadata)
        except UnauthenticatedError as error:
            if not again or not await self.credentials.cures(error, metadata):
                raise
        return await self._send_once(method, requests(), await self.credentials.fresh())

    async def _send_once(self, method: Any, requests: AsyncIterator[Any], metadata: Metadata) -> Any:
        problem: Exception | None = None

        async def guarded() -> AsyncIterator[Any]:
            nonlocal problem
            try:
                async for request in requests:
                    yield request
            except Exception as error:
                problem = error
                raise

        call = method(guarded(), metadata=metadata)
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
        """Make one call with a stream of answers. Whoever leaves early cancels it: an abandoned one would stay alive on both sides.

        One that is refused at once, for a token that has just expired, is opened a second time with the next one. If one ends later for
        its token, and there is another one, that is an interruption: UnavailableError.
        """
        async with aclosing(self._replies(method, request)) as replies:
            yield replies

    async def _replies(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        refused = heard = False
        while True:
            metadata = await self.credentials.fresh()
            call = method(request, metadata=metadata)
            try:
                async for reply in call:
                    heard = True
                    yield reply
                return
            except grpc.aio.AioRpcError as error:
                problem = from_rpc_error(error)
            finally:
                call.cancel()
            if refused or not await self.credentials.cures(problem, metadata):
                raise problem
            if heard:
                raise UnavailableError("the token expired on the way", code=grpc.StatusCode.UNAVAILABLE)
            refused = True
