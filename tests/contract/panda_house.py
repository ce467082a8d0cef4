"""What the tests of the PanDA mirror share: a user of a live stack, their tasks, and workers for these."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from drayman.auth.v1 import user_service_pb2, user_service_pb2_grpc
from drayman.client.channel import open_sync_channel
from drayman.client.credentials import bearer
from drayman.client.task_values import task_state_name
from drayman.pandaclient import Client
from drayman.task.v1 import task_service_pb2, task_service_pb2_grpc
from drayman.testing import LocalStack
from drayman.worker import JobClient

VARIABLES = (
    *("PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL", "PANDA_DEV_URL", "PANDA_INTR_URL", "PANDA_AUTH"),
    *("PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN", "PANDA_AUTH_VO", "OIDC_AUTH_VO"),
)
NOBODY = "grpc://127.0.0.1:1"
UNKNOWN = 2**40


def parameters(count: int = 3, **changes: Any) -> dict[str, Any]:
    """Parameters of a task without input, that has so many jobs; None leaves a key out."""
    made: dict[str, Any] = {
        "taskName": f"user.x.{uuid4().hex}",
        "userName": "somebody",
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "panda-client-1.5.50-jedi-run",
        "taskPriority": 900,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "bash",
        "noInput": True,
        "nEvents": count,
        "nEventsPerJob": 1,
        "skipScout": True,
        "maxAttempt": 1,
        "cliParams": "prun --exec true",
        "jobParameters": [{"type": "constant", "value": "-c true"}],
    }
    made |= changes
    return {key: value for key, value in made.items() if value is not None}


def listed(count: int = 3, **changes: Any) -> dict[str, Any]:
    """Parameters of a task over a list of names, one job for each."""
    names = [f"file{number}" for number in range(count)]
    return parameters(nEvents=None, nEventsPerJob=None, pfnList=names, nFiles=count, nFilesPerJob=1) | changes


class Panda:
    """Somebody at a stack, and what they do."""

    def __init__(self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self.name = ""
        self._monkeypatch = monkeypatch
        self._channel = open_sync_channel(stack.url)

    def close(self) -> None:
        self._channel.close()

    def become(self, name: str | None = None, *, admin: bool = False, roles: tuple[str, ...] = ()) -> str:
        """Be somebody, a new user unless they are named; returns who one was."""
        before = self.name
        if name is None:
            name = f"u{uuid4().hex[:12]}"
            self.stack.add_user(name, admin=admin, roles=roles)
        self.name = name
        self._monkeypatch.setenv("DRAYMAN_TOKEN", self.stack.token(name))
        return before

    def be_nobody(self) -> None:
        """Have no token."""
        self._monkeypatch.delenv("DRAYMAN_TOKEN")

    def shut_out(self) -> None:
        """Have one's account disabled; the token is refused from then on."""
        stub = user_service_pb2_grpc.UserServiceStub(self._channel)
        request = user_service_pb2.UpdateUserRequest(username=self.name, disabled=True)
        stub.UpdateUser(request, metadata=bearer(self.stack.token(self.stack.admin[0])), timeout=30)
        deadline = time.monotonic() + 30
        while Client.killTask(2**53)[1][0] == 2:  # what is checked at the door alone is refused last
            assert time.monotonic() < deadline

    @contextmanager
    def stranger(self, **roles: Any) -> Iterator[None]:
        """Be somebody else for a while."""
        before = self.become(**roles)
        yield
        self.become(before)

    @contextmanager
    def anonymously(self) -> Iterator[None]:
        """Have no token for a while."""
        self.be_nobody()
        yield
        self.become(self.name)

    def submit(self, given: dict[str, Any] | None = None, parent: int | None = None) -> int:
        """Submit a task and return its id."""
        status, (code, message, task_id) = Client.insertTaskParams(
            given or parameters(), properErrorCode=True, parent_tid=parent
        )
        assert (status, code) == (0, 0), message
        return int(task_id)

    def await_task(self, task_id: int, *states: str, seconds: float = 60.0) -> str:
        """Wait until a task is in one of some states; returns which."""
        stub = task_service_pb2_grpc.TaskServiceStub(self._channel)
        request = task_service_pb2.WatchTaskRequest(task_id=task_id, forever=True)
        request.interval.FromMilliseconds(20)
        watch = stub.WatchTask(request, timeout=seconds)
        try:
            for reply in watch:
                if task_state_name(reply.task.state) in states:
                    return task_state_name(reply.task.state)
        finally:
            watch.cancel()
        raise AssertionError("the stream of a task ended")

    def ready(self, given: dict[str, Any] | None = None, **offer: Any) -> tuple[int, list[int]]:
        """Submit a task whose jobs can be fetched by who offers that; returns its id and theirs."""
        task_id = self.submit(given)
        assert self.await_task(task_id, "running", "scouting", "broken") != "broken"
        with self.worker() as worker:
            job = worker.next_job(task_id=task_id, timeout=30, **offer)
            assert job is not None
            given_back = worker.update(job.PandaID, "activated", attemptNr=job.attemptNr)
            assert given_back.StatusCode == 0
        ids = Client.getPandaIDsWithTaskID(task_id)[1]
        return task_id, list(ids)

    def worker(self, **options: Any) -> JobClient:
        """A worker of the same user."""
        return JobClient(self.stack.url, os.environ["DRAYMAN_TOKEN"], **options)

    def work(self, task_id: int, count: int, outcome: str = "finished", **fields: Any) -> list[int]:
        """Fetch jobs of a task, run them and end them like that; returns their ids."""
        done = []
        with self.worker() as worker:
            for _ in range(count):
                job = worker.next_job(task_id=task_id, timeout=30)
                assert job is not None
                worker.update(job.PandaID, "running", attemptNr=job.attemptNr)
                answer = worker.update(job.PandaID, outcome, attemptNr=job.attemptNr, **fields)
                assert answer.result == "succeeded", answer
                done.append(job.PandaID)
        return done

    def run(self, count: int = 1, outcome: str = "finished", **changes: Any) -> int:
        """Submit a task, have it end like that, and return its id."""
        task_id = self.submit(parameters(count, **changes))
        self.work(task_id, count, outcome)
        self.await_task(task_id, "done" if outcome == "finished" else "failed")
        return task_id

    def pilot(self, task_id: int, jobs: int) -> None:
        """Run jobs of a task as a real pilot does."""
        command = [
            sys.executable,
            "-m",
            "drayman",
            "pilot",
            "--task",
            str(task_id),
            "--jobs",
            str(jobs),
            "--wait",
            "30",
        ]
        environment = os.environ | {"DRAYMAN_URL": self.stack.url}
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
