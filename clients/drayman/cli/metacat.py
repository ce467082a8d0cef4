"""Files that a query finds in MetaCat, for a new project. MetaCat's own client does it, which is imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from drayman.client.files import File

#: What MetaCat says of a file outside its metadata.
_PROPERTIES = (
    "fid",
    "namespace",
    "name",
    "checksums",
    "size",
    "creator",
    "created_timestamp",
    "parents",
    "children",
    "datasets",
)


class QueryError(Exception):
    """The query cannot be made; the text says why."""


def query_files(query: str, fields: Sequence[str] = ()) -> list[File]:
    """Return what an MQL query finds.

    A file's `attributes` are the named fields: of the file's metadata, or properties such as `fid` and `size`; None where it has none.
    MetaCat is at `METACAT_SERVER_URL`. Raises QueryError.
    """
    try:
        client = import_module("metacat.webapi").MetaCatClient
    except ImportError as error:
        raise QueryError("file lists from queries need MetaCat's client: pip install metacat-client") from error
    if not os.environ.get("METACAT_SERVER_URL"):
        raise QueryError("METACAT_SERVER_URL does not say where MetaCat is")
    try:
        found = list(client().query(query, with_metadata=bool(fields)))
    except Exception as error:
        # its client raises what its HTTP library and its server make of it
        raise QueryError(f"MetaCat: {str(error).strip() or type(error).__name__}") from error
    return [File(info["namespace"], info["name"], {field: _value(info, field) for field in fields}) for info in found]


def _value(info: Mapping[str, Any], field: str) -> Any:
    if field in _PROPERTIES:
        return info.get(field)
    return (info.get("metadata") or {}).get(field)
