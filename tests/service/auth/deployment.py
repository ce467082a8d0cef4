"""Auth to be attacked: a database of its own, as many replicas as wanted, and everything that an attack begins with."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from drayman.client import digest
from drayman.client.challenge import answer_challenge
from drayman.client.channel import open_sync_channel
from drayman.client.credentials import bearer
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.testing.service_process import ServiceProcess

#: What the services of the deployment know each other by.
SERVICE_KEY = "known to all services under attack, and to nobody else"
ADMIN = "admin"
ADMIN_PASSWORD = "only the administrator under attack has this one"

_START_SECONDS = 60.0
_numbers = itertools.count(1)


class Deployment:
    """Replicas of all services on one database. `settings` are those of every process, without `DRAYMAN_`."""

    def __init__(self, dsn: str, folder: Path, **settings: str) -> None:
        self.dsn = dsn
        self.folder = folder
        self.urls: list[str] = []
        self.processes: list[ServiceProcess] = []
        self.logs: list[Path] = []
        self.channels: list[grpc.Channel] = []
        self.environment = {
            "DRAYMAN_DATABASE_URL": dsn,
            "DRAYMAN_SECRETS_KEY_FILE": str(folder / "secrets-keys"),
            "DRAYMAN_SERVICE_KEY": SERVICE_KEY,
            "DRAYMAN_REGISTRY": str(folder / "registry"),
            "DRAYMAN_ADMIN_USER": ADMIN,
            "DRAYMAN_ADMIN_PASSWORD": ADMIN_PASSWORD,
            **{f"DRAYMAN_{name.upper()}": value for name, value in settings.items()},
        }

    def start(self, *services: str) -> str:
        """Start one more process, of all services unless some are named; returns its URL."""
        name = f"{len(self.processes)}"
        arguments = [*services, "--data-dir", str(self.folder / name), "--listen", "127.0.0.1:0"]
        log = self.folder / f"{name}.log"
        process = ServiceProcess(arguments, self.environment, log)
        self.processes.append(process)
        self.logs.append(log)
        url = process.await_ready(_START_SECONDS)
        self.urls.append(url)
        self.channels.append(open_sync_channel(url))
        return url

    def stop(self) -> None:
        for channel in self.channels:
            channel.close()
        for process in self.processes:
            process.terminate()

    @property
    def auth(self) -> auth_service_pb2_grpc.AuthServiceStub:
        """Of the first replica."""
        return auth_service_pb2_grpc.AuthServiceStub(self.channels[0])

    @property
    def users(self) -> user_service_pb2_grpc.UserServiceStub:
        """Of the first replica."""
        return user_service_pb2_grpc.UserServiceStub(self.channels[0])

    def log_in(self, name: str, password: str) -> pb.LoginResponse:
        request = pb.GetChallengeRequest(username=name)
        challenge = self.auth.GetChallenge(request, timeout=10, wait_for_ready=True)
        credential = answer_challenge(name, password, challenge)[0].credential
        reply: pb.LoginResponse = self.auth.Login(pb.LoginRequest(digest=credential), timeout=10)
        return reply

    def as_admin(self) -> Any:
        """Metadata of the administrator."""
        return bearer(self.log_in(ADMIN, ADMIN_PASSWORD).token.token)

    def add_user(
        self, password: str | None = None, *, name: str = "", admin: bool = False, disabled: bool = False
    ) -> str:
        """Create a user; returns the name."""
        name = name or f"user-{uuid4().hex[:8]}"
        request = user_service_pb2.CreateUserRequest(username=name, admin=admin)
        if password is not None:
            request.secrets.add(algorithm="SHA-256", realm="drayman", ha1=digest.ha1(name, "drayman", password))
        metadata = self.as_admin()
        self.users.CreateUser(request, metadata=metadata, timeout=10)
        if disabled:
            change = user_service_pb2.UpdateUserRequest(username=name, disabled=True)
            self.users.UpdateUser(change, metadata=metadata, timeout=10)
        return name

    def token(self, name: str) -> str:
        request = user_service_pb2.IssueTokenRequest(username=name)
        issued: str = self.users.IssueToken(request, metadata=self.as_admin(), timeout=10).token.token
        return issued


@contextmanager
def deployed(dsn: str, folder: Path, replicas: int = 1, **settings: str) -> Iterator[Deployment]:
    """A deployment for as long as it is used."""
    deployment = Deployment(dsn, folder, **settings)
    try:
        for _ in range(replicas):
            deployment.start()
        yield deployment
    finally:
        deployment.stop()


@asynccontextmanager
async def new_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of one's own, for longer than one test."""
    name = f"attacked_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn.replace("@/drayman?", f"@/{name}?")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def lift_login_limits(dsn: str) -> None:
    """Keep every bucket of the throttle full: for what has to hold however many attempts are let in."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "CREATE FUNCTION auth.fill_bucket() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN NEW.level := 1000; RETURN NEW; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER fill_bucket BEFORE INSERT OR UPDATE ON auth.attempt"
        " FOR EACH ROW EXECUTE FUNCTION auth.fill_bucket()"
    )
    await connection.close()
