"""What the audit log holds: who did what to whom, and from where."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import asyncpg

from drayman.server.platform.calls import Call
from drayman.server.platform.database import load_queries

SQL = load_queries(Path(__file__).parent / "audit_queries.sql")

#: Names that were claimed come from strangers: they are kept short, and readable in every terminal.
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks: a user name, for a login the claimed one; the address without port; and the program."""

    name: str
    peer: str
    client: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `detail` never holds a secret."""

    action: str
    author: Author
    subject: str
    refused: bool = False
    reason: str = ""
    method: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


def author_of(call: Call, name: str | None = None) -> Author:
    """Say who makes a call; `name` for calls whose caller is not known yet."""
    metadata = {key: value for key, value in call.context.invocation_metadata() or () if isinstance(value, str)}
    if name is None:
        name = call.caller.username
    return Author(name, peer_address(call.context.peer()), metadata.get("user-agent", ""))


def peer_address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as `ipv4:192.0.2.1:4711` or `ipv6:%5B::1%5D:4711`; others as they are."""
    kind, _, rest = unquote(peer).partition(":")
    if kind in ("ipv4", "ipv6"):
        return rest.rpartition(":")[0].strip("[]")
    return unquote(peer)


async def record(connection: asyncpg.Pool | Any, *events: Event) -> None:
    """Write events, in the transaction of the connection."""
    for event in events:
        await connection.execute(
            SQL["record"],
            event.action,
            _presentable(event.author.name),
            _presentable(event.subject),
            event.refused,
            _presentable(event.reason),
            event.method,
            event.author.peer,
            _presentable(event.author.client),
            json.dumps(dict(event.detail)),
        )


def _presentable(text: str) -> str:
    shown = "".join(c if unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text[:_LONGEST])
    return shown + ("…" if len(text) > _LONGEST else "")
