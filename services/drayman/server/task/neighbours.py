"""Calls to other services of the deployment, with the stubs that everybody uses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import grpc.aio

from drayman.client.errors import DraymanError, from_rpc_error
from drayman.server.platform.errors import CODE_OF, Refusal
from drayman.server.platform.service_identity import ServiceIdentity

_TIMEOUT = 60.0
#: What says nothing of what was asked for: the neighbour is just being restarted, or the deployment has two keys while they are changed.
_PASSING = (
    "UNAVAILABLE",
    "OVERLOADED",
    "DEADLINE",
    "DEFECT",
    "TOKEN_MISSING",
    "TOKEN_INVALID",
    "TOKEN_EXPIRED",
    "TOKEN_IMMATURE",
)


class Neighbour:
    """One of the other services. Everything raises Refusal: the neighbour's own, or UNAVAILABLE if it does not answer."""

    def __init__(self, name: str, identity: ServiceIdentity) -> None:
        self._name = name
        self._identity = identity

    async def ask(self, method: Any, request: Any, *, timeout: float = _TIMEOUT) -> Any:
        """Make a call with a single answer."""
        try:
            return await method(request, metadata=self._metadata(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error

    async def stream(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        """Make a call with a stream of answers. Whoever leaves early has to close the iterator."""
        call = method(request, metadata=self._metadata())
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error
        finally:
            call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._identity.token()}"),)

    def _refusal(self, error: grpc.aio.AioRpcError) -> Refusal:
        problem: DraymanError = from_rpc_error(error)
        if problem.reason in CODE_OF and problem.reason not in _PASSING:
            metadata: Mapping[str, str] = problem.metadata
            return Refusal(problem.reason, problem.message, metadata=dict(metadata))
        return Refusal("UNAVAILABLE", f"{self._name} does not answer: {problem.message}", retry_after=1.0)
