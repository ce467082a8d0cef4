"""Users' secrets, for the jobs of tasks that ask for them."""

from __future__ import annotations

import grpc
import grpc.aio

from drayman.auth.v1 import secret_service_pb2, secret_service_pb2_grpc
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity

_TIMEOUT = 30.0


class SecretDelivery:
    """Asks auth for secrets. Nothing is kept: what a user changes holds for the next job."""

    def __init__(self, auth: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._secrets = secret_service_pb2_grpc.SecretServiceStub(auth)
        self._identity = identity

    async def of(self, user: str) -> dict[str, str]:
        """Return a user's secrets by key. Raises Refusal (UNAVAILABLE) if auth does not answer."""
        request = secret_service_pb2.DeliverSecretsRequest(username=user)
        metadata = (("authorization", f"Bearer {self._identity.token()}"),)
        call = self._secrets.DeliverSecrets(request, metadata=metadata, timeout=_TIMEOUT)
        try:
            return {secret.key: secret.value async for secret in call}
        except grpc.aio.AioRpcError as error:
            message = f"secrets of {user} cannot be had just now: {error.details()}"
            raise Refusal("UNAVAILABLE", message, retry_after=1.0) from error
        finally:
            call.cancel()
