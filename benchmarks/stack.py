"""What is measured: an embedded PostgreSQL that really writes to disk, and `drayman serve` processes on it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import procfs
from jobs import Target, new_project

from drayman.client.auth import AuthClient
from drayman.client.channel import open_sync_channel
from drayman.dispatch.v1 import (
    handle_service_pb2,
    handle_service_pb2_grpc,
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
)
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.testing.service_process import ServiceProcess

Project = project_pb2.Project
Handle = project_pb2.Handle

_START_LIMIT = 120.0
_CALL_LIMIT = 600.0
_USER = "bench"


@dataclass(frozen=True)
class DatabaseFacts:
    """What PostgreSQL says of itself."""

    version: str
    fsync: str
    synchronous_commit: str


class Service:
    """One `drayman serve` process and what the measuring process asks of it."""

    def __init__(self, process: ServiceProcess, url: str, token: str) -> None:
        self.process = process
        self.address = url.partition("://")[2]
        self.token = token
        self._channel = open_sync_channel(url)
        self._projects: Any = project_service_pb2_grpc.ProjectServiceStub(self._channel)
        self._handles: Any = handle_service_pb2_grpc.HandleServiceStub(self._channel)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def target(self, project_id: int) -> Target:
        """Return where clients find a project by this service."""
        return Target(self.address, self.token, project_id)

    def create_project(self, files: int) -> int:
        """Create a virtual project and return its id."""
        call = self._projects.CreateProject
        reply = call(new_project(files), metadata=self.target(0).metadata, timeout=_CALL_LIMIT)
        project_id: int = reply.project.project_id
        return project_id

    def project(self, project_id: int) -> Project:
        """Look a project up."""
        request = project_service_pb2.GetProjectRequest(project_id=project_id)
        reply = self._projects.GetProject(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT)
        found: Project = reply.project
        return found

    def handles(self, project_id: int) -> Iterator[Handle]:
        """Read all handles of a project."""
        request = project_service_pb2.ListHandlesRequest(project_id=project_id)
        for reply in self._projects.ListHandles(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT):
            yield from reply.handles

    def copy_project(self, project_id: int) -> int:
        """Copy a project and return the copy's id."""
        request = project_service_pb2.CopyProjectRequest(project_id=project_id)
        reply = self._projects.CopyProject(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT)
        copy_id: int = reply.project.project_id
        return copy_id

    def delete_project(self, project_id: int) -> None:
        """Delete a project."""
        request = project_service_pb2.DeleteProjectRequest(project_id=project_id)
        self._projects.DeleteProject(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT)

    def cancel_project(self, project_id: int) -> None:
        """Cancel a project."""
        request = project_service_pb2.CancelProjectRequest(project_id=project_id)
        self._projects.CancelProject(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT)

    def hold_file(self, project_id: int) -> None:
        """Reserve a file of a project, for good."""
        request = handle_service_pb2.ReserveFilesRequest(project_id=project_id, worker_id="holder", max_files=1)
        self._handles.ReserveFiles(request, metadata=self.target(0).metadata, timeout=_CALL_LIMIT)

    def stop(self) -> None:
        """End the process."""
        self._channel.close()
        self.process.terminate()


class Stack:
    """A PostgreSQL and the services started on it. Made by `open_stack`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._postgres = EmbeddedPostgres(directory / "postgres")
        self._password = secrets.token_urlsafe(12)
        self._services: list[Service] = []
        self._token = ""
        self._started = 0

    def start(self) -> None:
        """Start PostgreSQL."""
        self._postgres.start()

    @property
    def dsn(self) -> str:
        """URL of the database."""
        return self._postgres.dsn

    def free_bytes(self) -> int:
        """Room that is left on the disk of the database."""
        return shutil.disk_usage(self._directory).free

    def database_bytes(self) -> int:
        """Room on the disk that PostgreSQL takes, its log included."""
        total = 0
        for path in (self._directory / "postgres").rglob("*"):
            with contextlib.suppress(OSError):  # removed meanwhile
                total += path.lstat().st_blocks * 512
        return total

    def database_cpu(self) -> float:
        """CPU seconds of all of PostgreSQL so far."""
        pid = self._postgres.pid
        assert pid is not None, "PostgreSQL does not run"
        return procfs.tree_cpu_seconds(pid)

    def database_facts(self) -> DatabaseFacts:
        """Ask PostgreSQL what it is and whether it writes to disk."""
        return asyncio.run(_facts(self.dsn))

    def serve(self, program: Sequence[str] | None = None) -> Service:
        """Start one more `drayman serve` with every service, or a program that takes its place."""
        self._started += 1
        environment = {"DRAYMAN_DATABASE_URL": self.dsn, "DRAYMAN_ADMIN_PASSWORD": self._password}
        arguments = ["--data-dir", str(self._directory / "data"), "--listen", "127.0.0.1:0"]
        process = ServiceProcess(arguments, environment, self._directory / f"services-{self._started}.log", program)
        try:
            url = process.await_ready(_START_LIMIT)
            if not self._token:
                self._token = asyncio.run(_new_user(url, self._password))
            service = Service(process, url, self._token)
        except BaseException:
            process.terminate()
            raise
        self._services.append(service)
        return service

    def admin_token(self, service: Service) -> str:
        """Return a token of the administrator."""
        return asyncio.run(_administrator(f"grpc://{service.address}", self._password))

    def stop(self, service: Service) -> None:
        """End one service."""
        self._services.remove(service)
        service.stop()

    def close(self) -> None:
        """End everything and remove every trace."""
        try:
            for service in self._services:
                service.stop()
        finally:
            self._postgres.destroy()
            shutil.rmtree(self._directory, ignore_errors=True)


@contextlib.contextmanager
def open_stack() -> Iterator[Stack]:
    """Start PostgreSQL in a folder of its own; everything is gone afterwards."""
    stack = Stack(Path(tempfile.mkdtemp(prefix="drayman-bench-")))
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


async def _new_user(url: str, password: str) -> str:
    """Make an ordinary user and return their token."""
    async with AuthClient(url) as client:
        await client.login("admin", password)
        await client.create_user(_USER)
        return (await client.issue_token(_USER)).token


async def _administrator(url: str, password: str) -> str:
    async with AuthClient(url) as client:
        await client.login("admin", password)
        return (await client.issue_token("admin")).token


async def _facts(dsn: str) -> DatabaseFacts:
    connection = await asyncpg.connect(dsn)
    try:
        names = ("server_version", "fsync", "synchronous_commit")
        return DatabaseFacts(*[await connection.fetchval(f"SHOW {name}") for name in names])
    finally:
        await connection.close()
