"""Who may call which RPC of dispatch. Owners and workers of a project are checked where the project is known."""

from drayman.server.platform.calls import Access

PROJECT_SERVICE = {
    "CreateProject": Access.USER,
    "CopyProject": Access.USER,
    "GetProject": Access.READ,
    "ListProjects": Access.READ,
    "ListHandles": Access.READ,
    "CancelProject": Access.USER,
    "ActivateProject": Access.USER,
    "RestartHandles": Access.USER,
    "DeleteProject": Access.USER,
    "ExplainProject": Access.READ,
    "WatchProject": Access.READ,
    "SearchProjects": Access.READ,
    "AddFiles": Access.USER,
}

HANDLE_SERVICE = {
    "NextFile": Access.USER,
    "ReserveFiles": Access.USER,
    "Report": Access.USER,
    "RenewLease": Access.USER,
    "ListReserved": Access.READ,
    "GetHandle": Access.READ,
    "Work": Access.USER,
}

HISTORY_SERVICE = {
    "ListProjectEvents": Access.READ,
    "ListHandleEvents": Access.READ,
}

STORAGE_SERVICE = {
    "CreateRse": Access.ADMIN,
    "GetRse": Access.READ,
    "ListRses": Access.READ,
    "UpdateRse": Access.ADMIN,
    "DeleteRse": Access.ADMIN,
    "UpdateReplicas": Access.ADMIN,
    "ListReplicas": Access.READ,
    "UpdateProximity": Access.ADMIN,
    "ListProximity": Access.READ,
}
