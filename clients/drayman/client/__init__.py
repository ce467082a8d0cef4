"""The native asyncio clients of a Drayman deployment.

async with DispatchClient("grpc://dispatch.example.org:8600") as dispatch:
    project = await dispatch.create_project([File("data", "run1.root")], attributes={"virtual": True})
    match await dispatch.next_file(project.project_id, "worker-1"):
        case Handle() as handle:
            await dispatch.done(handle)
"""

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
from drayman.client.logins import AuthInfo
from drayman.client.registry import RegistryClient
from drayman.client.session import FileFailed, FileInHand, FileReleased, WorkSession
from drayman.client.session_token import Session
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
    "NotFoundError",
    "NotOfferedError",
    "OverloadedError",
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
    "ServiceDefectError",
    "Session",
    "TimedOut",
    "UnauthenticatedError",
    "UnavailableError",
    "UrlError",
    "User",
    "WorkSession",
    "open_channel",
    "open_sync_channel",
]
