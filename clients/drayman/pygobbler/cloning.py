"""A version as a tree of links into the mounted registry: to be changed, and uploaded as the next one."""

from __future__ import annotations

from pathlib import Path

from drayman.pygobbler import documents
from drayman.pygobbler.stored import read_document


def clone_version(project: str, asset: str, version: str, destination: str, registry: str) -> None:
    """Make the folder `destination` with a link for each file of a version, and its empty directories.

    Needs the registry mounted. Raises FileNotFoundError for a version that is not there, FileExistsError for names that are.
    """
    root = Path(registry, project, asset, version).absolute()
    manifest = read_document(root / documents.MANIFEST)
    target = Path(destination)
    target.mkdir(parents=True, exist_ok=True)
    for path, entry in manifest.items():
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError(f"{path!r}: not a path within a version")
        made = target / path
        made.parent.mkdir(parents=True, exist_ok=True)
        if entry["md5sum"]:
            made.symlink_to(root / path)
        else:
            made.mkdir()
