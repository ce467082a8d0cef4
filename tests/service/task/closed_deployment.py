"""A deployment where nothing can be read without a login, and what the task service uses to talk to its neighbours there."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc.aio

from drayman.client.channel import open_channel
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.testing import LocalStack, local_stack


@contextmanager
def closed_stack() -> Iterator[LocalStack]:
    with local_stack(settings={"DRAYMAN_PUBLIC_READS": "false"}) as stack:
        stack.add_user("ann")
        stack.add_user("bob")
        yield stack


def identity(stack: LocalStack) -> ServiceIdentity:
    return ServiceIdentity(stack.environment["DRAYMAN_SERVICE_KEY"])


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(url) as opened:
        yield opened
