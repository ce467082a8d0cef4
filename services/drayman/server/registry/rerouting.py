"""What becomes of links before something is deleted that they lead to: they skip it, or become copies of its content. Pure.

The links of a registry form chains: each leads to its target, which is a link itself or holds the content. A chain keeps those of its files
that survive; the last of them holds the content from then on, and if it did not before, the content is copied to it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.names import check_name


@dataclass(frozen=True, slots=True, order=True)
class Doomed:
    """Something that is about to be deleted: a project, an asset, or a version."""

    project: str
    #: empty = the whole project
    asset: str = ""
    #: empty = the whole asset
    version: str = ""

    def check(self) -> None:
        """Raise ValueError for names that cannot be, and for a version without its asset; the text says which."""
        if self.version and not self.asset:
            raise ValueError("asset: it must not be empty where a version is given")
        for what, name in (("project", self.project), ("asset", self.asset), ("version", self.version)):
            if name or what == "project":
                try:
                    check_name(name)
                except ValueError as error:
                    raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """An entry that is a link."""

    address: FileAddress
    #: bytes of the content
    size: int
    target: FileAddress
    #: the file that holds the content, if the target is a link itself
    ancestor: FileAddress | None

    @property
    def holder(self) -> FileAddress:
        """The file that holds the content."""
        return self.ancestor or self.target


@dataclass(frozen=True, slots=True)
class Reroute:
    """A change of one entry. Changes of copies are to be made before those of other entries: these may lead to them."""

    #: of the entry, which is a link
    address: FileAddress
    #: what it leads to from now on; None = it becomes a copy and is no link any more
    target: FileAddress | None
    #: the file that will hold the content, if the new target is a link itself
    ancestor: FileAddress | None
    #: whether it becomes a copy
    copy: bool
    #: the doomed file that is why: the old target, or, if that one stays, the old ancestor
    source: FileAddress
    #: bytes that this adds to the usage of the entry's project; 0 unless it becomes a copy
    usage: int
    #: the file that holds the content until now: what is copied
    content: FileAddress

    @property
    def holder(self) -> FileAddress | None:
        """Where the link on disk has to lead to; None for a copy."""
        return self.ancestor or self.target


def plan(
    doomed: Iterable[Doomed], entries: Iterable[LinkEntry], missing: Collection[FileAddress] = ()
) -> list[Reroute]:
    """Say what has to change so that everything in `doomed` can be deleted and no other entry loses its content; sorted by address.

    `entries` are link entries, at least: all that lie in what is doomed, and all whose target or ancestor does. `missing` are files
    that links lead to and that are not there any more, because they were deleted by force: nothing is made to lead to them, and
    what has its content in one of them is lost already and left as it is.
    """
    doom = set(doomed)

    @functools.cache
    def is_doomed(version: VersionAddress) -> bool:
        project, asset = Doomed(version.project), Doomed(version.project, version.asset)
        return project in doom or asset in doom or Doomed(version.project, version.asset, version.version) in doom

    links = {entry.address: entry for entry in entries}
    gone = set(missing)
    dying = {
        address
        for entry in links.values()
        for address in (entry.address, entry.target, entry.ancestor)
        if address is not None and (address in gone or is_doomed(address.version_address))
    }
    survivors = _Survivors(links, dying)
    changes = []
    for address in sorted(links):
        entry = links[address]
        if address in dying or entry.holder in gone:
            continue
        if entry.target in dying and entry.target not in gone:
            source = entry.target
        elif entry.holder in dying:
            source = entry.holder
        else:
            continue
        changes.append(_reroute(entry, source, survivors, holder_stays=entry.holder not in dying))
    return changes


def _reroute(entry: LinkEntry, source: FileAddress, survivors: _Survivors, *, holder_stays: bool) -> Reroute:
    """Decide about one entry that cannot stay as it is."""
    first, last = survivors.beyond(entry)
    if holder_stays:
        first, last = first or entry.holder, entry.holder
    if first is None or last is None:
        return Reroute(entry.address, None, None, copy=True, source=source, usage=entry.size, content=entry.holder)
    ancestor = last if last != first else None
    return Reroute(entry.address, first, ancestor, copy=False, source=source, usage=0, content=entry.holder)


class _Survivors:
    """The first and the last file of chains that survive."""

    def __init__(self, links: Mapping[FileAddress, LinkEntry], dying: Collection[FileAddress]) -> None:
        self._links = links
        self._dying = dying
        # chains share their ends, and can be as long as an asset has versions: each link is looked at once
        self._known: dict[FileAddress, tuple[FileAddress | None, FileAddress | None]] = {}

    def beyond(self, entry: LinkEntry) -> tuple[FileAddress | None, FileAddress | None]:
        """Of the chain that begins with the entry's target."""
        chain: list[FileAddress] = []
        on_chain: set[FileAddress] = set()
        address = entry.target
        while address not in self._known and address not in on_chain:
            chain.append(address)
            on_chain.add(address)
            if address not in self._links:
                break
            address = self._links[address].target
        found = self._known.get(address, (None, None))
        # a chain that runs in a circle is damaged: it holds no content, so nothing may be made to lead into it
        circle = address in on_chain and address in self._links
        for link in reversed(chain):
            if link not in self._dying and not circle:
                found = (link, found[1] or link)
            self._known[link] = found
        return found
