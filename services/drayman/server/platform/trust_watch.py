"""Keeps what a service trusts up to date: a stream from auth, opened again whenever it ends."""

from __future__ import annotations

import asyncio

import grpc.aio
import structlog

from drayman.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, trust_service_pb2, trust_service_pb2_grpc
from drayman.client.credentials import bearer
from drayman.server.platform.lifecycle import Repeating
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.trust import Standing, Trust

log = structlog.get_logger(__name__)

#: Auth speaks every two seconds or oftener: a stream that is silent for so long is a dead one.
_LONGEST_PAUSE = 10.0
_RECONNECT = 0.5
_FETCH_SECONDS = 5.0


class TrustWatch(Repeating):
    """Watches auth's TrustService over a channel, which stays its owner's to close."""

    def __init__(self, channel: grpc.aio.Channel, trust: Trust, identity: ServiceIdentity) -> None:
        super().__init__("trust watch", self._turn)
        self._trust = trust
        self._identity = identity
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._service = trust_service_pb2_grpc.TrustServiceStub(channel)
        self._quiet = False

    async def fetch_keys(self) -> None:
        """Read the published keys now. Raises grpc.RpcError."""
        request = auth_service_pb2.GetKeySetRequest()
        reply = await self._auth.GetKeySet(request, timeout=_FETCH_SECONDS, wait_for_ready=True)
        self._trust.learn_keys(reply.jwks_json, reply.issuer)

    async def _turn(self) -> float:
        try:
            await self._watch()
            self._quiet = False
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            if not self._quiet:  # once, not twice a second while auth is away
                log.warning("auth not heard of", error=_said(error))
            self._quiet = True
        return _RECONNECT

    async def _watch(self) -> None:
        call = self._service.WatchTrust(
            trust_service_pb2.WatchTrustRequest(), metadata=bearer(self._identity.token()), wait_for_ready=True
        )
        try:
            while True:
                async with asyncio.timeout(_LONGEST_PAUSE):
                    message = await call.read()
                if not isinstance(message, trust_service_pb2.WatchTrustResponse):
                    return  # the end of the stream
                self._learn(message)
        finally:
            call.cancel()

    def _learn(self, message: trust_service_pb2.WatchTrustResponse) -> None:
        if message.jwks_json:
            self._trust.learn_keys(message.jwks_json, message.issuer)
        standings = {
            each.username: Standing(each.version, each.valid_from, each.admin, frozenset(each.roles))
            for each in message.standings
        }
        ended = [(each.session_id, each.username, each.until.seconds + 1.0) for each in message.revoked_sessions]
        self._trust.learn(standings, ended, complete=message.complete)


def _said(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else "no word in time"
