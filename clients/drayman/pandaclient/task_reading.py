"""What there is to know of one task. Anybody may ask.

PanDA, sections 3.1 and 8.2 of its behaviour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from drayman.client.task_values import task_state_name
from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.pandaclient.identifiers import identifier
from drayman.task.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc, task_pb2, task_service_pb2_grpc
from drayman.task.v1 import task_service_pb2 as pb

_Stub = task_service_pb2_grpc.TaskServiceStub
_JobStub = job_service_pb2_grpc.JobServiceStub
_Found = TypeVar("_Found")

_INPUTS = ("input", "pseudo_input")


def getTaskStatus(jediTaskID: int | str, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, "running")`: where a task stands, `registered` right after its submission.

    `(255, text)` if there is no such task or no answer, `(0, (False, text))` for what is no integer.
    """
    number = identifier(jediTaskID)
    if number is None:
        return shown((0, (False, _no_integer(jediTaskID))), verbose)
    try:
        result: tuple[int, Any] = 0, task_state_name(get_task(number).state)
    except CallFailed as failure:
        result = FAILED, failure.text
    return shown(result, verbose)


def getTaskParamsMap(jediTaskID: int | str) -> tuple[int, Any]:
    """Return `(0, (0, parameters))`, as they were first submitted; `(0, (1, text))` if there is no such task, `(255, text)`."""
    number = identifier(jediTaskID)
    if number is None:
        return 0, (1, _no_integer(jediTaskID))

    def ask(stub: _Stub, arguments: dict[str, Any]) -> str:
        return stub.GetTaskParameters(pb.GetTaskParametersRequest(task_id=number), **arguments).parameters_json

    try:
        return 0, (0, json.loads(call(_Stub, ask)))
    except CallFailed as failure:
        return (0, (1, failure.text)) if failure.reason == "TASK_NOT_FOUND" else (FAILED, failure.text)


def getPandaIDsWithTaskID(jediTaskID: int | str, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, ids)`: of all jobs of a task, all attempts; none for an unknown task, `(0, (False, text))` for what is no integer."""
    number = identifier(jediTaskID)
    if number is None:
        return shown((0, (False, _no_integer(jediTaskID))), verbose)

    def ask(stub: _JobStub, arguments: dict[str, Any]) -> list[int]:
        if not number:
            return []
        request = job_service_pb2.ListJobsRequest(task_id=number, ids_only=True)
        return [job.job_id for reply in stub.ListJobs(request, **arguments) for job in reply.jobs]

    return _result(_JobStub, ask, verbose)


def getUserJobMetadata(task_id: int | str, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, metadata)`: for each finished job that left a good `userJobMetadata.json` its content with `PandaID` in it.

    It is a list, empty for an unknown task. JSON that is no object stands under `metadata`. `(0, (False, text))` for what is no integer.
    """
    number = identifier(task_id)
    if number is None:
        return shown((0, (False, _no_integer(task_id))), verbose)

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        replies = stub.ListJobMetadata(pb.ListJobMetadataRequest(task_id=number), **arguments)
        return [
            _as_object(json.loads(found.metadata_json)) | {"PandaID": found.job_id}
            for reply in replies
            for found in reply.metadata
        ]

    return _result(_Stub, ask, verbose)


def get_files_in_datasets(
    task_id: int | str, dataset_types: str = "input,pseudo_input", verbose: bool = False
) -> tuple[int, Any]:
    """Return `(0, datasets)`: what a task reads and makes, each with `files`; `(255, text)` if there is no such task.

    `dataset_types` are parted by commas: `input`, `pseudo_input`, `output`, `log` and the other `param_type`s.
    """
    number = identifier(task_id)
    if number is None:
        return shown((FAILED, _no_integer(task_id)), verbose)
    wanted = {kind.strip() for kind in str(dataset_types).split(",")}
    try:
        details = get_details(number, jobs=False)
        datasets = [_dataset(found) for found in details.datasets if found.kind in wanted]
        if any(found["type"] in _INPUTS or not found["registry"] for found in datasets):
            _add_inputs(number, datasets)
        if any(found["registry"] for found in datasets):
            _add_outputs(number, datasets)
    except CallFailed as failure:
        return shown((FAILED, failure.text), verbose)
    return shown((0, datasets), verbose)


def get_task(task_id: int) -> task_pb2.Task:
    """Ask for a task. Raises CallFailed."""

    def ask(stub: _Stub, arguments: dict[str, Any]) -> task_pb2.Task:
        return stub.GetTask(pb.GetTaskRequest(task_id=task_id), **arguments).task

    return call(_Stub, ask)


def get_details(task_id: int, *, jobs: bool = True) -> pb.GetTaskDetailsResponse:
    """Ask for a task's details. Raises CallFailed."""

    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.GetTaskDetailsResponse:
        return stub.GetTaskDetails(pb.GetTaskDetailsRequest(task_id=task_id, without_jobs=not jobs), **arguments)

    return call(_Stub, ask)


def _result(kind: type[Any], ask: Callable[[Any, dict[str, Any]], _Found], verbose: bool) -> tuple[int, Any]:
    try:
        return shown((0, call(kind, ask)), verbose)
    except CallFailed as failure:
        return shown((FAILED, failure.text), verbose)


def _no_integer(task_id: object) -> str:
    return f"task id {task_id!r} is no integer"


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"metadata": value}


def _dataset(found: task_pb2.TaskDataset) -> dict[str, Any]:
    return {
        "datasetName": found.name,
        "containerName": found.container or None,
        "type": found.kind,
        "stream": found.stream,
        "nFiles": found.files,
        "nFilesTobeUsed": found.files_to_use,
        "nFilesUsed": found.files_used,
        "nFilesFinished": found.files_finished,
        "nFilesFailed": found.files_failed,
        "nEvents": found.events,
        "registry": found.registry,
        "files": [],
    }


def _add_inputs(task_id: int, datasets: Iterable[dict[str, Any]]) -> None:
    files = {(found["stream"], found["datasetName"]): found["files"] for found in datasets if not found["registry"]}

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[task_pb2.TaskInput]:
        replies = stub.ListTaskInputs(pb.ListTaskInputsRequest(task_id=task_id), **arguments)
        return [record for reply in replies for record in reply.inputs]

    for record in call(_Stub, ask):
        if (record.stream, record.dataset) in files:
            files[record.stream, record.dataset].append(
                {
                    "lfn": record.name,
                    "fileID": record.number,
                    "status": record.state,
                    "fsize": record.size,
                    "nEvents": record.events,
                    "startEvent": record.first_event,
                    "attemptNr": record.attempts,
                    "maxAttempt": record.max_attempts,
                    "failedAttempt": record.failures,
                    "maxFailure": record.max_failures or None,
                    "PandaID": record.job_id or None,
                }
            )


def _add_outputs(task_id: int, datasets: Iterable[dict[str, Any]]) -> None:
    files = {(found["stream"], found["datasetName"]): found["files"] for found in datasets if found["registry"]}

    def ask(stub: _JobStub, arguments: dict[str, Any]) -> list[job_pb2.Job]:
        states = [job_pb2.JOB_STATE_FINISHED]
        request = job_service_pb2.ListJobsRequest(task_id=task_id, states=states, files=True)
        return [job for reply in stub.ListJobs(request, **arguments) for job in reply.jobs]

    for job in call(_JobStub, ask):
        for file in job.files:
            if (file.stream, file.dataset) in files:
                files[file.stream, file.dataset].append(
                    {
                        "lfn": file.name,
                        "status": file.status,
                        "fsize": file.size,
                        "checksum": file.checksum,
                        "PandaID": job.job_id,
                    }
                )
