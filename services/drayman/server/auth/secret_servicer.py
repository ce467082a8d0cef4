"""SecretService: what users give their jobs and nobody else reads."""

from __future__ import annotations

from drayman.auth.v1 import secret_service_pb2 as pb
from drayman.server.auth.audit import Event, author_of
from drayman.server.auth.auth_servicer import timestamp
from drayman.server.auth.secret_rules import key_problem, value_problem
from drayman.server.auth.secret_store import SecretStore
from drayman.server.auth.standing import require_admin, require_present
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.transport import is_private


class SecretServicer:
    """Stores, returns and removes the caller's secrets."""

    def __init__(self, store: Store, secrets: SecretStore) -> None:
        self._store = store
        self._secrets = secrets

    async def SetSecret(self, request: pb.SetSecretRequest, call: Call) -> pb.SetSecretResponse:
        """Store one of the caller's secrets."""
        await require_present(self._store, call.caller)
        for field, problem in (("key", key_problem(request.key)), ("value", value_problem(request.value))):
            if problem:
                raise invalid(field, problem)
        await self._secrets.set(call.caller.username, request.key, request.value)
        return pb.SetSecretResponse()

    async def DeleteSecrets(self, request: pb.DeleteSecretsRequest, call: Call) -> pb.DeleteSecretsResponse:
        """Remove one of the caller's secrets, or all."""
        await require_present(self._store, call.caller)
        username = call.caller.username
        if request.all:
            return pb.DeleteSecretsResponse(deleted=await self._secrets.delete_all(username))
        if not request.key:
            raise invalid(request.WhichOneof("target") or "target", "expected a key that is not empty, or all")
        if key_problem(request.key):
            return pb.DeleteSecretsResponse()  # no secret has such a key
        return pb.DeleteSecretsResponse(deleted=await self._secrets.delete(username, request.key))

    async def ListSecrets(self, request: pb.ListSecretsRequest, call: Call) -> None:
        """Send the caller's secrets."""
        await require_present(self._store, call.caller)
        # what cannot be a key is no key of a secret, and the database might not even take it
        keys = [key for key in request.keys if not key_problem(key)] if request.keys else None
        async for secret in self._secrets.secrets(call.caller.username, keys, values=not request.keys_only):
            await call.send(
                pb.ListSecretsResponse(
                    key=secret.key,
                    value=secret.value or "",
                    length=secret.length,
                    change_time=timestamp(secret.changed_at.timestamp()),
                )
            )

    async def DeliverSecrets(self, request: pb.DeliverSecretsRequest, call: Call) -> None:
        """Send a user's secrets to the service that hands out the user's jobs."""
        if not is_private(call.context):
            raise Refusal("TLS_REQUIRED", "secrets are delivered over TLS or loopback only")
        async for secret in self._secrets.secrets(request.username, None, values=True):
            await call.send(pb.DeliverSecretsResponse(key=secret.key, value=secret.value or ""))

    async def ReencryptSecrets(self, _request: pb.ReencryptSecretsRequest, call: Call) -> pb.ReencryptSecretsResponse:
        """Encrypt with the newest key what another one encrypts."""
        await require_admin(self._store, call.caller)
        author = author_of(call)
        try:
            done = await self._secrets.reencrypt()
        except Refusal as refusal:
            key_id = refusal.metadata.get("key_id", "")
            await self._store.record(Event("SECRETS_REENCRYPTED", author, key_id, refused=True, reason=refusal.reason))
            raise
        counts = {"user_secrets": done.user_secrets, "own_keys": done.own_keys}
        await self._store.record(Event("SECRETS_REENCRYPTED", author, done.key_id, detail=counts))
        return pb.ReencryptSecretsResponse(key_id=done.key_id, reencrypted=done.user_secrets + done.own_keys)
