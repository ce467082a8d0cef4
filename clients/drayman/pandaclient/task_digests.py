"""Digests of tasks: what they read and make and how far they are, of one or of all lately.

PanDA, section 3.5 of its behaviour.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from drayman.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from drayman.client.task_values import Task, task_of, task_state_name
from drayman.pandaclient import moments
from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.pandaclient.identifiers import identifier, whole
from drayman.pandaclient.task_reading import get_details, get_task
from drayman.pandaclient.texts import getDN
from drayman.task.v1 import task_service_pb2 as pb
from drayman.task.v1 import task_service_pb2_grpc

_Stub = task_service_pb2_grpc.TaskServiceStub
_AuthStub = auth_service_pb2_grpc.AuthServiceStub

#: As many tasks are told at most, and no older ones.
_MOST_TASKS = 500
_LONGEST_DAYS = 30.0
#: Coarse states where they differ from the exact ones.
_COARSE = {
    "defined": "submitting",
    "pending": "running",
    "scouting": "running",
    "paused": "running",
    "prepared": "running",
    "toretry": "running",
    "toincexec": "running",
    "finishing": "running",
    "aborting": "running",
    "exhausted": "finished",
}


def getJediTaskDetails(
    taskDict: MutableMapping[str, Any], fullFlag: bool, withTaskInfo: bool, verbose: bool = False
) -> tuple[int, Any]:
    """Add to a dict, whose `jediTaskID` says which task, what the task is about; returns `(0, taskDict)`: the same one.

    Added are `inDS`, `outDS`, `statistics`, `PandaID` (the latest job of each input), `mergePandaID`, `mergeStatus` (None); `status` with
    `withTaskInfo`, `cliParams` with `fullFlag`. With either, an unknown task is `(255, None)`; without, texts are empty. Raises KeyError
    if there is no `jediTaskID`. Section 3.5.
    """
    number = identifier(taskDict["jediTaskID"])
    found: pb.GetTaskDetailsResponse | None = None
    try:
        if number:
            found = get_details(number)
    except CallFailed as failure:
        if failure.reason != "TASK_NOT_FOUND":
            return shown((FAILED, None), verbose)
    if found is None and (fullFlag or withTaskInfo or number is None):
        return shown((FAILED, None), verbose)
    taskDict.update(_digest(found))
    if found is not None and withTaskInfo:
        taskDict["status"] = task_state_name(found.task.state)
    if found is not None and fullFlag:
        taskDict["cliParams"] = found.task.command_line
    return shown((0, taskDict), verbose)


def getJobIDsJediTasksInTimeRange(
    timeRange: str,
    dn: str | None = None,
    minTaskID: int | str | None = None,
    verbose: bool = False,
    task_type: str = "user",
) -> tuple[int, Any]:
    """Return `(0, {reqID: task})`: tasks of a user that changed since a time `YYYY-MM-DD HH:MM:SS` (UTC), at most 500 of 30 days.

    `dn` is a user name, or a subject with `CN=` in it; None = the caller. Only ids greater than `minTaskID`, and only tasks with the
    `prodSourceLabel` (or `taskType`) `task_type`. Each has `jediTaskID, modificationTime, status, processingType, transUses, transHome,
    architecture, reqID, creationDate, site, cloud, taskName` and what `getJediTaskDetails` adds, with `PandaID` empty. A time that is none
    and an empty user name give `(0, {})`; no answer `(255, text)`. `reqID` is the task's id unless the task was given one. Section 3.5.
    """
    since, after = moments.read(timeRange), whole(minTaskID) if minTaskID is not None else 0
    if since is None or after is None:
        return shown((0, {}), verbose)
    try:
        owner = _caller() if dn is None else _user_name(dn)
        if not owner:
            return shown((0, {}), verbose)
        request = _request(owner, max(since, moments.days_ago(_LONGEST_DAYS)), after)

        def wanted(task: Task) -> bool:
            return not task_type or task_type in (task.label, task.type)

        tasks = _tasks(request, wanted, _MOST_TASKS)
        listed = {task.request_id: task for task in reversed(tasks)}  # of the same reqID the newest counts
        digests = {request_id: _listed(task) for request_id, task in listed.items()}
    except CallFailed as failure:
        return shown((0, {}) if failure.anonymous else (FAILED, failure.text), verbose)
    return shown((0, digests), verbose)


def get_tasks_detailed_info_since(
    since: str | None = None, filters: Mapping[str, Any] | None = None, n_tasks: int = 500, verbose: bool = False
) -> tuple[int, Any]:
    """Return `(0, tasks)`: attributes of the caller's tasks, newest first, that changed since a time `YYYY-MM-DD HH:MM:SS` (UTC).

    Without `since` of any age. `filters` say which value an attribute has to have; as texts they have to be the same. `(255, None)` if
    there was no answer, or the time is none.
    """
    moment = moments.read(since) if since is not None else None
    most = whole(n_tasks)
    if most is None or (since is not None and moment is None):
        return shown((FAILED, None), verbose)

    def wanted(task: Task) -> bool:
        said = attributes(task)
        return all(name in said and str(said[name]) == str(value) for name, value in (filters or {}).items())

    try:
        tasks = _tasks(_request(_caller(), moment, 0), wanted, max(most, 0))
    except CallFailed:
        return shown((FAILED, None), verbose)
    return shown((0, [attributes(task) for task in tasks]), verbose)


def get_task_details_json(task_id: int | str, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, (True, attributes))` of a task, `(0, (False, text))` if there is no such task, `(255, text)`."""
    try:
        number = identifier(task_id)
        if number is None:
            return shown((0, (False, f"task id {task_id!r} is no integer")), verbose)
        return shown((0, (True, attributes(task_of(get_task(number))))), verbose)
    except CallFailed as failure:
        return shown((0, (False, failure.text)) if failure.answered else (FAILED, failure.text), verbose)


