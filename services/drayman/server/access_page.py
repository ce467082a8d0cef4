"""The page that says who may call what, written from the tables that are enforced.

`python -m drayman.server.access_page > docs/authorization.md` writes it anew; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from drayman.server.auth import access as auth
from drayman.server.dispatch import access as dispatch
from drayman.server.platform.calls import Access, Rule
from drayman.server.platform.grpc_server import SYSTEM_SERVICE
from drayman.server.registry import access as registry
from drayman.server.task import access as task

#: Every service of every proto.
TABLES: Mapping[str, Mapping[str, Rule]] = {
    **auth.TABLES,
    **dispatch.TABLES,
    **registry.TABLES,
    **task.TABLES,
    "drayman.system.v1.SystemService": SYSTEM_SERVICE,
}

_HEAD = """# Who may call what

Written by `python -m drayman.server.access_page` from the tables that the services enforce: an RPC that is missing from them does not
start. The first column of rules is checked at the door, in `platform/calls.py`, before a request is even decoded; the second by the
servicer, which knows the object. gRPC's own health and reflection services are open to everybody (`DRAYMAN_REFLECTION=false` ends the
latter).
"""


def page(tables: Mapping[str, Mapping[str, Rule]]) -> str:
    """Write the page, in Markdown."""
    lines = [_HEAD]
    lines += [f"- **{access.name}**: {access.value}." for access in Access]
    for service, table in tables.items():
        lines += ["", f"## {service}", "", "| RPC | who | and of those |", "|---|---|---|"]
        lines += [f"| {name} | {rule.access.name} | {rule.further} |" for name, rule in table.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(TABLES))
