"""The local stack: an embedded PostgreSQL, one server process with every service, and an administrator."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from drayman.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from drayman.client import digest
from drayman.client.challenge import answer_challenge
from drayman.client.channel import open_sync_channel
from drayman.client.credentials import bearer
from drayman.client.errors import UnauthenticatedError, from_rpc_error
from drayman.testing.service_process import ServiceProcess

_START_SECONDS = 60.0
_URLS = ("DRAYMAN_URL", "DATA_DISPATCHER_URL", "DATA_DISPATCHER_AUTH_URL")


class StackError(Exception):
    """The stack cannot be started; the text has the reason."""


class LocalStack:
    """A running stack. Made by `local_stack`.

    `url` is `grpc://127.0.0.1:PORT`, the same before and after `restart`; `admin` is (name, password); `dsn` the database's URL;
    `registry` and `staging` are the folders of the registry service.
    """

    def __init__(
        self,
        directory: Path,
        *,
        registry: Path | None = None,
        staging: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        from drayman.server.platform.embedded import EmbeddedPostgres  # noqa: PLC0415 - with a clear error where it is missing

        self.directory = directory
        self.admin = ("admin", secrets.token_urlsafe(12))
        self.registry = registry or directory / "registry"
        self.staging = staging or directory / "staging"
        self.url = ""
        for folder in (self.registry, self.staging):
            folder.mkdir(exist_ok=True)
        self._settings = dict(settings or {})
        self._listen = f"127.0.0.1:{port}"
        self._postgres = EmbeddedPostgres(directory / "postgres", fsync=False)
        self._service: ServiceProcess | None = None
        self._channel: grpc.Channel | None = None
        self._admin_token = ""
        self._service_key = secrets.token_urlsafe(32)

    # --- users -------------------------------------------------------------------------------------------------------

    def add_user(self, name: str, password: str | None = None, admin: bool = False, roles: Sequence[str] = ()) -> None:
        """Create a user; roles that do not exist are created. Without a password only `token` lets them in. Raises DraymanError."""
        made = []
        if password is not None:
            ha1 = digest.ha1(name, "drayman", password)
            made.append(user_service_pb2.DigestSecret(algorithm="SHA-256", realm="drayman", ha1=ha1))
        request = user_service_pb2.CreateUserRequest(
            username=name, secrets=made, admin=admin, roles=list(roles), create_roles=True
        )
        self._as_admin(self._users().CreateUser, request)

    def token(self, name: str, lifetime: float | None = None) -> str:
        """Return an encoded session token of a user; `lifetime` in seconds. Raises DraymanError."""
        request = user_service_pb2.IssueTokenRequest(username=name)
        if lifetime is not None:
            request.lifetime.CopyFrom(_duration(lifetime))
        issued: str = self._as_admin(self._users().IssueToken, request).token.token
        return issued

    @contextlib.contextmanager
    def as_user(self, name: str) -> Iterator[LocalStack]:
        """Set the environment so that clients made inside are that user's and find this stack."""
        values = dict.fromkeys(_URLS, self.url) | {"DRAYMAN_TOKEN": self.token(name)}
        before = {key: os.environ.get(key) for key in values}
        os.environ.update(values)
        try:
            yield self
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    # --- life and death ----------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the services run."""
        return self._service is not None and self._service.running

    @property
    def pid(self) -> int:
        """Process id of the services."""
        assert self._service is not None, "the services do not run"
        return self._service.pid

    def kill(self) -> None:
        """SIGKILL the service processes. The database goes on."""
        if self._service is not None:
            self._service.kill()

    def stop_services(self) -> int:
        """End the services by SIGTERM and return the exit code."""
        return self._service.terminate() if self._service is not None else 0

    def restart(self) -> None:
        """Start the services again at the same URL, killing them first if they run. Raises StackError."""
        self.kill()
        self._start_services()

    def kill_database(self) -> None:
        """SIGKILL PostgreSQL, all processes of it."""
        self._postgres.kill()

    def start_database(self) -> None:
        """Start PostgreSQL again after `kill_database`; it recovers."""
        self._postgres.start()

    @property
    def dsn(self) -> str:
        """URL of the database."""
        return self._postgres.dsn

    @property
    def environment(self) -> dict[str, str]:
        """What a further server process of this deployment, a replica or another service, has to be started with."""
        return {
            "DRAYMAN_DATABASE_URL": self.dsn,
            "DRAYMAN_SECRETS_KEY_FILE": str(self.directory / "secrets-keys"),
            "DRAYMAN_SERVICE_KEY": self._service_key,
            "DRAYMAN_REGISTRY": str(self.registry),
            "DRAYMAN_REGISTRY_STAGING": str(self.staging),
            **self._settings,
        }

    @property
    def log(self) -> Path:
        """What the services write to standard error."""
        return self.directory / "services.log"

    def start(self) -> None:
        """Start everything. Raises StackError."""
        from drayman.server.platform.embedded import EmbeddedPostgresError  # noqa: PLC0415 - see above

        try:
            self._postgres.start()
        except EmbeddedPostgresError as error:
            raise StackError(str(error)) from error
        self._start_services()

    def close(self) -> None:
        """End everything and remove every trace."""
        if self._channel is not None:
            self._channel.close()
        if self._service is not None:
            self._service.terminate()
        self._postgres.destroy()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_services(self) -> None:
        name, password = self.admin
        environment = self.environment | {"DRAYMAN_ADMIN_USER": name, "DRAYMAN_ADMIN_PASSWORD": password}
        arguments = ["--data-dir", str(self.directory / "data"), "--listen", self._listen]
        self._service = ServiceProcess(arguments, environment, self.log)
        try:
            self.url = self._service.await_ready(_START_SECONDS)
        except RuntimeError as error:
            raise StackError(str(error)) from error
        self._listen = self.url.partition("://")[2]

    # --- calls -------------------------------------------------------------------------------------------------------

    def _users(self) -> user_service_pb2_grpc.UserServiceStub:
        return user_service_pb2_grpc.UserServiceStub(self._open())

    def _open(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = open_sync_channel(self.url)
        return self._channel

    def _as_admin(self, method: Any, request: Any) -> Any:
        try:
            if not self._admin_token:
                # a login's token is an hour's, and a stack may live for longer
                own = user_service_pb2.IssueTokenRequest(username=self.admin[0])
                self._admin_token = (
                    self._users().IssueToken(own, metadata=tuple(bearer(self._log_in())), timeout=30).token.token
                )
            return method(request, metadata=bearer(self._admin_token), timeout=30, wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def _log_in(self) -> str:
        stub = auth_service_pb2_grpc.AuthServiceStub(self._open())
        name, password = self.admin
        request = auth_service_pb2.GetChallengeRequest(username=name)
        challenge = stub.GetChallenge(request, timeout=30, wait_for_ready=True)
        for answer in answer_challenge(name, password, challenge):
            return answer.check(stub.Login(auth_service_pb2.LoginRequest(digest=answer.credential), timeout=30))
        raise UnauthenticatedError("no login algorithm in common")


@contextlib.contextmanager
def local_stack(
    *,
    registry: Path | None = None,
    staging: Path | None = None,
    port: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Iterator[LocalStack]:
    """Start embedded PostgreSQL and every service on loopback; everything is gone afterwards. Raises StackError.

    `registry` and `staging` are folders of the caller's for the registry service, and stay; None = folders of the stack. `settings` are
    further DRAYMAN_* variables of the services.
    """
    # PostgreSQL may run under another account, which has to get there
    directory = Path(tempfile.mkdtemp(prefix="drayman-"))
    stack = LocalStack(directory, registry=registry, staging=staging, port=port, settings=settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
