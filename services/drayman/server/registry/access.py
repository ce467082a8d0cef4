"""Who may call which RPC of the registry. Owners and uploaders are checked where the project is known."""

from drayman.server.platform.calls import Access, Rule

_OWNER = "owners of the project, administrators"

REGISTRY_SERVICE = {
    "GetRegistryInfo": Rule(Access.PUBLIC),
    "CreateProject": Rule(Access.ADMIN),
    "GetProject": Rule(Access.READ),
    "ListProjects": Rule(Access.READ),
    "DeleteProject": Rule(Access.ADMIN),
    "ListAssets": Rule(Access.READ),
    "DeleteAsset": Rule(Access.ADMIN),
    "ListVersions": Rule(Access.READ),
    "GetVersion": Rule(Access.READ),
    "GetLatest": Rule(Access.READ),
    "ListEntries": Rule(Access.READ),
    "DeleteVersion": Rule(Access.ADMIN),
    "GetPermissions": Rule(Access.READ),
    "SetPermissions": Rule(Access.USER, "owners of the project; of an asset also its owners; administrators"),
    "SetQuota": Rule(Access.ADMIN),
    "ListProbation": Rule(Access.USER, _OWNER),
    "ApproveProbation": Rule(Access.USER, _OWNER),
    "RejectProbation": Rule(Access.USER, "owners of the project, who uploaded it, administrators"),
    "RefreshLatest": Rule(Access.ADMIN),
    "RefreshUsage": Rule(Access.ADMIN),
    "ReindexVersion": Rule(Access.ADMIN),
    "ValidateVersion": Rule(Access.ADMIN),
    "RerouteLinks": Rule(Access.ADMIN),
    "ListChanges": Rule(Access.READ),
    "AdoptRegistry": Rule(Access.ADMIN),
}

CONTENT_SERVICE = {
    "Upload": Rule(
        Access.USER,
        "owners, uploaders, anybody where the project has global_write; administrators; who has a warrant for the version",
    ),
    "UploadStaged": Rule(Access.USER, "as Upload, and the directory must be the caller's"),
    "Download": Rule(Access.READ),
    "PresignFiles": Rule(Access.READ),
}

OUTPUT_SERVICE = {
    "OpenOutputProject": Rule(Access.SERVICE),
    "AssembleVersion": Rule(Access.SERVICE),
}

TABLES = {
    "drayman.registry.v1.RegistryService": REGISTRY_SERVICE,
    "drayman.registry.v1.ContentService": CONTENT_SERVICE,
    "drayman.registry.v1.OutputService": OUTPUT_SERVICE,
}
