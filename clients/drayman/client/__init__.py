"""The native asyncio clients of a Drayman deployment.

async with DispatchClient("grpc://dispatch.example.org:8600") as dispatch:
    project = await dispatch.create_project([File("data", "run1.root")], attributes={"virtual": True})
    match await dispatch.next_file(project.project_id, "worker-1"):
        case Handle() as handle:
            await dispatch.done(handle)
"""

from drayman.client.auth import AuthClient, AuthInfo, Role, Session, User
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
from drayman.client.files import Counts, File, Handle, Project, ProjectEnded, Replica, Report, Rse, TimedOut

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
    "ForbiddenError",
    "Handle",
    "InvalidRequestError",
    "NotFoundError",
    "NotOfferedError",
    "OverloadedError",
    "PreconditionError",
    "Project",
    "ProjectEnded",
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
    "open_channel",
    "open_sync_channel",
]
