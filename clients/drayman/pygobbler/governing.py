"""What changes projects, assets and versions. `staging` is taken and not needed: who one is says the token."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from drayman.client.errors import DraymanError
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Doomed
from drayman.pygobbler.connections import CONNECTIONS
from drayman.pygobbler.errors import RegistryError
from drayman.pygobbler.permissions import sendable

#: What the service of the mirrored interface answers if what is to be spared does not exist, and where content is damaged.
_TROUBLE = 500
#: Others may begin to link to what is about to be removed.
_TRIES = 5


def service_info(url: str) -> dict[str, str]:
    """Tell where the service's folders are: a dict of `staging` and `registry`."""

    async def ask(client: RegistryClient) -> dict[str, str]:
        info = await client.info()
        return {"staging": info.staging, "registry": info.registry}

    return CONNECTIONS.run(url, ask)


def create_project(
    project: str,
    staging: str,
    url: str,
    owners: Sequence[str] | None = None,
    uploaders: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Create a project, owned by the caller unless `owners` are given. Uploaders are as for `set_permissions`. For administrators."""
    sent = sendable(uploaders or ())
    CONNECTIONS.run(url, lambda client: client.create_project(project, owners=owners, uploaders=sent))


def remove_project(project: str, staging: str, url: str) -> None:
    """Remove a project; one that is not there is no error. For administrators.

    Files of others that are links to its files are made independent before: nothing but the project is lost.
    """
    _remove(url, lambda client, force: client.delete_project(project, force=force), Doomed(project), force=False)


def remove_asset(project: str, asset: str, staging: str, url: str, force: bool = False) -> None:
    """Remove an asset; one that is not there is no error. `force`: also if it is damaged. Others as `remove_project`."""
    _remove(
        url, lambda client, force: client.delete_asset(project, asset, force=force), Doomed(project, asset), force=force
    )


def remove_version(project: str, asset: str, version: str, staging: str, url: str, force: bool = False) -> None:
    """Remove a version; one that is not there is no error. `force`: also if it is damaged. Others as `remove_project`."""
    _remove(
        url,
        lambda client, force: client.delete_version(project, asset, version, force=force),
        Doomed(project, asset, version),
        force=force,
    )


def approve_probation(project: str, asset: str, version: str, staging: str, url: str, spoof: str | None = None) -> None:
    """Approve a version that waits. For owners of the project and administrators; `spoof` acts as somebody else."""
    CONNECTIONS.run(url, lambda client: client.approve_probation(project, asset, version, spoof=spoof or ""))


def reject_probation(
    project: str, asset: str, version: str, staging: str, url: str, force: bool = False, spoof: str | None = None
) -> None:
    """Reject a version that waits: it is removed. For owners of the project, who uploaded it, and administrators."""
    CONNECTIONS.run(
        url, lambda client: client.reject_probation(project, asset, version, force=force, spoof=spoof or "")
    )


def refresh_latest(project: str, asset: str, staging: str, url: str) -> str | None:
    """Find the latest version of an asset again; returns its name, None if there is none. For administrators."""
    return CONNECTIONS.run(url, lambda client: client.refresh_latest(project, asset))


def refresh_usage(project: str, staging: str, url: str) -> int:
    """Add the usage of a project up again; returns its bytes. For administrators."""
    return CONNECTIONS.run(url, lambda client: client.refresh_usage(project))


def reindex_version(project: str, asset: str, version: str, staging: str, url: str) -> None:
    """Rebuild the manifest and the links of a version from what is stored. For administrators."""
    CONNECTIONS.run(url, lambda client: client.reindex_version(project, asset, version))


def validate_version(project: str, asset: str, version: str, staging: str, url: str) -> None:
    """Compare what is stored of a version with what is known of it. For administrators. Raises RegistryError with all differences."""
    differences = CONNECTIONS.run(url, lambda client: client.validate_version(project, asset, version))
    if differences:
        raise RegistryError(_TROUBLE, "; ".join(f"{each.path}: {each.text}" for each in differences))


def reroute_links(
    to_delete: Sequence[Mapping[str, str]], staging: str, url: str, dry_run: bool = False
) -> list[dict[str, Any]]:
    """Make links independent of what is about to be deleted; deletes nothing. For administrators.

    `to_delete` are dicts of `project`, and of `asset` and `version` where less is meant. Returns a dict for each link that changed:
    `path`, whether it became a `copy`, `source` and the bytes of `usage` that it adds. With `dry_run` nothing changes.
    """
    doomed = [_doomed(each) for each in to_delete]
    changes = CONNECTIONS.run(url, lambda client: client.reroute_links(doomed, dry_run=dry_run), missing=_TROUBLE)
    return [{"path": each.path, "copy": each.copy, "source": each.source, "usage": each.usage} for each in changes]


def _doomed(given: Mapping[str, str]) -> Doomed:
    names = [given.get(name) for name in ("project", "asset", "version")]
    if not names[0] or not all(name is None or isinstance(name, str) for name in names):
        raise RegistryError(400, f"{dict(given)!r}: expected project, project and asset, or project, asset and version")
    return Doomed(*(name or "" for name in names))


def _remove(
    url: str, delete: Callable[[RegistryClient, bool], Coroutine[Any, Any, bool]], doomed: Doomed, *, force: bool
) -> None:
    """Remove something without harm to others: what links to it is made independent first, also where damage is forced."""

    async def remove(client: RegistryClient) -> None:
        for _ in range(_TRIES):
            try:
                await delete(client, False)
                return
            except DraymanError as error:
                if error.reason != "LINKED_TO":
                    if not force:
                        raise
                    break
            try:
                await client.reroute_links([doomed])
            except DraymanError:
                if not force:
                    raise
                break
        await delete(client, force)

    CONNECTIONS.run(url, remove)
