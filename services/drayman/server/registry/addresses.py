"""Where something is in the registry. Pure.

Addresses are made from what was checked before (rows, documents); `parse` and `check` are for what comes from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

from drayman.server.registry import names


@dataclass(frozen=True, slots=True, order=True)
class VersionAddress:
    """A version."""

    project: str
    asset: str
    version: str

    @classmethod
    def parse(cls, folder: str) -> VersionAddress:
        """Read `project/asset/version`. Raises ValueError."""
        parts = folder.split("/")
        if len(parts) != 3:
            raise ValueError(f"{names.shown(folder)} is no version: expected PROJECT/ASSET/VERSION")
        address = cls(*parts)
        address.check()
        return address

    @property
    def folder(self) -> str:
        """Path of the version's folder from the registry's root."""
        return f"{self.project}/{self.asset}/{self.version}"

    def file(self, path: str) -> FileAddress:
        """Address of one of its files."""
        return FileAddress(self.project, self.asset, self.version, path)

    def check(self) -> None:
        """Raise ValueError for a name that cannot be; the text says which one."""
        for what, name in (("project", self.project), ("asset", self.asset), ("version", self.version)):
            try:
                names.check_name(name)
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True, order=True)
class FileAddress:
    """A file of a version."""

    project: str
    asset: str
    version: str
    #: within the version
    path: str

    @classmethod
    def parse(cls, key: str) -> FileAddress:
        """Read `project/asset/version/path`. Raises ValueError."""
        parts = key.split("/", 3)
        if len(parts) != 4:
            raise ValueError(f"{names.shown(key)} is no file: expected PROJECT/ASSET/VERSION/PATH")
        address = cls(*parts)
        address.check()
        return address

    @property
    def folder(self) -> str:
        """Path of its version's folder from the registry's root."""
        return f"{self.project}/{self.asset}/{self.version}"

    @property
    def key(self) -> str:
        """Path of the file from the registry's root."""
        return f"{self.project}/{self.asset}/{self.version}/{self.path}"

    @property
    def version_address(self) -> VersionAddress:
        """The version that it belongs to."""
        return VersionAddress(self.project, self.asset, self.version)

    def check(self) -> None:
        """Raise ValueError for a name or a path that cannot be."""
        self.version_address.check()
        names.check_path(self.path)