def get_parent_detailed_info(task_id: int | str, verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, attributes)` of a task's parent; of the task itself if it has none, as a task without one is its own. `(255, None)`."""
    try:
        task = get_task(identifier(task_id) or 0)
        if task.parent_task_id:
            task = get_task(task.parent_task_id)
    except CallFailed:
        return shown((FAILED, None), verbose)
    return shown((0, attributes(task_of(task))), verbose)


def attributes(task: Task) -> dict[str, Any]:
    """Return what PanDA calls a task's attributes (section 5.6); times are texts in UTC, None before."""
    counts = task.counts
    ended = counts.jobs_finished + counts.jobs_failed
    return task.attributes | {
        "jediTaskID": task.task_id,
        "taskName": task.name,
        "status": task.state,
        "oldStatus": task.old_state or None,
        "superStatus": _COARSE.get(task.state, task.state),
        "userName": task.owner,
        "creationDate": moments.written(task.create_time),
        "modificationTime": moments.written(task.update_time),
        "stateChangeTime": moments.written(task.state_time),
        "startTime": moments.written(task.start_time),
        "endTime": moments.written(task.end_time),
        "prodSourceLabel": task.label,
        "workingGroup": task.working_group or None,
        "vo": task.vo,
        "taskType": task.type,
        "processingType": task.processing_type,
        "taskPriority": task.priority,
        "currentPriority": task.current_priority,
        "progress": round(counts.progress),
        "failureRate": round(100 * counts.jobs_failed / ended) if ended else 0,
        "errorDialog": task.error or None,
        "reqID": task.request_id,
        "parent_tid": task.parent_task_id or task.task_id,
        "attemptNr": task.attempt,
        "cliParams": task.command_line,
    }


def _digest(found: pb.GetTaskDetailsResponse | None) -> dict[str, Any]:
    if found is None:
        return {"inDS": "", "outDS": "", "statistics": "", "PandaID": [], "mergePandaID": [], "mergeStatus": None}
    primary = [dataset for dataset in found.datasets if dataset.primary and dataset.kind == "input"]
    made = [dataset for dataset in found.datasets if dataset.registry]
    return {
        "inDS": _names(dataset.container or dataset.name for dataset in primary),
        "outDS": _names(dataset.container or dataset.name for dataset in made),
        "statistics": statistics(found),
        "PandaID": list(found.job_ids),
        "mergePandaID": list(found.merge_job_ids),
        "mergeStatus": None,
    }


def statistics(found: pb.GetTaskDetailsResponse) -> str:
    """Return how far the records of the primary input are, `tobedone*5,finished*3,running*2`."""
    counts = found.task.counts
    live = {each.state: each.inputs for each in found.live_jobs}
    figures = {"tobedone": counts.inputs_ready, "finished": counts.inputs_finished, "failed": counts.inputs_failed}
    figures |= live | {"picked": counts.inputs_picked - sum(live.values())}
    return ",".join(f"{state}*{count}" for state, count in figures.items() if count > 0)


def _names(names: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(filter(None, names)))


def _listed(task: Task) -> dict[str, Any]:
    """Return what a list shows of a task. Raises CallFailed."""
    said = task.attributes
    return {
        "jediTaskID": task.task_id,
        "modificationTime": moments.written(task.update_time),
        "status": task.state,
        "processingType": task.processing_type,
        "transUses": said.get("transUses", ""),
        "transHome": said.get("transHome", ""),
        "architecture": said.get("architecture", ""),
        "reqID": task.request_id,
        "creationDate": moments.written(task.create_time),
        "site": said.get("site", ""),
        "cloud": said.get("cloud", ""),
        "taskName": task.name,
        **_digest(get_details(task.task_id, jobs=False)),
        "PandaID": [],
    }


def _request(owner: str, since: datetime | None, after: int) -> pb.ListTasksRequest:
    request = pb.ListTasksRequest(owner=owner, after_task_id=max(0, min(after, 2**63 - 1)))
    if since is not None:
        request.changed_since.FromDatetime(since)
    return request


def _tasks(request: pb.ListTasksRequest, wanted: Callable[[Task], bool], most: int) -> list[Task]:
    """Ask for tasks, newest first, and leave off when there are as many as wanted."""

    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[Task]:
        replies = stub.ListTasks(request, **arguments)
        read: Iterator[Task] = (task_of(task) for reply in replies for task in reply.tasks)
        found = list(itertools.islice(filter(wanted, read), most))
        replies.cancel()
        return found

    return call(_Stub, ask)


def _caller() -> str:
    def ask(stub: _AuthStub, arguments: dict[str, Any]) -> str:
        return stub.GetAuthInfo(auth_service_pb2.GetAuthInfoRequest(), **arguments).username

    return call(_AuthStub, ask)


def _user_name(dn: object) -> str:
    text = str(dn).strip()
    return getDN(text) if "/CN=" in text else text
