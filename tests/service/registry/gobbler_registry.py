"""Builds a registry as Gobbler leaves it, document by document, without any code of ours that reads or writes one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class To:
    """A link to another file of the registry, straight to its ancestor on disk."""

    project: str
    asset: str
    version: str
    path: str
    ancestor: To | None = None

    @property
    def document(self) -> dict[str, Any]:
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("project", "asset", "version", "path")}
        return fields | ({"ancestor": self.ancestor.document} if self.ancestor else {})

    @property
    def key(self) -> str:
        return f"{self.project}/{self.asset}/{self.version}/{self.path}"


@dataclass
class GobblerRegistry:
    """A registry that grows under `root`."""

    root: Path
    usage: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        for name in ("..LOCK", "..LOCK_NEWDIR"):
            (self.root / name).touch()
        logs = self.root / "..logs"
        logs.mkdir(exist_ok=True)
        entry = {"type": "add-version", "project": "p", "asset": "a", "version": "v1", "latest": True}
        write(logs / f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}_123456", entry)

    def project(
        self,
        name: str,
        owners: list[str],
        uploaders: list[dict[str, Any]] | None = None,
        global_write: bool | None = None,
    ) -> Path:
        folder = self.root / name
        folder.mkdir()
        for lock in ("..LOCK", "..LOCK_NEWDIR", "..LOCK_USAGE"):
            (folder / lock).touch()
        permissions: dict[str, Any] = {"owners": owners, "uploaders": uploaders or []}
        if global_write is not None:
            permissions["global_write"] = global_write
        write(folder / "..permissions", permissions)
        # the two that are not indented
        (folder / "..quota").write_text('{"baseline":1000000000,"growth_rate":1000000000,"year":2025}')
        (folder / "..usage").write_text('{"total":0}')
        self.usage[name] = 0
        return folder

    def asset(self, project: str, name: str, permissions: dict[str, Any] | None = None) -> Path:
        folder = self.root / project / name
        folder.mkdir()
        (folder / "..LOCK").touch()
        if permissions is not None:
            write(folder / "..permissions", permissions)
        return folder

    def version(
        self,
        project: str,
        asset: str,
        name: str,
        files: Mapping[str, bytes | To | None],
        *,
        user: str = "ann",
        finish: str = "2025-03-01T10:00:05+01:00",
        probation: bool = False,
        latest: bool = True,
    ) -> Path:
        """Put a version there: bytes are files, `To` are links, None are empty directories."""
        folder = self.root / project / asset / name
        folder.mkdir()
        manifest: dict[str, Any] = {}
        links: dict[str, dict[str, Any]] = {}
        for path, what in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if what is None:
                place.mkdir()
                manifest[path] = {"size": 0, "md5sum": ""}
            elif isinstance(what, To):
                holder = self.root / (what.ancestor or what).key
                place.symlink_to(os.path.relpath(holder, place.parent))
                data = holder.read_bytes()
                manifest[path] = described(data) | {"link": what.document}
                above, _, base = path.rpartition("/")
                links.setdefault(above, {})[base] = what.document
            else:
                place.write_bytes(what)
                manifest[path] = described(what)
        write(folder / "..manifest", dict(sorted(manifest.items())))
        for above, entries in links.items():
            write(folder / above / "..links", dict(sorted(entries.items())))
        summary = {"upload_user_id": user, "upload_start": "2025-03-01T10:00:00+01:00", "upload_finish": finish}
        write(folder / "..summary", summary | ({"on_probation": True} if probation else {}))
        self.usage[project] += sum(entry["size"] for entry in manifest.values() if "link" not in entry)
        write(self.root / project / "..usage", {"total": self.usage[project]})
        if latest and not probation:
            write(self.root / project / asset / "..latest", {"version": name})
        return folder


def described(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "md5sum": hashlib.md5(data).hexdigest()}


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=4))


def snapshot(root: Path) -> dict[str, tuple[str, bytes | str]]:
    """Read everything under a folder: kind and content by path."""
    found: dict[str, tuple[str, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        relative = str(path.relative_to(root))
        if path.is_symlink():
            found[relative] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[relative] = ("directory", b"")
        else:
            found[relative] = ("file", path.read_bytes())
    return found
