"""What the files of a version make its entries, and how what is stored differs from what is known. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from drayman.server.registry import documents, linking, names
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import Found, Hashes
from drayman.server.registry.documents import Link
from drayman.server.registry.entries import Entry, check_tree

_T = TypeVar("_T")

#: Says which entry a published version of the registry has at an address; None = it has none.
Lookup = Callable[[FileAddress], Entry | None]


class Damaged(ValueError):
    """What is stored cannot be a version; the text says why."""


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """Something that is stored otherwise than it is known."""

    path: str
    text: str


@dataclass(slots=True)
class Survey:
    """What is stored of a version. Paths are relative to it."""

    #: everything that is there, the registry's own names included, by name
    found: list[Found] = field(default_factory=list)
    #: files of the version: path -> bytes
    files: dict[str, int] = field(default_factory=dict)
    #: symbolic links: path -> text
    links: dict[str, str] = field(default_factory=dict)
    #: directories without any file of the version
    empty: set[str] = field(default_factory=set)
    #: neither file nor directory nor link
    others: list[str] = field(default_factory=list)
    #: ..manifest, ..summary and every ..links: path -> content
    documents: dict[str, bytes] = field(default_factory=dict)
    #: other names that begin with two dots
    strays: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stored:
    """A version as it is stored."""

    at: VersionAddress
    survey: Survey
    #: of files, and of links that lead out of the registry; None = it cannot be read
    hashes: Mapping[str, Hashes | None]
    #: path of the registry's folder, for links that name it
    root: str

    def leads_to(self, path: str) -> FileAddress | None:
        """Where in the registry a symbolic link leads; None = out of it."""
        return linking.led_to(self.at.file(path), self.survey.links[path], self.root)


def recorded_links(survey: Survey) -> dict[str, Link]:
    """Read what every ..links says, by the path of the link. Raises Damaged."""
    found: dict[str, Link] = {}
    for path, document in survey.documents.items():
        folder, name = posixpath.split(path)
        if name == documents.LINKS:
            try:
                found |= {posixpath.join(folder, each): link for each, link in documents.read_links(document).items()}
            except ValueError as error:
                raise Damaged(f"{names.shown(path)}: {error}") from error
    return found


def index(stored: Stored, recorded: Mapping[str, Link], lookup: Lookup) -> list[Entry]:
    """Make the entries of a version from what is stored. `recorded`: the links as they were known.

    Raises Damaged for what cannot be an entry.
    """
    survey = stored.survey
    for path in survey.others:
        raise Damaged(f"{names.shown(path)} is neither a file nor a directory nor a symbolic link")
    entries = [Entry(path, 0, None) for path in sorted(survey.empty)]
    entries += [_hashed(path, stored.hashes.get(path)) for path in sorted(survey.files)]
    local: dict[str, str] = {}
    for path, text in sorted(survey.links.items()):
        to = stored.leads_to(path)
        if to is None:
            if not text.startswith("/"):
                raise Damaged(f"the link {names.shown(path)} leads to {names.shown(text)}, out of the registry")
            entries.append(_hashed(path, stored.hashes.get(path)))
        else:
            to = _first(path, to, recorded.get(path))
            if to.version_address == stored.at:
                local[path] = to.path
            else:
                entries.append(_link(path, to, lookup(to)))
    try:
        entries += linking.local_links(stored.at, entries, local)
        for entry in entries:
            entry.check()
        check_tree(entry.path for entry in entries)
    except ValueError as error:
        raise Damaged(str(error)) from error
    return sorted(entries, key=lambda entry: entry.path)


def differences(stored: Stored, entries: Iterable[Entry], lookup: Lookup) -> list[Difference]:
    """Say where what is stored of the files of a version differs from what is known of them, by path."""
    known = {entry.path: entry for entry in entries}
    survey = stored.survey
    found = []
    for path, entry in known.items():
        if entry.is_directory:
            if path not in survey.empty:
                found.append(Difference(path, f"missing: an empty directory, there is {_what(survey, path)}"))
        elif entry.is_link:
            found += _link_differences(stored, entry, lookup)
        elif path not in survey.files and not _leads_out(stored, path):
            found.append(Difference(path, f"missing: a file, there is {_what(survey, path)}"))
        else:
            found += _file_differences(entry, stored.hashes.get(path))
    for what, paths in (("file", survey.files), ("link", survey.links), ("empty directory", survey.empty)):
        found += [
            Difference(path, f"extra {what}: it does not belong to the version") for path in paths if path not in known
        ]
    found += [Difference(path, "extra file: neither a file nor a directory nor a link") for path in survey.others]
    found += [Difference(path, "extra file: a name of the registry that it does not use") for path in survey.strays]
    return sorted(found)


def document_differences(survey: Survey, entries: Iterable[Entry], summary: documents.Summary) -> list[Difference]:
    """Say where the documents of a version differ from what is known of it."""
    # SHA-256 is not in the documents
    known = [Entry(e.path, e.size, e.md5, None, e.target, e.ancestor) for e in sorted(entries, key=lambda e: e.path)]
    found = [
        *_document(survey, documents.MANIFEST, documents.read_manifest, known),
        *_document(survey, documents.SUMMARY, documents.read_summary, _seconds(summary), _seconds),
    ]
    links: dict[str, dict[str, Link]] = {}
    for entry in known:
        if entry.target is not None:
            folder, name = posixpath.split(entry.path)
            links.setdefault(posixpath.join(folder, documents.LINKS), {})[name] = Link(entry.target, entry.ancestor)
    stored = {path for path in survey.documents if posixpath.basename(path) == documents.LINKS}
    for path in sorted(stored | links.keys()):
        if path not in links:
            found.append(Difference(path, "extra file: there are no links in this directory"))
        else:
            found += _document(survey, path, documents.read_links, links[path])
    return found


def _hashed(path: str, hashes: Hashes | None) -> Entry:
    if hashes is None:
        raise Damaged(f"{names.shown(path)} cannot be read")
    return Entry(path, hashes.size, hashes.md5.digest(), hashes.sha256.digest())


def _first(path: str, to: FileAddress, recorded: Link | None) -> FileAddress:
    """Say what a link that leads to the file `to` was linked to first, by the record of it. Raises Damaged."""
    if recorded is None:
        return to
    if to not in (recorded.target, recorded.ancestor):
        raise Damaged(
            f"the link {names.shown(path)} leads to {names.shown(to.key)}, and by its ..links to "
            f"{names.shown(recorded.target.key)}"
        )
    return recorded.target


def _link(path: str, to: FileAddress, target: Entry | None) -> Entry:
    if target is None or target.is_directory:
        what = "which is no file of the registry" if target is None else "which is a directory"
        raise Damaged(f"the link {names.shown(path)} leads to {names.shown(to.key)}, {what}")
    return linking.link_to(path, to, target)


def _leads_out(stored: Stored, path: str) -> bool:
    """Whether there is a link to a folder that the whitelist has: it stands for a file."""
    text = stored.survey.links.get(path)
    return text is not None and text.startswith("/") and stored.leads_to(path) is None


def _link_differences(stored: Stored, entry: Entry, lookup: Lookup) -> list[Difference]:
    path, holder = entry.path, entry.holder
    assert holder is not None
    text = stored.survey.links.get(path)
    expected = linking.symlink_text(stored.at.file(path), holder)
    found = []
    if text is None:
        found.append(Difference(path, f"missing: a link to {holder.key}, there is {_what(stored.survey, path)}"))
    elif text != expected:
        found.append(Difference(path, f"leads to {names.shown(text)}, expected {names.shown(expected)}"))
    found += _target_differences(entry, holder, lookup)
    return found + _file_differences(entry, stored.hashes.get(path))


def target_differences(entry: Entry, lookup: Lookup) -> list[Difference]:
    """Say what is wrong with where a link leads, in the registry that has no symbolic links."""
    assert entry.holder is not None
    return _target_differences(entry, entry.holder, lookup)


def _target_differences(entry: Entry, holder: FileAddress, lookup: Lookup) -> list[Difference]:
    held = lookup(holder)
    if held is None:
        return [Difference(entry.path, f"leads to {holder.key}, which is no file of the registry")]
    if held.is_link:
        return [Difference(entry.path, f"leads to {holder.key}, which is a link itself")]
    if (held.size, held.md5) != (entry.size, entry.md5):
        return [Difference(entry.path, f"leads to {holder.key}, which is another file")]
    return []


def _file_differences(entry: Entry, hashes: Hashes | None) -> list[Difference]:
    assert entry.md5 is not None
    if hashes is None:
        return [Difference(entry.path, "cannot be read")]
    if hashes.size != entry.size:
        return [Difference(entry.path, f"has {hashes.size:,} bytes, expected {entry.size:,}")]
    if hashes.md5.digest() != entry.md5:
        return [Difference(entry.path, f"has the MD5 {hashes.md5.hexdigest()}, expected {entry.md5.hex()}")]
    if entry.sha256 is not None and hashes.sha256.digest() != entry.sha256:
        return [Difference(entry.path, f"has the SHA-256 {hashes.sha256.hexdigest()}, expected {entry.sha256.hex()}")]
    return []


def _document(
    survey: Survey,
    path: str,
    read: Callable[[bytes], _T],
    expected: _T,
    shape: Callable[[_T], _T] = lambda value: value,
) -> list[Difference]:
    if path not in survey.documents:
        return [Difference(path, "missing")]
    try:
        said = shape(read(survey.documents[path]))
    except ValueError as error:
        return [Difference(path, str(error))]
    return [] if said == expected else [Difference(path, "says something else than is known of the version")]


def _seconds(summary: documents.Summary) -> documents.Summary:
    """A summary as its document has it: in whole seconds."""
    return documents.Summary(
        summary.upload_user,
        summary.upload_start.replace(microsecond=0),
        summary.upload_finish.replace(microsecond=0),
        summary.on_probation,
    )


def _what(survey: Survey, path: str) -> str:
    if path in survey.files:
        return "a file"
    if path in survey.links:
        return "a symbolic link"
    if any(item.path == path for item in survey.found):
        return "something else"
    return "nothing"
