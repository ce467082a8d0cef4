"""Reads what is stored of a version: what there is, the documents, and the hashes of its files."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import cast

from drayman.server.registry import documents, names
from drayman.server.registry.content import Content, ContentLost, Found, Hashes, Kind
from drayman.server.registry.indexing import Survey

#: Files that are hashed at a time.
_AT_ONCE = 4


async def survey(content: Content, folder: str) -> Survey:
    """Look at the folder of a version. Raises ContentLost if there is none."""
    seen = Survey()
    parents: set[str] = set()
    wanted: list[str] = []
    async with aclosing(cast("AsyncGenerator[Found, None]", content.walk(folder))) as walk:
        async for item in walk:
            seen.found.append(item)
            above, _, name = item.path.rpartition("/")
            if any(map(names.is_reserved, above.split("/"))):
                continue
            if names.is_reserved(name):
                if item.kind is Kind.FILE and _is_document(item.path):
                    wanted.append(item.path)
                else:
                    seen.strays.append(item.path)
                continue
            parents.add(above)
            match item.kind:
                case Kind.FILE:
                    seen.files[item.path] = item.size
                case Kind.LINK:
                    seen.links[item.path] = item.text
                case Kind.DIRECTORY:
                    seen.empty.add(item.path)
                case Kind.OTHER:
                    seen.others.append(item.path)
    seen.empty -= parents
    contents = await content.read_small([f"{folder}/{path}" for path in wanted])
    seen.documents.update(zip(wanted, contents, strict=True))
    return seen


async def hash_files(content: Content, keys: Iterable[str]) -> dict[str, Hashes | None]:
    """Hash files, a few at a time; links are followed. None = it cannot be read: it leads nowhere, or has gone."""
    found: dict[str, Hashes | None] = {}
    left = iter(dict.fromkeys(keys))

    async def work() -> None:
        for key in left:
            try:
                found[key] = await content.hashes(key)
            except ContentLost:
                found[key] = None

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return found


def _is_document(path: str) -> bool:
    return path in (documents.MANIFEST, documents.SUMMARY) or posixpath.basename(path) == documents.LINKS
