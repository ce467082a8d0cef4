"""Makes symbolic links lead where the rows say."""

from __future__ import annotations

from collections.abc import Iterable

from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, Kind
from drayman.server.registry.entries import Entry
from drayman.server.registry.linking import symlink_text


async def restore_links(content: Content, at: VersionAddress, entries: Iterable[Entry]) -> int:
    """Correct the symbolic links of a version that lead elsewhere; returns how many did. `entries`: all of the version.

    Only a link is ever replaced: where a file stands in the place of one, it is a copy whose rows are still to come, and it is left.
    Raises ContentLost if the version's folder is gone, StorageFull. An object store has no links.
    """
    wanted = {entry.path: entry.holder for entry in entries if entry.holder is not None}
    if content.local_root is None or not wanted:
        return 0
    found = {item.path: item.text async for item in content.walk(at.folder) if item.kind is Kind.LINK}
    corrected = 0
    for path, holder in wanted.items():
        text = symlink_text(at.file(path), holder)
        if path in found and found[path] != text:
            await content.relink(f"{at.folder}/{path}", text)
            corrected += 1
    return corrected
