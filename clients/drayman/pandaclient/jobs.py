"""Jobs: how they are, their end, and such as belong to no task.

PanDA, sections 3.2 and 6.6 of its behaviour.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from drayman.client.task_values import Task, task_of
from drayman.pandaclient.attributes import UNSET
from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.pandaclient.identifiers import identifier
from drayman.pandaclient.JobSpec import JobSpec
from drayman.pandaclient.specs import add_task, job_spec, submission
from drayman.task.v1 import job_pb2, job_service_pb2_grpc, task_service_pb2, task_service_pb2_grpc
from drayman.task.v1 import job_service_pb2 as pb

_Stub = job_service_pb2_grpc.JobServiceStub
_TaskStub = task_service_pb2_grpc.TaskServiceStub

_MOST_IDS = 5500
_MOST_JOBS = 5000
_KILLED_AT_ONCE = 5000
_USERS = ("user", "panda")
_UNSUCCESSFUL = (job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_CLOSED)


def getJobStatus(ids: Sequence[int | str], verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, jobs)`: a JobSpec without its files for each id in its place, None where there is no such job; or `(255, None)`.

    More than 5500 ids are cut off.
    """
    return _status(ids, verbose, full=False)


def getFullJobStatus(ids: Sequence[int | str], verbose: bool = False) -> tuple[int, Any]:
    """Return what `getJobStatus` does, with what the jobs' tasks say of them, and `Files`."""
    return _status(ids, verbose, full=True)


