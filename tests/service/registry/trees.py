"""Folders to upload, and what a registry made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(folder: Path, files: Mapping[str, bytes | None]) -> Path:
    """Write files; None is a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        place = folder / path
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder, links followed, without the registry's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith("..") for part in path.relative_to(folder).parts)
    }


def document(path: Path) -> Any:
    """Read a document of a registry."""
    return json.loads(path.read_bytes())


def check_version(folder: Path, expected: Mapping[str, bytes]) -> None:
    """Check that a version is in its place, all of it, and that its documents say so."""
    assert contents(folder) == dict(expected)
    manifest = document(folder / "..manifest")
    assert {path: entry["md5sum"] for path, entry in manifest.items() if entry["md5sum"]} == {
        path: hashlib.md5(content).hexdigest() for path, content in expected.items()
    }
    summary = document(folder / "..summary")
    assert summary["upload_user_id"]
    assert summary["upload_finish"]


def leads(link: Path) -> str:
    """Text of a symbolic link."""
    return str(link.readlink())


def leftovers(root: Path) -> list[str]:
    """What is on its way into the registry, or out of it: but for documents, which nobody waits for."""
    return sorted(
        str(path.relative_to(root))
        for name in ("..incoming", "..trash")
        if (root / name).is_dir()
        for path in (root / name).iterdir()
        if not path.name.startswith("temporary-")
    )
