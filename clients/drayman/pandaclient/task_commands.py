"""Commands for tasks. Each is carried out when the function returns.

PanDA, sections 3.1, 5.3 and 5.5 of its behaviour. The codes: 0 accepted, 1 a server's error, 2 no such task, 3 not the caller's, 4 not in
the state that the task is in, 100 without a token, 101 not a task's id; note that 0 is false.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.pandaclient.identifiers import identifier, whole
from drayman.task.v1 import task_service_pb2 as pb
from drayman.task.v1 import task_service_pb2_grpc

_Stub = task_service_pb2_grpc.TaskServiceStub

_ACCEPTED, _ERROR, _UNKNOWN, _NOT_ALLOWED, _ANONYMOUS, _NO_ID = 0, 1, 2, 3, 100, 101
_INCREMENTAL = 3
#: Larger than any increase that the service takes.
_TOO_MUCH = 2**31 - 1

#: (status, (code, message)), or (255, None or a text).
Result = tuple[int, Any]


def killTask(jediTaskID: int | str, verbose: bool = False) -> Result:
    """Kill a task: returns `(0, (code, message))` or `(255, None)`. What finished is kept; the task ends `aborted`."""
    return shown(_without_text(_give(jediTaskID, pb.TASK_COMMAND_KILL)), verbose)


def finishTask(jediTaskID: int | str, soft: bool = False, verbose: bool = False) -> Result:
    """End a task on what has finished: returns `(0, (code, message))` or `(255, None)`. With `soft` jobs that run may end themselves."""
    command = pb.TASK_COMMAND_FINISH_SOFT if soft else pb.TASK_COMMAND_FINISH
    return shown(_without_text(_give(jediTaskID, command)), verbose)


def retryTask(
    jediTaskID: int | str,
    verbose: bool = False,
    properErrorCode: bool = False,
    newParams: Mapping[str, Any] | None = None,
) -> Result:
    """Try again what was not processed: returns `(0, (code, message))` or `(255, None)`. Codes are numbers in any case.

    With `newParams` that are not empty the task is run again with these: success is 3, an unknown task 1, and one that is `done` is
    accepted. With `properErrorCode` a task of the caller's that runs is accepted: what failed in it is tried again.
    """
    try:
        parameters = json.dumps(newParams) if newParams else ""
    except (TypeError, ValueError, RecursionError) as error:
        return shown((0, (_ERROR, f"newParams cannot be JSON: {error}")), verbose)
    result = _give(jediTaskID, pb.TASK_COMMAND_RETRY, new_parameters_json=parameters, retry_live=bool(properErrorCode))
    return shown(_without_text(result), verbose)


def reload_input(task_id: int | str, verbose: bool = False) -> Result:
    """Read a task's input lists anew and process what is new and what was not: returns `(0, (code, message))` or `(255, text)`."""
    return shown(_give(task_id, pb.TASK_COMMAND_RELOAD_INPUT), verbose)


def pauseTask(jediTaskID: int | str, verbose: bool = False) -> Result:
    """Hold a task: returns `(0, (code, message))` or `(255, text)`. Jobs that run go on. Its owner may, and administrators."""
    return shown(_give(jediTaskID, pb.TASK_COMMAND_PAUSE), verbose)


def resumeTask(jediTaskID: int | str, verbose: bool = False) -> Result:
    """Let a paused task go on where it was: returns `(0, (code, message))` or `(255, text)`."""
    return shown(_give(jediTaskID, pb.TASK_COMMAND_RESUME), verbose)


def reactivateTask(jediTaskID: int | str, verbose: bool = False) -> Result:
    """Run a task from the beginning: returns `(0, (code, message))` or `(255, text)`.

    Its codes are the other way round than those of all other commands: **1 it is done, 0 no such task**; 3 not the caller's, None another
    refusal, 100 and 101 as always.
    """
    status, payload = _give(jediTaskID, pb.TASK_COMMAND_REACTIVATE)
    if status == 0:
        code, message = payload
        known: dict[int, int | None] = {_ACCEPTED: 1, _UNKNOWN: 0, _ERROR: None, 4: None}
        payload = known.get(code, code), message
    return shown((status, payload), verbose)


def increase_attempt_nr(task_id: int | str, increase: int = 3, verbose: bool = False) -> Result:
    """Allow more attempts at all inputs that are not processed: returns `(0, (code, message))` or `(255, text)`.

    Codes: 0 done, 1 no such task, 2 it neither runs nor is ready, 3 not the caller's, 4 `task_id` or `increase` is no number or is
    negative, 100 without a token.
    """
    number, more = identifier(task_id), whole(increase)
    if more is None or number is None:
        more = -1  # the service refuses it, when it has looked at who asks
    more = max(-1, min(more, _TOO_MUCH))
    result = _ask(number or 0, pb.TASK_COMMAND_INCREASE_ATTEMPTS, increase=more)
    if isinstance(result, CallFailed):
        return shown(_failure(result), verbose)
    message = result.message
    if number is None:
        message = f"task id {task_id!r} is no integer"
    elif whole(increase) is None:
        message = f"increase {increase!r} is no integer"
    return shown((0, (result.code, message)), verbose)


def send_file_recovery_request(task_id: int | str, dry_run: bool = False, verbose: bool = False) -> Result:
    """Compare what a task made with what the registry has, and run again what is missing.

    Returns `(0, (True, message))` or `(0, (False, message))`, `(255, text)` if there was no answer. With `dry_run` nothing is changed. The
    task has to be done or finished, and the caller's. The message lists the missing files. Section 8.3.
    """
    number = identifier(task_id)

    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.RecoverLostFilesResponse:
        return stub.RecoverLostFiles(
            pb.RecoverLostFilesRequest(task_id=number or 0, dry_run=bool(dry_run)), **arguments
        )

    try:
        found = call(_Stub, ask)
    except CallFailed as failure:
        result: Result = (0, (False, failure.text)) if failure.answered else (FAILED, failure.text)
        return shown(result, verbose)
    message = found.message if number is not None else f"task id {task_id!r} is no integer"
    if found.lost:
        message += "\n" + "\n".join(found.lost)
    return shown((0, (found.accepted, message)), verbose)


def _give(task_id: object, command: pb.TaskCommand, **details: Any) -> Result:
    """Give a command. What is no task's id is asked about all the same: whether there is a token counts first."""
    number = identifier(task_id)
    answer = _ask(number or 0, command, **details)
    if isinstance(answer, CallFailed):
        return _failure(answer)
    if number is None:
        return 0, (_NO_ID, f"task id {task_id!r} is no integer")
    code = _INCREMENTAL if answer.code == _ACCEPTED and answer.incremental else answer.code
    return 0, (code, answer.message)


def _ask(number: int, command: pb.TaskCommand, **details: Any) -> pb.CommandTaskResponse | CallFailed:
    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.CommandTaskResponse:
        return stub.CommandTask(pb.CommandTaskRequest(task_id=number, command=command, **details), **arguments)

    try:
        return call(_Stub, ask)
    except CallFailed as failure:
        return failure


def _failure(failure: CallFailed) -> Result:
    if failure.anonymous:
        return 0, (_ANONYMOUS, failure.text)
    if failure.shut_out:
        return 0, (_NOT_ALLOWED, failure.text)
    return (0, (_ERROR, failure.text)) if failure.answered else (FAILED, failure.text)


def _without_text(result: Result) -> Result:
    return result if result[0] == 0 else (result[0], None)
