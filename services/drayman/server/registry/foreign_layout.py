"""What the folders of a registry that another system made become, and what is wrong with them. Pure.

Somebody else reads the documents and lists the folders; here it is decided which rows they make. What is damaged is not taken over, so that
it can be repaired, or looked into, as it was found. What merely looks odd is taken over and told.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from drayman.server.registry import documents, latest, names, permissions, quota
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Found, Kind
from drayman.server.registry.documents import Link, Summary
from drayman.server.registry.entries import Entry, check_tree, usage
from drayman.server.registry.linking import led_to
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota

_T = TypeVar("_T")

#: Problems that are told one by one; of the others only how many there are.
MOST_PROBLEMS = 100

# documents are written under such names first; a crash leaves them
_TEMPORARY = re.compile(r"\.temp[0-9A-Za-z]*\.json")
_LOCKS = ("..LOCK", "..LOCK_NEWDIR", "..LOCK_USAGE")
_KINDS = {
    Kind.FILE: "a file",
    Kind.DIRECTORY: "a directory",
    Kind.LINK: "a symbolic link",
    Kind.OTHER: "neither a file nor a directory",
}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that is there and cannot be read."""

    reason: str


#: What was read of a document; None = it is not there.
Document: TypeAlias = _T | Unreadable | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    #: relative to the folder that was looked at; empty = the folder itself
    path: str
    text: str
    #: whether because of it the folder is not taken over
    blocking: bool = False

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.text}" if self.path else self.text


