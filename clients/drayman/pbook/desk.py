"""The clients of one call of a verb, opened when they are needed, and who calls."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from drayman.cli.printable import printable

if TYPE_CHECKING:
    from drayman.client.auth import AuthClient
    from drayman.client.calls import Client
    from drayman.client.jobs import JobsClient
    from drayman.client.tasks import TaskClient
    from drayman.client.user_secrets import SecretClient

_Client = TypeVar("_Client", bound="Client")


class Desk:
    """What verbs work with."""

    def __init__(self, stack: AsyncExitStack) -> None:
        from drayman.prun.connection import connection  # noqa: PLC0415 - help needs none of this

        self._stack = stack
        self._open: dict[type[Client], Client] = {}
        self._place = connection()
        self._name = ""

    @property
    def tasks(self) -> TaskClient:
        """Tasks."""
        from drayman.client.tasks import TaskClient  # noqa: PLC0415 - as above

        return self._client(TaskClient)

    @property
    def jobs(self) -> JobsClient:
        """Jobs."""
        from drayman.client.jobs import JobsClient  # noqa: PLC0415 - as above

        return self._client(JobsClient)

    @property
    def secrets(self) -> SecretClient:
        """Secrets."""
        from drayman.client.user_secrets import SecretClient  # noqa: PLC0415 - as above

        return self._client(SecretClient)

    @property
    def auth(self) -> AuthClient:
        """Logins."""
        from drayman.client.auth import AuthClient  # noqa: PLC0415 - as above

        return self._client(AuthClient)

    async def user(self) -> str:
        """Return who calls."""
        if not self._name:
            self._name = (await self.auth.auth_info()).username
        return self._name

    def _client(self, kind: type[_Client]) -> _Client:
        found = self._open.get(kind)
        if found is None:
            found = self._open[kind] = kind(self._place.url, self._place.token)
            self._stack.push_async_exit(found)
        assert isinstance(found, kind)
        return found


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """Open a desk. Raises DraymanError, UrlError, and Failure of prun's connection."""
    async with AsyncExitStack() as stack:
        yield Desk(stack)


def say(text: str) -> None:
    """Print a line; what services say must not control the terminal."""
    sys.stdout.write(f"{printable(text)}\n")
