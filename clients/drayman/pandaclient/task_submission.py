"""New tasks.

PanDA, sections 3.1 and 4.6 of its behaviour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.pandaclient.identifiers import identifier, whole
from drayman.task.v1 import task_service_pb2 as pb
from drayman.task.v1 import task_service_pb2_grpc

_Stub = task_service_pb2_grpc.TaskServiceStub

_WRONG = 4
_ANONYMOUS = 100
#: Codes of submissions that did something.
_DONE = (0, 3, 5)


def insertTaskParams(
    taskParams: Mapping[str, Any],
    verbose: bool = False,
    properErrorCode: bool = False,
    parent_tid: int | str | None = None,
) -> tuple[int, Any]:
    """Submit a task; returns `(0, (code, message, jediTaskID))`, or `(255, text)` if there was no answer.

    With `properErrorCode` the code is 0 for a new task, 1 if one of the name is queued, 2 if one is active (or broken), 3 if one that was
    over is run again with what is new, 4 if the parameters are wrong, 10 if the user has too many active tasks, 11 if there is no task
    `parentTaskName`, 100 without a token; without it, True for 0 and 3, else False. The id is that of the task, for 1, 2 and 3 the one
    that was there, else None; the message has `new jediTaskID=<id>` for a new one. Section 3.1.
    """
    parent = identifier(parent_tid) if parent_tid not in (None, "", 0) else 0
    if parent is None or (not parent and parent_tid not in (None, "", 0) and whole(parent_tid) != 0):
        return shown((0, _answer(_WRONG, f"parent_tid {parent_tid!r} is no task's id", 0, properErrorCode)), verbose)
    try:
        text = json.dumps(taskParams)
    except (TypeError, ValueError, RecursionError) as error:
        return shown((0, _answer(_WRONG, f"taskParams cannot be JSON: {error}", 0, properErrorCode)), verbose)
    request = pb.SubmitTaskRequest(parameters_json=text, parent_task_id=parent, request_id=str(uuid4()))

    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.SubmitTaskResponse:
        return stub.SubmitTask(request, **arguments)

    try:
        reply = call(_Stub, ask)
    except CallFailed as failure:
        if not failure.answered:
            return shown((FAILED, failure.text), verbose)
        code = _ANONYMOUS if failure.anonymous else _WRONG
        return shown((0, _answer(code, failure.text, 0, properErrorCode)), verbose)
    return shown((0, _answer(reply.code, reply.message, reply.task_id, properErrorCode)), verbose)


def _answer(code: int, message: str, task_id: int, proper: bool) -> tuple[int | bool, str, int | None]:
    return code if proper else code in _DONE, message, task_id or None
