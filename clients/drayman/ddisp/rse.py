"""`ddisp rse`: storage elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drayman.data_dispatcher.api import NotFoundError
from drayman.ddisp.client import Client
from drayman.ddisp.command import Command, Group, Option, Options
from drayman.ddisp.endings import Answer, Misuse
from drayman.ddisp.output import print_block, print_json, print_table, yes_no
from drayman.ddisp.values import number, one_of, truth

_JSON = Option("j", "", "print JSON")
_NAME = ("<RSE>", (1, 1))
_FIELDS = (
    Option("e", "True|False", "whether it takes part at all"),
    Option("d", "<text>", "description"),
    Option("t", "True|False", "whether it is tape"),
    Option("a", "True|False", "whether it is up"),
    Option("o", "<number>", "preference"),
    Option("m", "<prefix>", "added to the path of a URL"),
    Option("l", "<prefix>", "removed from it before"),
    Option("i", "wlcg|native", "kind of tape interface"),
    Option("u", "<URL>", "where files are asked to be staged"),
    Option("p", "<prefix>", "prefix of paths there"),
    Option("f", "<URL>", "where native interfaces are asked for the state of files"),
    _JSON,
)


def _list(client: Client, options: Options, _operands: list[str]) -> None:
    rses = sorted(client.list_rses(), key=lambda rse: rse["name"])
    if "j" in options:
        print_json(rses)
        return
    rows = [
        (
            rse["name"],
            "tape" if rse["is_tape"] else "",
            "up" if rse["is_available"] else "down",
            yes_no(rse["is_enabled"]),
            rse["description"] or "",
        )
        for rse in rses
    ]
    print_table(("Name", "Tape", "Status", "Enabled", "Description"), rows, left=(0, 4), least={0: 30, 4: 60})


def _show(client: Client, options: Options, operands: list[str]) -> None:
    _print(client.get_rse(operands[0]), options, operands[0])


def _create(client: Client, options: Options, operands: list[str]) -> None:
    _print(client.create_rse(operands[0], **_fields(options)), options, operands[0])


def _update(client: Client, options: Options, operands: list[str]) -> None:
    _print(client.update_rse(operands[0], **_fields(options)), options, operands[0])


def _delete(client: Client, _options: Options, operands: list[str]) -> None:
    try:
        client.delete_rse(operands[0])
    except NotFoundError:
        raise _missing(operands[0]) from None


def _set(client: Client, options: Options, operands: list[str]) -> None:
    if "a" not in options:
        raise Misuse("say what to set: -a up or -a down; `ddisp rse update` changes everything else")
    available = one_of(options["a"], ("up", "down"), "a") == "up"
    if client.set_rse_availability(operands[0], available) is None:
        raise _missing(operands[0])


def _fields(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "description": options.get("d"),
        "add_prefix": options.get("m"),
        "remove_prefix": options.get("l"),
        "pin_url": options.get("u"),
        "pin_prefix": options.get("p"),
        "poll_url": options.get("f"),
        "interface": one_of(options["i"], ("wlcg", "native"), "i") if "i" in options else None,
        "preference": number(options["o"], "o") if "o" in options else None,
    }
    flags = (("e", "is_enabled"), ("t", "is_tape"), ("a", "is_available"))
    fields |= {name: truth(options[letter], letter) for letter, name in flags if letter in options}
    return {name: value for name, value in fields.items() if value is not None}


def _print(rse: Mapping[str, Any] | None, options: Options, name: str) -> None:
    if rse is None:
        raise _missing(name)
    if "j" in options:
        print_json(rse)
        return
    fields = [
        ("RSE", rse["name"]),
        ("Preference", rse["preference"]),
        ("Tape", yes_no(rse["is_tape"])),
        ("Enabled", yes_no(rse["is_enabled"])),
        ("Available", yes_no(rse["is_available"])),
        ("Pin URL", rse["pin_url"]),
        ("Poll URL", rse["poll_url"]),
        ("Remove prefix", rse["remove_prefix"]),
        ("Add prefix", rse["add_prefix"]),
    ]
    print_block(fields, width=15)


def _missing(name: str) -> Answer:
    return Answer(f"RSE {name} not found")


RSE = Group(
    "storage elements; changes are for administrators",
    {
        "list": Command(_list, "list all of them", options=(_JSON,)),
        "show": Command(_show, "show one", *_NAME, (_JSON,)),
        "create": Command(_create, "add one: enabled, up and on disk unless said otherwise", *_NAME, _FIELDS),
        "update": Command(_update, "change what is given", *_NAME, _FIELDS),
        "delete": Command(_delete, "remove one with its replicas", *_NAME),
        "set": Command(_set, "say that one is up or down", *_NAME, (Option("a", "up|down", "what it is"),)),
    },
)
