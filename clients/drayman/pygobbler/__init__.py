"""The mirror of pygobbler: the same functions over a Drayman deployment. `url` is `grpc://HOST:PORT`, who one is says a token.

import drayman.pygobbler as pyg

Reads of a registry that is mounted read its files, as there; everything else asks the service.
"""

from drayman.pygobbler.cloning import clone_version
from drayman.pygobbler.errors import RegistryError
from drayman.pygobbler.fetching import fetch_latest, fetch_manifest, fetch_summary, fetch_usage
from drayman.pygobbler.files import fetch_directory, fetch_file, version_path
from drayman.pygobbler.governing import (
    approve_probation,
    create_project,
    refresh_latest,
    refresh_usage,
    reindex_version,
    reject_probation,
    remove_asset,
    remove_project,
    remove_version,
    reroute_links,
    service_info,
    validate_version,
)
from drayman.pygobbler.listings import list_assets, list_files, list_projects, list_versions
from drayman.pygobbler.paths import unpack_path
from drayman.pygobbler.permissions import fetch_permissions, set_permissions
from drayman.pygobbler.server import start_gobbler, stop_gobbler
from drayman.pygobbler.uploading import allocate_upload_directory, upload_directory

__all__ = [
    "RegistryError",
    "allocate_upload_directory",
    "approve_probation",
    "clone_version",
    "create_project",
    "fetch_directory",
    "fetch_file",
    "fetch_latest",
    "fetch_manifest",
    "fetch_permissions",
    "fetch_summary",
    "fetch_usage",
    "list_assets",
    "list_files",
    "list_projects",
    "list_versions",
    "refresh_latest",
    "refresh_usage",
    "reindex_version",
    "reject_probation",
    "remove_asset",
    "remove_project",
    "remove_version",
    "reroute_links",
    "service_info",
    "set_permissions",
    "start_gobbler",
    "stop_gobbler",
    "unpack_path",
    "upload_directory",
    "validate_version",
    "version_path",
]
