"""The asyncio client of a user's secrets: texts that jobs get, which nobody else reads."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc.aio

from drayman.auth.v1 import secret_service_pb2 as pb
from drayman.auth.v1 import secret_service_pb2_grpc
from drayman.client.calls import Client

#: How long a re-encryption of everything may take, in seconds. One that is cut off goes on where it was when it is asked for again.
_LONG = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class UserSecret:
    """A secret: `value` is None unless it was asked for, `length` is in characters, `changed` in UTC."""

    key: str
    value: str | None = field(repr=False)
    length: int
    changed: datetime


@dataclass(frozen=True, slots=True)
class Reencryption:
    """The id of the key that encrypts everything now, and how many values an older one did."""

    key_id: str
    reencrypted: int


class SecretClient(Client):
    """Stores, reads and removes one's secrets. Methods raise DraymanError.

    A key has 1 to 255 characters, none of them a control character; a value at most 1,024,000 characters and no NUL; a user at most 1,000
    secrets and 64 MiB.
    """

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._secrets = secret_service_pb2_grpc.SecretServiceStub(channel)

    async def set(self, key: str, value: str) -> None:
        """Store a secret; one that is there is replaced."""
        await self._call(self._secrets.SetSecret, pb.SetSecretRequest(key=key, value=value))

    async def get(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Read values by key; of the given keys those that are there, None = all."""
        return {secret.key: secret.value or "" async for secret in self.secrets(keys)}

    async def keys(self) -> list[str]:
        """Read the keys, sorted."""
        return [secret.key async for secret in self.secrets(values=False)]

    async def secrets(self, keys: Iterable[str] | None = None, *, values: bool = True) -> AsyncIterator[UserSecret]:
        """Read secrets by key while they arrive: these `keys`, None = all; with their values or without."""
        asked = list(keys) if keys is not None else []
        if keys is not None and not asked:
            return  # in the request this would mean all
        request = pb.ListSecretsRequest(keys=asked, keys_only=not values)
        method = functools.partial(self._secrets.ListSecrets, timeout=self._timeout)
        async with self._stream(method, request) as replies:
            async for reply in replies:
                changed = reply.change_time.ToDatetime(tzinfo=UTC)
                yield UserSecret(reply.key, reply.value if values else None, reply.length, changed)

    async def delete(self, key: str) -> bool:
        """Remove a secret; whether there was one."""
        return bool((await self._call(self._secrets.DeleteSecrets, pb.DeleteSecretsRequest(key=key))).deleted)

    async def delete_all(self) -> int:
        """Remove all one's secrets; returns how many there were."""
        deleted: int = (await self._call(self._secrets.DeleteSecrets, pb.DeleteSecretsRequest(all=True))).deleted
        return deleted

    async def reencrypt(self) -> Reencryption:
        """Encrypt everything of everybody with the newest key of the service's key file. For administrators."""
        reply = await self._call(self._secrets.ReencryptSecrets, pb.ReencryptSecretsRequest(), timeout=_LONG)
        return Reencryption(reply.key_id, reply.reencrypted)
