"""`ddisp file`: the files of a project."""

from __future__ import annotations

from typing import Any

from drayman.data_dispatcher import arguments
from drayman.data_dispatcher.api import NotFoundError
from drayman.ddisp.client import Client
from drayman.ddisp.command import Command, Group, Option, Options
from drayman.ddisp.endings import Answer
from drayman.ddisp.handle_table import by_preference, print_handles
from drayman.ddisp.output import print_block, print_json, print_keys, print_line, yes_no
from drayman.ddisp.values import HANDLE_STATES, did, project_id


def _show(client: Client, options: Options, operands: list[str]) -> None:
    number, name = project_id(operands[0]), did(operands[1])
    handle = _find(client, number, name)
    if handle is None:
        raise Answer(f"File {name} not found in project {number}")
    if "j" in options:
        print_json(handle)
        return
    print_keys({key: value for key, value in handle.items() if key != "replicas"})
    print_line("replicas:")
    for replica in by_preference(handle):
        fields = [
            ("Preference", replica["preference"]),
            ("RSE", replica["rse"]),
            ("Path", replica["path"]),
            ("URL", replica["url"]),
            ("Available", yes_no(replica["available"] and replica["rse_available"])),
        ]
        print_block(fields, width=12, indent="  ")


def _find(client: Client, number: int, name: str) -> dict[str, Any] | None:
    # a namespace may have colons, too
    for reading in (arguments.did(name), *arguments.other_readings(name)):
        handle = client.get_handle(number, reading.namespace, reading.name)
        if handle is not None:
            return handle
    return None


def _list(client: Client, options: Options, operands: list[str]) -> None:
    number, state, rse = project_id(operands[0]), options.get("s"), options.get("r")
    if state is not None and state not in HANDLE_STATES:
        raise Answer(f"Invalid file state {state!r}: expected {', '.join(HANDLE_STATES)}")
    try:
        handles = client.list_handles(number, state=state, with_replicas=True)
    except NotFoundError:
        raise Answer(f"Project {number} not found") from None
    if rse is not None:
        handles = [handle for handle in handles if rse in handle["replicas"]]
    if "j" in options:
        print_json(handles)
    else:
        print_handles(handles)


FILE = Group(
    "the files of a project",
    {
        "show": Command(
            _show, "show a file of a project", "<project id> <DID>", (2, 2), (Option("j", "", "print JSON"),)
        ),
        "list": Command(
            _list,
            "list the files of a project",
            "<project id>",
            (1, 1),
            (
                Option("s", "<state>", f"only files in this state: {', '.join(HANDLE_STATES)}"),
                Option("r", "<RSE>", "only files with a replica there"),
                Option("j", "", "print JSON"),
            ),
        ),
    },
)
