"""The registry's services in the process of the tests: real ones, on a database and a folder of one's own, behind a real port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
from prometheus_client import CollectorRegistry

from drayman.client.registry import RegistryClient
from drayman.server.auth.keys import SigningKey, jwk_set
from drayman.server.platform.calls import Dispatcher, Service
from drayman.server.platform.grpc_server import server_options
from drayman.server.platform.lifecycle import Surroundings
from drayman.server.platform.metrics import CallMetrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.settings import Settings
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Trust
from drayman.server.registry.content_servicer import ContentServicer
from drayman.server.registry.room import open_registry

_ISSUER = "test"


class Issuer:
    """Makes session tokens as auth does."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        self.trust = Trust(3600.0)
        self.trust.learn_keys(jwk_set([self._key.public()]), _ISSUER)
        self.trust.learn({}, (), complete=True)

    def token(self, username: str, *, admin: bool = False) -> str:
        """Return a token of a session that lasts an hour."""
        now = time.time()
        claims = {"sub": username, "adm": admin, "iss": _ISSUER, "iat": now, "exp": now + 3600, "sid": username}
        return jwt.encode(claims, self._key.private, algorithm="EdDSA", headers={"kid": self._key.key_id})


@dataclass
class House:
    """A registry that runs: its port, its folders, its services."""

    url: str
    root: Path
    staging: Path
    issuer: Issuer
    contents: ContentServicer
    services: list[Service]
    identity: ServiceIdentity

    def client(self, username: str, *, admin: bool = False, url: str = "", patience: float = 30.0) -> RegistryClient:
        """Return a client with a session of that user."""
        return RegistryClient(url or self.url, self.issuer.token(username, admin=admin), timeout=60, patience=patience)


async def _nothing() -> None:
    """The keys are all there."""


@asynccontextmanager
async def house(database_url: str, folder: Path, *, staging: bool = True, **settings: Any) -> AsyncIterator[House]:
    """Run a registry."""
    root, shared = folder / "registry", folder / "staging"
    settings = {"registry": str(root)} | settings
    chosen = Settings(data_dir=folder, registry_staging=str(shared) if staging else "", pool_size=6, **settings)
    issuer = Issuer()
    metrics = CollectorRegistry()
    verifier = TokenVerifier(issuer.trust, _nothing)
    identity = ServiceIdentity("k" * 40)
    dispatcher = Dispatcher(
        issuer.trust,
        verifier,
        identity,
        CallMetrics(metrics),
        max_calls=10_000,
        public_reads=True,
    )
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(grpc.aio.insecure_channel("127.0.0.1:1"))
        room = await open_registry(
            Surroundings(chosen, database_url, auth, verifier, 0, metrics, identity, lambda _name: auth)
        )
        for service in room.services:
            dispatcher.add(service)
        for part in room.parts:
            stack.push_async_callback(part.stop)
            await part.start()
        server = grpc.aio.server(options=server_options(chosen))
        server.add_generic_rpc_handlers((dispatcher,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        contents = next(s.servicer for s in room.services if isinstance(s.servicer, ContentServicer))
        yield House(f"grpc://127.0.0.1:{port}", root, shared, issuer, contents, list(room.services), identity)
