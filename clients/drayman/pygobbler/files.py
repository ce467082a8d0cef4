"""Files of a registry, as local paths: where it is mounted, else in the cache."""

from __future__ import annotations

import os

from drayman.pygobbler.cache import Cache
from drayman.pygobbler.connections import CONNECTIONS
from drayman.pygobbler.copying import Fetch
from drayman.pygobbler.listings import MISSING, is_local


def fetch_file(
    path: str,
    registry: str,
    url: str,
    cache: str | os.PathLike[str] | None = None,
    force_remote: bool = False,
    overwrite: bool = False,
) -> str:
    """Return where a file of the registry can be read: `path` is `project/asset/version/path`, or one of the registry's documents.

    That is its place in the mounted registry, whether it is there or not; else a copy below `cache`, fetched unless it is there and is
    what the service has. `overwrite` fetches it in any case. Raises RegistryError.
    """
    if is_local(registry, force_remote):
        return os.path.join(registry, path)
    kept = Cache(url, cache)
    target = kept.path(path)
    CONNECTIONS.run(url, lambda client: Fetch(client, kept, overwrite).file(path))
    return str(target)


def fetch_directory(
    path: str,
    registry: str,
    url: str,
    cache: str | os.PathLike[str] | None = None,
    force_remote: bool = False,
    overwrite: bool = False,
    concurrent: int = 1,
) -> str:
    """Return where a directory of the registry can be read: a project, an asset, a version or a directory of one.

    As `fetch_file`; of a copy only those files are fetched that are not there, or are not what the service has, and files that the service
    does not have any more are removed. Links are files there. `concurrent` streams share the files.
    """
    if is_local(registry, force_remote):
        return os.path.join(registry, path)
    kept = Cache(url, cache)
    target = kept.path(path)
    fetch = path.rstrip("/")
    CONNECTIONS.run(url, lambda client: Fetch(client, kept, overwrite, concurrent).directory(fetch), missing=MISSING)
    target.mkdir(parents=True, exist_ok=True)
    return str(target)


def version_path(
    project: str,
    asset: str,
    version: str,
    registry: str,
    url: str,
    cache: str | os.PathLike[str] | None = None,
    force_remote: bool = False,
    overwrite: bool = False,
    concurrent: int = 1,
) -> str:
    """Return where a version can be read, as `fetch_directory`."""
    return fetch_directory(
        f"{project}/{asset}/{version}",
        registry=registry,
        url=url,
        cache=cache,
        force_remote=force_remote,
        overwrite=overwrite,
        concurrent=concurrent,
    )
