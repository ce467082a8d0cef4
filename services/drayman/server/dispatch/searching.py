"""Searches: the query read, run within limits, and paged."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

import asyncpg

from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch import messages, search_language, search_sql
from drayman.server.dispatch.search_tree import SearchError
from drayman.server.dispatch.store import Row, Store
from drayman.server.platform.errors import Refusal, invalid

_LARGEST_PAGE = 1000
_FIRST_PARAMETER = 4
#: A page token: the last project of the page before, and a digest of what was asked.
_TOKEN = struct.Struct(">q8s")


async def page(store: Store, request: pb.SearchProjectsRequest) -> tuple[list[Row], str]:
    """Return a page of rows and the token of the next one, empty on the last. Raises Refusal."""
    if request.page_size < 0:
        raise invalid("page_size", f"page_size {request.page_size} is negative")
    limit = min(request.page_size or 100, _LARGEST_PAGE)
    after = _read_token(request)
    try:
        condition = search_sql.condition(search_language.parse(request.query), _FIRST_PARAMETER)
    except SearchError as error:
        raise invalid("query", str(error), line=error.line, column=error.column) from error
    try:
        rows = await store.search_projects(
            condition,
            request.owner or None,
            messages.PROJECT_STATE_NAME.get(request.state),
            after,
            limit + 1,
        )
    except asyncpg.QueryCanceledError as error:
        raise Refusal("DEADLINE", "the search takes too long; ask for less, or by equality", "query") from error
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
        raise invalid("query", f"PostgreSQL does not take it: {error}") from error
    return rows[:limit], _token(request, rows[limit - 1]["project_id"]) if len(rows) > limit else ""


def _token(request: pb.SearchProjectsRequest, project_id: int) -> str:
    return base64.urlsafe_b64encode(_TOKEN.pack(project_id, _asked(request))).decode()


def _read_token(request: pb.SearchProjectsRequest) -> int:
    if not request.page_token:
        return 0
    try:
        project_id, asked = _TOKEN.unpack(base64.urlsafe_b64decode(request.page_token.encode()))
    except (ValueError, binascii.Error, struct.error):
        asked = b""
    if asked != _asked(request):
        raise invalid("page_token", f"{request.page_token!r} is not a page token of this search")
    return int(project_id)


def _asked(request: pb.SearchProjectsRequest) -> bytes:
    asked = "\0".join([request.query, request.owner, str(request.state)])
    return hashlib.blake2b(asked.encode(), digest_size=8).digest()