def get_job_descriptions(task_id: int | str, unsuccessful_only: bool = False, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, jobs)`: a dict of attributes, with `Files`, for each job of a task; or `(255, None)`.

    With `unsuccessful_only` those that failed, were cancelled or closed.
    """
    number = identifier(task_id) or 0

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        states = _UNSUCCESSFUL if unsuccessful_only else ()
        request = pb.ListJobsRequest(task_id=number, states=states, files=True)
        replies = stub.ListJobs(request, **arguments)
        specs = (job_spec(job) for reply in replies for job in reply.jobs)
        return [spec.dump_to_json_serializable() for spec in specs if spec is not None]

    try:
        return shown((0, call(_Stub, ask) if number else []), verbose)
    except CallFailed as failure:
        return _nothing(failure, verbose)


def killJobs(ids: Sequence[int | str] | int, verbose: bool = False) -> tuple[int, Any]:
    """Kill jobs: returns `(0, answers)`, a bool for each id; `(0, False)` without a token, `(255, None)` if there was no answer.

    True if the job was cancelled now, or its worker was told now to stop it: a second time it is False, as for what is over, somebody
    else's or no job. The task makes another job for the input as long as it has attempts left.
    """
    numbers = _numbers(ids)
    if numbers is None:
        return shown((FAILED, None), verbose)
    answers: list[bool] = []
    try:
        for part in _parts(numbers, _KILLED_AT_ONCE):

            def ask(stub: _Stub, arguments: dict[str, Any], part: Sequence[int] = part) -> list[bool]:
                return list(stub.KillJobs(pb.KillJobsRequest(job_ids=part), **arguments).killed)

            answers += call(_Stub, ask)
    except CallFailed as failure:
        return shown((0, False), verbose) if failure.anonymous or failure.shut_out else _nothing(failure, verbose)
    return shown((0, answers), verbose)


def submitJobs(jobs: Sequence[JobSpec], verbose: bool = False) -> tuple[int, Any]:
    """Submit jobs that belong to no task: returns `(0, answers)`, for each job `(PandaID, jobDefinitionID, {"jobsetID": n})`.

    The third is the `jobName` for labels other than `user` and `panda`. A job that could not be stored has PandaID None; more than 5000 are
    cut off. What numbers the specs have is ignored: such as were read can be submitted again. `(0, "ERROR: text")` if all are refused, for
    a label that there is not or is not for the caller; `(0, [])` for a user who is shut out; `(255, None)` if there was no answer.
    """
    host = socket.gethostname()
    try:
        specs = list(jobs)[:_MOST_JOBS]
        messages = [submission(spec, host) for spec in specs]
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        return shown((0, f"ERROR: jobs have to be JobSpecs: {error}"), verbose)
    request = pb.SubmitJobsRequest(jobs=messages, request_id=str(uuid4()))

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[pb.SubmittedJob]:
        return list(stub.SubmitJobs(request, **arguments).jobs)

    try:
        answers = call(_Stub, ask)
    except CallFailed as failure:
        if not failure.answered:
            return _nothing(failure, verbose)
        if failure.shut_out:
            return shown((0, []), verbose)
        return shown((0, f"ERROR: {failure.text}"), verbose)
    if verbose:
        for number, answer in enumerate(answers):
            if answer.error:
                print(f"job {number}: {answer.error}")
    return shown((0, [_answer(spec, answer) for spec, answer in zip(specs, answers, strict=True)]), verbose)


def setDebugMode(pandaID: int | str, modeOn: bool, verbose: bool) -> tuple[int, Any]:
    """Switch debug mode of a job: returns `(0, "Succeeded")`, `(0, text)` for a refusal, `(255, text)` if there was no answer.

    In debug mode its worker sends the tail of its output.
    """
    number = identifier(pandaID)

    def ask(stub: _Stub, arguments: dict[str, Any]) -> object:
        return stub.SetDebugMode(pb.SetDebugModeRequest(job_id=number or 0, on=bool(modeOn)), **arguments)

    try:
        call(_Stub, ask)
    except CallFailed as failure:
        text = f"PandaID {pandaID!r} is no integer" if number is None and failure.answered else failure.text
        return shown((0 if failure.answered else FAILED, text), verbose)
    return shown((0, "Succeeded"), verbose)


def _status(ids: Sequence[int | str], verbose: bool, *, full: bool) -> tuple[int, Any]:
    numbers = _numbers(ids)
    if numbers is None:
        return shown((FAILED, None), verbose)
    numbers = numbers[:_MOST_IDS]

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[JobSpec | None]:
        request = pb.GetJobsRequest(job_ids=numbers, files=full)
        return [job_spec(job) for reply in stub.GetJobs(request, **arguments) for job in reply.jobs]

    try:
        specs = call(_Stub, ask)
        if full:
            _add_tasks([spec for spec in specs if spec is not None and spec.jediTaskID != UNSET])
    except CallFailed as failure:
        return _nothing(failure, verbose)
    return shown((0, specs), verbose)


def _add_tasks(specs: Sequence[JobSpec]) -> None:
    """Add to jobs what their tasks say. Raises CallFailed."""
    wanted = sorted({spec.jediTaskID for spec in specs})
    if not wanted:
        return

    def ask(stub: _TaskStub, arguments: dict[str, Any]) -> dict[int, Task]:
        request = task_service_pb2.ListTasksRequest(task_ids=wanted)
        return {task.task_id: task_of(task) for reply in stub.ListTasks(request, **arguments) for task in reply.tasks}

    tasks = call(_TaskStub, ask)
    for spec in specs:
        if spec.jediTaskID in tasks:
            add_task(spec, tasks[spec.jediTaskID])


def _numbers(ids: object) -> list[int] | None:
    """Return ids as numbers, 0 for what is none; None for what is no list of ids."""
    if isinstance(ids, (int, str)):
        ids = [ids]
    if not isinstance(ids, Iterable):
        return None
    return [identifier(each) or 0 for each in ids]


def _parts(numbers: list[int], size: int) -> Iterator[list[int]]:
    yield numbers[:size]
    for begin in range(size, len(numbers), size):
        yield numbers[begin : begin + size]


def _answer(spec: JobSpec, answer: pb.SubmittedJob) -> tuple[int | None, int, Any]:
    label = spec.prodSourceLabel
    third = {"jobsetID": answer.jobset_id} if label in _USERS or label == UNSET else spec.jobName
    return answer.job_id or None, answer.definition_id, third


def _nothing(failure: CallFailed, verbose: bool) -> tuple[int, None]:
    if verbose:
        print(failure.text)
    return shown((FAILED, None), verbose)
