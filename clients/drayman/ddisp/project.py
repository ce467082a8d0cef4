"""`ddisp project`: lists of files to be worked on."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from drayman.ddisp import file_sources
from drayman.ddisp.client import Client, Counts
from drayman.ddisp.command import Command, Group, Option, Options
from drayman.ddisp.endings import Answer, Misuse
from drayman.ddisp.handle_table import print_handles
from drayman.ddisp.output import print_block, print_json, print_line, print_table
from drayman.ddisp.project_creation import COPY, CREATE
from drayman.ddisp.values import HANDLE_STATES, PROJECT_STATES, attributes, did, one_of, project_id

_JSON = Option("j", "", "print JSON")
_NUMBER = ("<project id>", (1, 1))


def _show(client: Client, options: Options, operands: list[str]) -> None:
    number = project_id(operands[0])
    wanted = options.get("f", "all")
    if wanted not in ("all", *HANDLE_STATES):
        raise Answer(f"Invalid file state {wanted!r}: expected all, {', '.join(HANDLE_STATES)}")
    only_attributes = "a" in options
    found = client.get_project(number, with_files=not only_attributes, with_replicas=not only_attributes)
    if found is None:
        raise Answer(f"Project {number} not found")
    if only_attributes:
        _print_attributes(found["attributes"], as_json="j" in options)
        return
    if wanted != "all":
        found["file_handles"] = [handle for handle in found["file_handles"] if handle["state"] == wanted]
    if "j" in options:
        print_json(found)
    else:
        _print_project(found, with_replicas="r" in options)


def _print_attributes(given: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(given)
    else:
        for name, value in sorted(given.items()):
            print_line(f"{name} {value}")


def _print_project(found: Mapping[str, Any], *, with_replicas: bool) -> None:
    fields = [
        ("Project ID", found["project_id"]),
        ("Owner", found["owner"]),
        ("Created", _utc(found["created_timestamp"])),
        ("Ended", _utc(found["ended_timestamp"])),
    ]
    print_block(fields, width=20)
    # a query may have many lines
    print_line(f"{'Query:':<20} {textwrap.indent(found['query'] or '', ' ' * 10).lstrip()}".rstrip())
    print_block(
        [
            ("Status", found["state"]),
            # None is said, as it always was
            ("Worker timeout", str(found["worker_timeout"])),
            ("Idle timeout", str(found["idle_timeout"])),
            ("Authorized users", ", ".join(sorted(found["users"]))),
            ("           roles", ", ".join(sorted(found["roles"]))),
        ],
        width=20,
    )
    print_line("Project Attributes:")
    for name, value in found["attributes"].items():
        print_line(f"  {name:<15} = {value if isinstance(value, int | float | str) else json.dumps(value)}")
    print_line("Handles:")
    print_handles(found["file_handles"], with_replicas=with_replicas)


def _list(client: Client, options: Options, _operands: list[str]) -> None:
    state = one_of(options.get("s", "active"), ("all", *PROJECT_STATES), "s")
    # abandoned projects are only listed if they are asked for
    left_out = None if state in ("all", "abandoned") else "abandoned"
    not_state = one_of(options["n"], PROJECT_STATES, "n") if "n" in options else left_out
    owner = options.get("u") or client.auth_info()[0]
    wanted = attributes(options.get("a", ""))
    if "j" in options:
        print_json(client.list_projects(owner=owner, state=state, not_state=not_state, attributes=wanted))
    else:
        _print_table(client.summaries(owner, state, not_state, wanted))


def _search(client: Client, options: Options, words: list[str]) -> None:
    if bool(words) == ("q" in options):
        raise Misuse("give the words of a query, or -q and a file, one of the two")
    query = file_sources.query_in(options["q"]) if "q" in options else " ".join(words)
    state = one_of(options.get("s", "active"), ("all", *PROJECT_STATES), "s")
    owner = options.get("u")
    if "j" in options:
        print_json(client.search_projects(query, owner=owner, state=state))
    else:
        _print_table(client.found(query, owner, state))


def _print_table(projects: Iterable[tuple[Mapping[str, Any], Counts]]) -> None:
    rows = (
        (
            project["project_id"],
            project["owner"],
            _local(project["created_timestamp"]),
            project["state"],
            _slashed(counts),
        )
        for project, counts in projects
    )
    print_table(("Project id", "Owner", "Created", "State", "Done/Failed/Total"), rows)


def _slashed(counts: Counts) -> str:
    return "/".join(map(str, counts))


def _restart(client: Client, options: Options, operands: list[str]) -> None:
    number, dids = project_id(operands[0]), [did(each) for each in operands[1:]]
    if not options and not dids:
        raise Misuse("say which files to restart: DIDs, or -f, -d, -r, -a")
    flags = {"done": "d" in options, "failed": "f" in options, "reserved": "r" in options, "all": "a" in options}
    if client.restart_handles(number, handles=dids, **flags) is None:
        raise Answer(f"Project {number} not found")


def _change(change: Callable[[Client, int], Any]) -> Callable[[Client, Options, list[str]], None]:
    def run(client: Client, options: Options, operands: list[str]) -> None:
        changed = change(client, project_id(operands[0]))
        if "j" in options:
            print_json(changed)

    return run


def _utc(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y/%m/%d %H:%M:%S UTC", time.gmtime(seconds))


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


_STATE = Option("s", "<state>", f"only projects in it: all, {', '.join(PROJECT_STATES)}; default active")

PROJECT = Group(
    "lists of files to be worked on",
    {
        "create": CREATE,
        "copy": COPY,
        "show": Command(
            _show,
            "show a project and its files",
            *_NUMBER,
            (
                Option("a", "", "only the project's attributes"),
                Option("r", "", "the files' replicas too"),
                _JSON,
                Option("f", "<state>", f"only files in this state: all, {', '.join(HANDLE_STATES)}"),
            ),
        ),
        "list": Command(
            _list,
            "list projects",
            options=(
                _JSON,
                Option("u", "<owner>", "projects of this user, or all; default: one's own"),
                _STATE,
                Option("n", "<state>", "not those in this state; default abandoned, unless asked for by -s"),
                Option("a", "<attributes>", 'only projects with these attributes: "name=value ...", or @<JSON file>'),
            ),
        ),
        "search": Command(
            _search,
            "list the projects that a query finds",
            "[query words]",
            (0, None),
            (
                Option("q", "<file>|-", "the query is in this file; - is standard input"),
                _STATE,
                Option("u", "<owner>", "only projects of this user"),
                _JSON,
            ),
        ),
        "restart": Command(
            _restart,
            "have files worked on again: those named, or those in some states",
            "<project id> [<DID> ...]",
            (1, None),
            (
                Option("f", "", "files that failed"),
                Option("d", "", "files that are done"),
                Option("r", "", "files that workers hold"),
                Option("a", "", "all of these"),
            ),
        ),
        "activate": Command(_change(Client.activate_project), "let a project hand out files again", *_NUMBER, (_JSON,)),
        "cancel": Command(_change(Client.cancel_project), "stop handing out files", *_NUMBER, (_JSON,)),
        "delete": Command(_change(Client.delete_project), "remove a project for good", *_NUMBER),
    },
)
