"""Entries whose content is stored elsewhere in the registry: which ones, and where their links lead. Pure.

A link says what was linked to, its target, and if that is a link itself, also which file holds the content, its ancestor. On disk it leads
straight to the file that holds the content.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence

from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.names import shown

#: What was linked to, and the file that holds the content if that is another one.
Link = tuple[FileAddress, FileAddress | None]


class Dedup:
    """What the latest version of an asset holds already.

    A file is the same if size and MD5 are, and SHA-256 where both have one; without an MD5, if size and SHA-256 are.
    """

    def __init__(self, latest_entries: Iterable[Entry], latest: VersionAddress) -> None:
        """Take the entries of the asset's latest version, and its address."""
        self._latest = latest
        self._by_size: dict[int, list[Entry]] = {}
        #: by size and either hash
        self._by_content: dict[tuple[int, bytes], list[Entry]] = {}
        for entry in latest_entries:
            if entry.md5 is not None:
                self._by_size.setdefault(entry.size, []).append(entry)
                self._by_content.setdefault((entry.size, entry.md5), []).append(entry)
                if entry.sha256 is not None:
                    self._by_content.setdefault((entry.size, entry.sha256), []).append(entry)

    def link_for(self, size: int, md5: bytes | None, sha256: bytes | None, path: str = "") -> Link | None:
        """Find a file with this content; None if there is none. Either hash is enough.

        Of several the one at `path` is taken, the path of the new file, else the one with the smallest path.
        """
        chosen = self.find(size, md5, sha256, path)
        return None if chosen is None else (self._latest.file(chosen.path), chosen.holder)

    def find(self, size: int, md5: bytes | None, sha256: bytes | None, path: str = "") -> Entry | None:
        """As `link_for`: the entry that it leads to."""
        known = md5 or sha256
        if known is None:
            return None
        same = [
            entry
            for entry in self._by_content.get((size, known), ())
            if sha256 is None or entry.sha256 is None or entry.sha256 == sha256
        ]
        return min(same, key=lambda entry: (entry.path != path, entry.path), default=None)

    def of_size(self, size: int) -> Sequence[Entry]:
        """The files of a size."""
        return self._by_size.get(size, ())


def local_links(at: VersionAddress, entries: Iterable[Entry], links: Mapping[str, str]) -> list[Entry]:
    """Turn links to other files of the same upload into entries, in the order of `links`.

    `entries` are the other files of the version `at`, also those that became links to elsewhere. `links` has for the path of each
    link the path that it leads to: of a file, or of another link. Raises ValueError, which names the link's path, for one that
    leads to nothing, to a directory, or back to itself.
    """
    known = {entry.path: entry for entry in entries}
    for path in links:
        if path in known:
            raise ValueError(f"{shown(path)} is there twice: as a link and as a file")
    folders: set[str] | None = None
    for path in links:
        chain: list[str] = []
        on_chain: set[str] = set()
        end = path
        while end not in known:
            if end in on_chain:
                raise ValueError(f"the link {shown(path)} leads back to {shown(end)}: a link must lead to a file")
            if end not in links:
                folders = _folders(known) if folders is None else folders
                what = "is a directory" if end in folders else "is not part of the upload"
                raise ValueError(
                    f"the link {shown(chain[-1])} leads to {shown(end)}, which {what}: a link must lead to a file"
                )
            chain.append(end)
            on_chain.add(end)
            end = links[end]
        if known[end].is_directory:
            raise ValueError(
                f"the link {shown(chain[-1])} leads to {shown(end)}, which is a directory: a link must lead to a file"
            )
        for link in reversed(chain):
            known[link] = link_to(link, at.file(end), known[end])
            end = link
    return [known[path] for path in links]


def registry_link(
    path: str, at: VersionAddress, target: FileAddress, found: Entry | None, *, on_probation: bool
) -> Entry:
    """Turn a link to a file of another version into an entry of the version `at`.

    `found` is the entry that the published version of `target` has there, if it has one; `on_probation`, whether that version waits for
    approval. Raises ValueError, which names the link's path, for what cannot be linked to.
    """
    if target.version_address == at:
        problem = "is in the version that is being uploaded: link to it by its path in the upload"
    elif found is None:
        problem = "is not there: a link must lead to a file of a published version"
    elif on_probation:
        problem = "waits for approval with its version: a link must lead to a file of an approved version"
    elif found.is_directory:
        problem = "is a directory: a link must lead to a file"
    else:
        return link_to(path, target, found)
    raise ValueError(f"the link {shown(path)} leads to {shown(target.key)}, which {problem}")


def link_to(path: str, target: FileAddress, found: Entry) -> Entry:
    """Make the entry of a link: same content as `found`, the entry at `target`, stored where that is stored."""
    return Entry(path, found.size, found.md5, found.sha256, target, found.holder)


def symlink_text(at: FileAddress, to: FileAddress) -> str:
    """Text of the symbolic link at `at` that leads to `to`: relative, so that the registry can be moved as a whole."""
    if at == to:
        raise ValueError(f"{shown(at.key)} cannot be a link to itself")
    return posixpath.relpath(f"/{to.key}", f"/{posixpath.dirname(at.key)}")


def led_to(at: FileAddress, text: str, root: str = "") -> FileAddress | None:
    """Say where in the registry a symbolic link at `at` leads, by its text alone; None if not to what could be a file of a version.

    An absolute text leads there only if it is below `root`, the path of the registry's folder.
    """
    if not text.startswith("/"):
        # normpath leaves the steps that climb above the registry at the beginning
        joined = posixpath.normpath(f"{posixpath.dirname(at.key)}/{text}")
    else:
        below = f"{posixpath.normpath(root)}/"
        joined = posixpath.normpath(text)
        if not root or not joined.startswith(below):
            return None
        joined = joined.removeprefix(below)
    parts = joined.split("/", 3)
    if len(parts) != 4 or parts[0] == "..":
        return None
    return FileAddress(*parts)


def _folders(known: Mapping[str, Entry]) -> set[str]:
    """Directories that contain something."""
    folders: set[str] = set()
    for path in known:
        folder = posixpath.dirname(path)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return folders
