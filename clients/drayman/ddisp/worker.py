"""`ddisp worker`: take files, say what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drayman.data_dispatcher.api import APIError, NotFoundError
from drayman.ddisp.client import Client
from drayman.ddisp.command import PATIENTLY, Command, Group, Option, Options
from drayman.ddisp.endings import Answer, Misuse, Refusal
from drayman.ddisp.output import print_json, print_keys, print_line
from drayman.ddisp.values import did, project_id, seconds

_WORKER = Option("w", "<worker id>", "who works; default: what `ddisp worker id` prints")
_DIDS = ("<project id> <DID>|all", (2, 2))


def _id(client: Client, options: Options, operands: list[str]) -> None:
    if "n" in options and operands:
        raise Misuse("give a worker id or -n, one of the two")
    if "n" in options or operands:
        client.new_worker_id(operands[0] if operands else None)
    if not client.WorkerID:
        raise Answer("worker id unknown")
    print_line(client.WorkerID)


def _list(client: Client, options: Options, operands: list[str]) -> None:
    number = project_id(operands[0])
    handles = _reserved(client, number, options)
    if "j" in options:
        print_json(handles)
    else:
        for handle in handles:
            print_keys(handle)


def _reserved(client: Client, number: int, options: Options) -> list[dict[str, Any]]:
    try:
        return client.reserved_handles(number, options.get("w"))
    except NotFoundError:
        raise Refusal(f"Project {number} not found") from None


def _next(client: Client, options: Options, operands: list[str]) -> None:
    number = project_id(operands[0])
    timeout = seconds(options["t"], "t") if "t" in options else None
    # before a file is reserved for somebody who cannot be told
    sink = Path(options["J"]).open("a", encoding="utf-8") if "J" in options else None  # noqa: SIM115 - closed below
    try:
        reply = client.next_file(number, options.get("c"), options.get("w"), timeout)
        if isinstance(reply, bool):
            _no_file("timeout" if reply else "done", as_json="j" in options)
        else:
            # nearest first, as the client has them
            reply["replicas"] = list(reply["replicas"].values())
            if sink is not None:
                sink.truncate(0)
                sink.write(json.dumps(reply, indent=2, sort_keys=True) + "\n")
                sink.flush()
            if "j" in options:
                print_json(reply)
            else:
                print_line(f"{reply['namespace']}:{reply['name']}")
    except NotFoundError:
        raise Refusal(f"Project {number} not found") from None
    finally:
        if sink is not None:
            sink.close()


def _no_file(state: str, *, as_json: bool) -> None:
    raise Answer(json.dumps({"state": state}, indent=2, sort_keys=True) if as_json else state)


def _file_after_j(words: list[str]) -> list[str]:
    """Read the documented `-j FILE` as `-J FILE`. A word behind `-j` that is the last one is the project, and `-j` alone."""
    for place, word in enumerate(words[:-2]):
        if word == "-j" and not words[place + 1].startswith("-"):
            return [*words[:place], "-J", *words[place + 1 :]]
    return list(words)


def _report(report: Callable[[Client, Options, int, Any], object]) -> Callable[[Client, Options, list[str]], None]:
    def run(client: Client, options: Options, operands: list[str]) -> None:
        number, name = project_id(operands[0]), operands[1]
        if name != "all":
            report(client, options, number, did(name))
            return
        # one that was taken back in the meantime keeps nobody from reporting the others
        refused: list[str] = []
        for handle in _reserved(client, number, options):
            try:
                report(client, options, number, handle)
            except APIError as error:
                if error.StatusCode not in (403, 404):
                    raise
                refused.append(f"{handle['namespace']}:{handle['name']}: {error.Message}")
        if refused:
            raise Refusal("; ".join(refused))

    return run


def _done(client: Client, options: Options, number: int, file: Any) -> object:
    return client.file_done(number, file, options.get("w"))


def _failed(client: Client, options: Options, number: int, file: Any) -> object:
    return client.file_failed(number, file, retry="f" not in options, worker_id=options.get("w"))


WORKER = Group(
    "take files, say what became of them",
    {
        "id": Command(
            _id,
            "print the worker id of this folder; with an operand or -n, set it first",
            "[<worker id>]",
            (0, 1),
            (Option("n", "", "make one up"),),
        ),
        "list": Command(
            _list,
            "list the files that a worker holds",
            "<project id>",
            (1, 1),
            (_WORKER, Option("j", "", "print JSON")),
        ),
        "next": Command(
            _next,
            "wait for a file and print its DID, or `timeout` or `done` with exit code 1",
            "<project id>",
            (1, 1),
            (
                _WORKER,
                Option("c", "<CPU site>", "the site whose proximity map counts"),
                Option("t", "<seconds>", "do not wait longer; default: until the project ends"),
                Option("j", "", "print the file as JSON, replicas nearest first"),
                Option("J", "<file>", "write that JSON to a file; so does `-j <file>`"),
            ),
            PATIENTLY,
            _file_after_j,
        ),
        "done": Command(
            _report(_done), "say that a file, or all files one holds, are done", *_DIDS, (_WORKER,), PATIENTLY
        ),
        "failed": Command(
            _report(_failed),
            "say that a file, or all files one holds, could not be processed",
            *_DIDS,
            (Option("f", "", "for good: not to be tried again"), _WORKER),
            PATIENTLY,
        ),
    },
)