@dataclass(frozen=True, slots=True)
class ForeignVersion:
    """A version's folder as it was found."""

    address: VersionAddress
    manifest: Document[Sequence[Entry]]
    summary: Document[Summary]
    #: path of each `..links` within the version -> what it says
    links: Mapping[str, Document[Mapping[str, Link]]]
    #: everything below the folder, documents included
    found: Iterable[Found]
    #: path of each symbolic link that leads to a file, in the end -> that file's size
    followed: Mapping[str, int]
    #: path -> MD5 and SHA-256 of what is there, for what was hashed
    hashes: Mapping[str, tuple[bytes, bytes]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionFindings:
    """What a version's folder becomes."""

    address: VersionAddress
    #: None = it cannot be taken over
    summary: Summary | None
    #: by path; with SHA-256 where it was hashed
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @property
    def usage(self) -> int:
        """Bytes that count towards the project's usage."""
        return usage(self.entries)


@dataclass(frozen=True, slots=True)
class ProjectFindings:
    """What a project's folder becomes."""

    name: str
    #: None = it cannot be taken over
    permissions: Permissions | None
    quota: Quota
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class AssetFindings:
    """What an asset's folder becomes."""

    name: str
    #: whether it can be taken over
    adoptable: bool
    #: None = it has none of its own
    permissions: Permissions | None
    problems: tuple[Problem, ...]


def read(document: bytes | None, reader: Callable[[bytes], _T]) -> Document[_T]:
    """Read a document, if it is there, with a reader that raises ValueError for what it cannot read."""
    if document is None:
        return None
    try:
        return reader(document)
    except ValueError as error:
        return Unreadable(str(error))


def printable(path: str) -> str:
    """Write a path so that any message can hold it: what is no UTF-8 or cannot be printed as its escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in path
    )


def texts(problems: Sequence[Problem]) -> list[str]:
    """Write problems for people, those that block first; of very many only the first, and how many there are."""
    told = [str(problem) for problem in sorted(problems, key=lambda problem: not problem.blocking)]
    rest = len(told) - MOST_PROBLEMS
    return [*told[:MOST_PROBLEMS], f"{rest:,} more problems"] if rest > 0 else told


def folders(found: Iterable[Found], what: str) -> tuple[list[str], list[Problem]]:
    """Say which folders of a listing are projects, assets or versions (`what`, in singular), by name, and what the others are.

    A problem that blocks is about that one name, not about the folder that was listed.
    """
    good: list[str] = []
    problems: list[Problem] = []
    for item in sorted(found, key=lambda item: item.path):
        if names.is_reserved(item.path) or _is_temporary(item):
            continue
        if item.kind is not Kind.DIRECTORY:
            problems.append(Problem(item.path, f"is {_KINDS[item.kind]}, and belongs to no {what}"))
            continue
        try:
            names.check_name(item.path)
        except ValueError as error:
            problems.append(Problem(item.path, str(error), blocking=True))
        else:
            good.append(item.path)
    return good, problems


def project(
    name: str, found_permissions: Document[Permissions], found_quota: Document[Quota], default_quota: Quota
) -> ProjectFindings:
    """Say what a project's folder becomes. Without readable permissions it is left: every project has them."""
    problems: list[Problem] = []
    granted = _permissions(found_permissions, problems)
    if found_permissions is None:
        text = "is missing: every project has it, if only with an empty list of owners"
        problems.append(Problem(documents.PERMISSIONS, text, blocking=True))
    limits = default_quota
    if found_quota is None:
        problems.append(Problem(documents.QUOTA, "is missing: the default is taken"))
    elif isinstance(found_quota, Unreadable):
        problems.append(Problem(documents.QUOTA, f"{found_quota.reason}: the default is taken"))
    else:
        try:
            quota.check_quota(found_quota)
            limits = found_quota
        except ValueError as error:
            problems.append(Problem(documents.QUOTA, f"{error}: the default is taken"))
    return ProjectFindings(name, granted, limits, tuple(problems))


def asset(name: str, found_permissions: Document[Permissions]) -> AssetFindings:
    """Say what an asset's folder becomes. It may have no permissions of its own, but those that it has must be readable."""
    problems: list[Problem] = []
    granted = _permissions(found_permissions, problems)
    if granted is not None:
        granted = dataclasses.replace(
            granted,
            # of an asset's uploaders this is not asked, and anybody may write to projects only
            uploaders=tuple(dataclasses.replace(uploader, asset=None) for uploader in granted.uploaders),
            global_write=None,
        )
    return AssetFindings(name, not any(problem.blocking for problem in problems), granted, tuple(problems))


def latest_version(
    recorded: Document[str], candidates: Sequence[latest.Candidate]
) -> tuple[latest.Candidate | None, list[Problem]]:
    """Say which version of an asset is its latest, of those that were taken over and are not on probation.

    That is what the document says, unless a version was uploaded in a later second.
    """
    newest = latest.recomputed(candidates)
    instead = f"{printable(newest.name)} is taken" if newest else "there is no latest version"
    if recorded is None:
        return newest, [Problem(documents.LATEST, f"is missing: {instead}")] if newest else []
    if isinstance(recorded, Unreadable):
        return newest, [Problem(documents.LATEST, f"{recorded.reason}: {instead}")]
    named = next((candidate for candidate in candidates if candidate.name == recorded), None)
    if named is None or newest is None:
        text = f"names {names.shown(recorded)}, which is no version that is complete and approved: {instead}"
        return newest, [Problem(documents.LATEST, text)]
    if named.second < newest.second:
        text = f"names {names.shown(recorded)}, but another version was uploaded after it: {instead}"
        return newest, [Problem(documents.LATEST, text)]
    return named, []


def total_usage(recorded: Document[int], total: int) -> list[Problem]:
    """Compare what a project's document says of its usage with what its versions add up to that were taken over."""
    if recorded == total:
        return []
    said = f"says {recorded:,} bytes" if isinstance(recorded, int) else recorded.reason if recorded else "is missing"
    return [Problem(documents.USAGE, f"{said}: the versions that were taken over add up to {total:,} bytes")]


def version(foreign: ForeignVersion, root: str = "") -> VersionFindings:
    """Say what a version's folder becomes. `root` is the path of the registry's folder, for symbolic links that name it."""
    inspection = _Inspection(foreign, root)
    inspection.run()
    problems = tuple(inspection.problems)
    if isinstance(foreign.summary, Summary) and not any(problem.blocking for problem in problems):
        entries = tuple(sorted(inspection.entries, key=lambda entry: entry.path))
        return VersionFindings(foreign.address, foreign.summary, entries, problems)
    return VersionFindings(foreign.address, None, (), problems)


def _permissions(found: Document[Permissions], problems: list[Problem]) -> Permissions | None:
    if isinstance(found, Unreadable):
        problems.append(Problem(documents.PERMISSIONS, found.reason, blocking=True))
        return None
    if found is not None:
        try:
            permissions.check(found)
        except ValueError as error:
            problems.append(Problem(documents.PERMISSIONS, f"{error}; it is kept as it is"))
    return found


def _is_temporary(item: Found) -> bool:
    return item.kind is Kind.FILE and _TEMPORARY.fullmatch(posixpath.basename(item.path)) is not None


class _Inspection:
    """Compares what a version's documents say with what is in its folder."""

    def __init__(self, foreign: ForeignVersion, root: str) -> None:
        self._foreign = foreign
        self._root = root
        self._found = {item.path: item for item in foreign.found}
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []

    def run(self) -> None:
        manifest = self._foreign.manifest
        if isinstance(manifest, Unreadable):
            self._block(documents.MANIFEST, manifest.reason)
        if isinstance(self._foreign.summary, Unreadable):
            self._block(documents.SUMMARY, self._foreign.summary.reason)
        if self._foreign.summary is None:
            self._block("", "an unfinished upload: it has no ..summary")
        elif manifest is None:
            self._block(documents.MANIFEST, "is missing: what belongs to the version is not known")
        if manifest is None or isinstance(manifest, Unreadable):
            return
        try:
            check_tree(entry.path for entry in manifest)
        except ValueError as error:
            self._block(documents.MANIFEST, str(error))
        for entry in manifest:
            self._entry(entry)
        self._links(manifest)
        self._extra({entry.path for entry in manifest})

    def _block(self, path: str, text: str) -> None:
        self.problems.append(Problem(path, text, blocking=True))

    def _tell(self, path: str, text: str) -> None:
        self.problems.append(Problem(path, text))

    def _entry(self, entry: Entry) -> None:
        """Look for an entry of the manifest."""
        try:
            entry.check()
            for address in (entry.target, entry.ancestor):
                if address is not None:
                    address.check()
        except ValueError as error:
            self._block(entry.path, f"the manifest cannot be right: {error}")
            return
        item = self._found.get(entry.path)
        if item is None:
            self._block(entry.path, "is in the manifest, and missing")
            return
        text = self._symlink(entry, item) if item.kind is Kind.LINK else self._wrong_kind(entry, item.kind)
        if not text and not entry.is_directory:
            size = self._foreign.followed[entry.path] if item.kind is Kind.LINK else item.size
            if size != entry.size:
                text = f"has {size:,} bytes, and {entry.size:,} in the manifest"
        md5, sha256 = self._foreign.hashes.get(entry.path, (None, None))
        if not text and md5 is not None and md5 != entry.md5:
            text = f"has the MD5 {md5.hex()}, and {entry.md5.hex() if entry.md5 else 'none'} in the manifest"
        if text:
            self._block(entry.path, text)
        else:
            self.entries.append(dataclasses.replace(entry, sha256=sha256) if sha256 is not None else entry)

    def _wrong_kind(self, entry: Entry, kind: Kind) -> str:
        """Say what is wrong with what is no symbolic link; empty if nothing is."""
        if entry.is_link:
            return f"is {_KINDS[kind]}, and a link in the manifest"
        if kind is not (Kind.DIRECTORY if entry.is_directory else Kind.FILE):
            return (
                f"is {_KINDS[kind]}, and {_KINDS[Kind.DIRECTORY if entry.is_directory else Kind.FILE]} in the manifest"
            )
        return ""

    def _symlink(self, entry: Entry, item: Found) -> str:
        """Say what is wrong with a symbolic link; empty if nothing is that keeps it from being read."""
        to = led_to(self._foreign.address.file(entry.path), item.text, self._root)
        shown = printable(item.text)
        if entry.is_directory:
            return "is a symbolic link, and an empty directory in the manifest"
        if entry.holder is None:
            # files of folders that all may read are linked to from outside
            if to is not None or not item.text.startswith("/"):
                return f"is a symbolic link to {shown}, and a file in the manifest"
        elif to not in (entry.holder, entry.target):
            return f"is a symbolic link to {shown}, and leads to {printable(entry.holder.key)} by the manifest"
        if entry.path not in self._foreign.followed:
            return f"is a symbolic link to {shown}, which is not there"
        if to is not None and to != entry.holder:
            self._tell(entry.path, f"leads to {shown}, not straight to the file that holds the content")
        if to is not None and item.text.startswith("/"):
            self._tell(entry.path, f"leads to {shown}: it will lead nowhere once the registry is moved")
        return ""

    def _links(self, manifest: Iterable[Entry]) -> None:
        """Compare the documents about links with the manifest, which says it all."""
        expected: dict[str, dict[str, Link]] = {}
        for entry in manifest:
            if entry.target is not None:
                folder, name = posixpath.split(entry.path)
                document = posixpath.join(folder, documents.LINKS)
                expected.setdefault(document, {})[name] = Link(entry.target, entry.ancestor)
        for path in sorted({*expected, *self._foreign.links}):
            read_links, links = self._foreign.links.get(path), expected.get(path, {})
            if isinstance(read_links, Unreadable):
                self._tell(path, read_links.reason)
            elif read_links is None:
                self._tell(path, "is missing; the manifest has its links")
            else:
                for name in sorted({*links, *read_links}):
                    if links.get(name) != read_links.get(name):
                        self._tell(path, f"{names.shown(name)} is not linked as the manifest says, which is believed")

    def _extra(self, known: set[str]) -> None:
        """Look for what is not in the manifest."""
        used = {posixpath.dirname(path) for path in (*known, *self._found)}
        for path, item in sorted(self._found.items()):
            folder, name = posixpath.split(path)
            if path in known or any(map(names.is_reserved, folder.split("/"))) or _is_temporary(item):
                continue
            if name in _LOCKS or path in (documents.MANIFEST, documents.SUMMARY) or name == documents.LINKS:
                continue
            if item.kind is not Kind.DIRECTORY or names.is_reserved(name):
                text = f"is {_KINDS[item.kind]} that is not in the manifest: it does not belong to the version"
                self._tell(path, text)
            elif path not in used:
                text = "is an empty directory that is not in the manifest: it does not belong to the version"
                self._tell(path, text)
