"""The native asyncio clients of a Drayman deployment.

async with DispatchClient("grpc://dispatch.example.org:8600") as dispatch:
    project = await dispatch.create_project([File("data", "run1.root")], attributes={"virtual": True})
    match await dispatch.next_file(project.project_id, "worker-1"):
        case Handle() as handle:
            await dispatch.done(handle)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drayman.client.auth import AuthClient, Role, User
    from drayman.client.channel import DEFAULT_URL, UrlError, open_channel, open_sync_channel
    from drayman.client.dispatch import DispatchClient
    from drayman.client.errors import (
        AlreadyExistsError,
        DeadlineError,
        DraymanError,
        ForbiddenError,
        InvalidRequestError,
        NotFoundError,
        NotOfferedError,
        OverloadedError,
        PreconditionError,
        ServiceDefectError,
        UnauthenticatedError,
        UnavailableError,
    )
    from drayman.client.files import Counts, File, Handle, Project, ProjectEnded, Reason, Replica, Report, Rse, TimedOut
    from drayman.client.history import HandleEvent, ProjectEvent
    from drayman.client.jobs import JobsClient
    from drayman.client.logins import AuthInfo
    from drayman.client.pilots import PilotClient
    from drayman.client.registry import RegistryClient
    from drayman.client.sandboxes import SandboxClient
    from drayman.client.session import FileFailed, FileInHand, FileReleased, WorkSession
    from drayman.client.session_token import Session
    from drayman.client.tasks import TaskClient
    from drayman.client.watching import Progress

__all__ = [
    "DEFAULT_URL",
    "AlreadyExistsError",
    "AuthClient",
    "AuthInfo",
    "Counts",
    "DeadlineError",
    "DispatchClient",
    "DraymanError",
    "File",
    "FileFailed",
    "FileInHand",
    "FileReleased",
    "ForbiddenError",
    "Handle",
    "HandleEvent",
    "InvalidRequestError",
    "JobsClient",
    "NotFoundError",
    "NotOfferedError",
    "OverloadedError",
    "PilotClient",
    "PreconditionError",
    "Progress",
    "Project",
    "ProjectEnded",
    "ProjectEvent",
    "Reason",
    "RegistryClient",
    "Replica",
    "Report",
    "Role",
    "Rse",
    "SandboxClient",
    "ServiceDefectError",
    "Session",
    "TaskClient",
    "TimedOut",
    "UnauthenticatedError",
    "UnavailableError",
    "UrlError",
    "User",
    "WorkSession",
    "open_channel",
    "open_sync_channel",
]

# Looked up when somebody asks: a program that needs one client need not wait for all of them.
_HOMES = {
    name: module
    for module, names in {
        "auth": ("AuthClient", "Role", "User"),
        "channel": ("DEFAULT_URL", "UrlError", "open_channel", "open_sync_channel"),
        "dispatch": ("DispatchClient",),
        "errors": (
            "AlreadyExistsError",
            "DeadlineError",
            "DraymanError",
            "ForbiddenError",
            "InvalidRequestError",
            "NotFoundError",
            "NotOfferedError",
            "OverloadedError",
            "PreconditionError",
            "ServiceDefectError",
            "UnauthenticatedError",
            "UnavailableError",
        ),
        "files": (
            "Counts",
            "File",
            "Handle",
            "Project",
            "ProjectEnded",
            "Reason",
            "Replica",
            "Report",
            "Rse",
            "TimedOut",
        ),
        "history": ("HandleEvent", "ProjectEvent"),
        "jobs": ("JobsClient",),
        "logins": ("AuthInfo",),
        "pilots": ("PilotClient",),
        "registry": ("RegistryClient",),
        "sandboxes": ("SandboxClient",),
        "session": ("FileFailed", "FileInHand", "FileReleased", "WorkSession"),
        "session_token": ("Session",),
        "tasks": ("TaskClient",),
        "watching": ("Progress",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
