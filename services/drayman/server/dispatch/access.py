"""Who may call which RPC of dispatch. Owners and workers of a project are checked where the project is known."""

from drayman.server.platform.calls import Access, Rule

PROJECT_SERVICE = {
    "CreateProject": Rule(Access.USER),
    "CopyProject": Rule(Access.USER),
    "GetProject": Rule(Access.READ),
    "ListProjects": Rule(Access.READ),
    "ListHandles": Rule(Access.READ),
    "CancelProject": Rule(Access.USER, "the owner or an administrator"),
    "ActivateProject": Rule(Access.USER, "the owner or an administrator"),
    "RestartHandles": Rule(Access.USER, "the owner or an administrator"),
    "DeleteProject": Rule(Access.USER, "the owner or an administrator"),
    "ExplainProject": Rule(Access.READ),
    "WatchProject": Rule(Access.READ),
    "SearchProjects": Rule(Access.READ),
    "AddFiles": Rule(Access.USER, "the owner or an administrator"),
}

HANDLE_SERVICE = {
    "NextFile": Rule(
        Access.USER, "who may work on the project: its owner, listed users, members of listed roles, administrators"
    ),
    "ReserveFiles": Rule(Access.USER, "as NextFile"),
    "Report": Rule(Access.USER, "who holds the handle, by its worker id"),
    "RenewLease": Rule(Access.USER, "who holds the handle, by its worker id"),
    "ListReserved": Rule(Access.READ),
    "GetHandle": Rule(Access.READ),
    "Work": Rule(Access.USER, "as NextFile"),
}

HISTORY_SERVICE = {
    "ListProjectEvents": Rule(Access.READ),
    "ListHandleEvents": Rule(Access.READ),
}

STORAGE_SERVICE = {
    "CreateRse": Rule(Access.ADMIN),
    "GetRse": Rule(Access.READ),
    "ListRses": Rule(Access.READ),
    "UpdateRse": Rule(Access.ADMIN),
    "DeleteRse": Rule(Access.ADMIN),
    "UpdateReplicas": Rule(Access.ADMIN),
    "ListReplicas": Rule(Access.READ),
    "UpdateProximity": Rule(Access.ADMIN),
    "ListProximity": Rule(Access.READ),
}

TABLES = {
    "drayman.dispatch.v1.ProjectService": PROJECT_SERVICE,
    "drayman.dispatch.v1.HandleService": HANDLE_SERVICE,
    "drayman.dispatch.v1.HistoryService": HISTORY_SERVICE,
    "drayman.dispatch.v1.StorageService": STORAGE_SERVICE,
}
