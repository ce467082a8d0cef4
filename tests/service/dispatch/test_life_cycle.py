import asyncio
import time
from uuid import uuid4

import asyncpg
import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from drayman.client.channel import open_sync_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.dispatch.v1 import (
    handle_service_pb2,
    handle_service_pb2_grpc,
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
)
from drayman.server.dispatch.lifecycle import HandleState, Outcome
from drayman.testing import LocalStack
from service.dispatch.life_cycle import LifeCycle

OUTCOME = {
    Outcome.DONE: handle_service_pb2.OUTCOME_DONE,
    Outcome.FAILED: handle_service_pb2.OUTCOME_FAILED_FINAL,
    Outcome.RETRY: handle_service_pb2.OUTCOME_FAILED_RETRY,
    Outcome.RELEASED: handle_service_pb2.OUTCOME_RELEASED,
}


class Running:
    """A project in a running service."""

    def __init__(
        self, stack: LocalStack, channel: grpc.Channel, token: str, files: int, retry_on_timeout: bool
    ) -> None:
        self._dsn = stack.dsn
        self._metadata = bearer(token)
        self._projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self._handles = handle_service_pb2_grpc.HandleServiceStub(channel)
        request = project_service_pb2.CreateProjectRequest
        retry = str(retry_on_timeout).lower()
        spec = project_service_pb2.ProjectSpec(attributes_json=f'{{"virtual": true, "retry_on_timeout": {retry}}}')
        spec.worker_timeout.seconds = 3600
        list_of_files = [project_pb2.File(did=self._did(number)) for number in range(1, files + 1)]
        messages = [request(spec=spec), request(files={"files": list_of_files}), request(end={"file_count": files})]
        created = self._projects.CreateProject(iter(messages), metadata=self._metadata)
        self._project_id = created.project.project_id

    def reserve(self, worker: str) -> tuple[int, int] | str:
        request = handle_service_pb2.NextFileRequest(
            project_id=self._project_id, worker_id=worker, timeout={"seconds": 0}
        )
        event = list(self._handles.NextFile(request, metadata=self._metadata, timeout=20))[-1]
        if event.HasField("reserved"):
            return event.reserved.handle.handle_id, event.reserved.handle.attempts
        return "ended" if event.HasField("project_ended") else "nothing"

    def report(self, worker: str, handle_id: int, attempt: int, outcome: Outcome) -> str | None:
        report = handle_service_pb2.FileReport(handle_id=handle_id, attempt=attempt, outcome=OUTCOME[outcome])
        request = handle_service_pb2.ReportRequest(
            project_id=self._project_id, worker_id=worker, reports=[report], request_id=str(uuid4())
        )
        try:
            self._handles.Report(request, metadata=self._metadata, timeout=20)
        except grpc.RpcError as error:
            return from_rpc_error(error).reason
        return None

    def expire(self, handle_id: int) -> None:
        async def shorten() -> None:
            connection = await asyncpg.connect(self._dsn)
            await connection.execute(
                "UPDATE dispatch.handle SET lease_until = now() WHERE project_id = $1 AND handle_id = $2",
                self._project_id,
                handle_id,
            )
            await connection.close()

        asyncio.run(shorten())
        end = time.monotonic() + 5
        request = handle_service_pb2.GetHandleRequest(project_id=self._project_id, handle_id=handle_id)
        while self._handles.GetHandle(request).handle.state == project_pb2.HANDLE_STATE_RESERVED:
            assert time.monotonic() < end, "the lease did not run out"
            time.sleep(0.02)

    def cancel(self) -> None:
        request = project_service_pb2.CancelProjectRequest(project_id=self._project_id)
        self._projects.CancelProject(request, metadata=self._metadata)

    def activate(self) -> None:
        request = project_service_pb2.ActivateProjectRequest(project_id=self._project_id)
        self._projects.ActivateProject(request, metadata=self._metadata)

    def restart(self, states: list[HandleState], handle_ids: list[int]) -> int:
        request = project_service_pb2.RestartHandlesRequest(
            project_id=self._project_id,
            states=[f"HANDLE_STATE_{state.upper()}" for state in states],
            dids=[self._did(number) for number in handle_ids],
        )
        return self._projects.RestartHandles(request, metadata=self._metadata).restarted

    def observe(self) -> tuple[str, bool, list[tuple[int, str, int, str | None]]]:
        project = self._projects.GetProject(project_service_pb2.GetProjectRequest(project_id=self._project_id)).project
        replies = self._projects.ListHandles(project_service_pb2.ListHandlesRequest(project_id=self._project_id))
        handles = [
            (h.handle_id, self._state(project_pb2.HandleState.Name(h.state)), h.attempts, h.worker_id or None)
            for reply in replies
            for h in reply.handles
        ]
        states = [state for _, state, _, _ in handles]
        counts = project.counts
        assert [counts.total, counts.initial, counts.reserved, counts.done, counts.failed] == [
            len(states),
            *map(states.count, ("initial", "reserved", "done", "failed")),
        ]
        return self._state(project_pb2.ProjectState.Name(project.state)), project.HasField("end_time"), handles

    @staticmethod
    def _state(name: str) -> str:
        return name.rpartition("_")[2].lower()

    @staticmethod
    def _did(number: int) -> project_pb2.Did:
        return project_pb2.Did(namespace="n", name=str(number))


def test_the_model_keeps_its_invariants() -> None:
    run_state_machine_as_test(LifeCycle, settings=settings(max_examples=200, stateful_step_count=30, deadline=None))


@pytest.mark.timeout(300)
def test_the_service_is_the_model(stack: LocalStack, user: str) -> None:
    token = stack.token(user)
    with open_sync_channel(stack.url) as channel:

        class Beside(LifeCycle):
            def start(self, files: int, retry_on_timeout: bool) -> Running:
                return Running(stack, channel, token, files, retry_on_timeout)

        checks = list(HealthCheck)
        run_state_machine_as_test(
            Beside,
            settings=settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=checks),
        )
