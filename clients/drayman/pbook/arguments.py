"""What a verb is given, checked: each parameter says what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from drayman.pbook.calls import Bare, Call, value_of
from drayman.pbook.endings import Refusal

_LARGEST = 2**63 - 1


class Kind(Enum):
    """What a parameter takes."""

    IDS = auto()  # a number, a list of them
    TARGETS = auto()  # the same, or a word such as 'all'
    NUMBER = auto()
    FLAG = auto()
    TEXT = auto()
    OPTIONS = auto()  # a dict


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name, what it takes, and what it is if it is not given. `words` are what TARGETS may be besides numbers."""

    name: str
    kind: Kind
    default: Any = None
    needed: bool = False
    words: tuple[str, ...] = ()


def bind(
    call: Call, parameters: Sequence[Parameter], *, open_ended: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a value for each parameter, and further keywords, which there are only if it is open-ended. Raises Refusal."""
    if len(call.arguments) > len(parameters):
        most = len(parameters)
        raise Refusal(
            f"{call.verb} takes {most} arguments at most, {len(call.arguments)} were given; see help({call.verb})"
        )
    given = dict(zip((parameter.name for parameter in parameters), call.arguments, strict=False))
    known = [parameter.name for parameter in parameters]
    further: dict[str, Any] = {}
    for name, value in call.keywords.items():
        if name in given:
            raise Refusal(f"{name} is given twice")
        if name in known:
            given[name] = value
        elif open_ended:
            further[name] = value if call.typed else value_of(value)
        else:
            raise Refusal(
                f"unknown option {name!a}: {call.verb} has {', '.join(known) or 'none'}; see help({call.verb})"
            )
    values = {}
    for parameter in parameters:
        if parameter.name in given:
            values[parameter.name] = _read(call, parameter, given[parameter.name])
        elif parameter.needed:
            raise Refusal(f"{call.verb} needs {parameter.name}; see help({call.verb})")
        else:
            values[parameter.name] = parameter.default
    return values, further


def _read(call: Call, parameter: Parameter, value: Any) -> Any:
    if isinstance(value, Bare):
        raise Refusal(f"{value.name!a} is not understood: texts stand in quotes")
    if not call.typed and parameter.kind is not Kind.TEXT:
        value = value_of(value)
    if value is None and not parameter.needed:
        return parameter.default
    reader = _READERS[parameter.kind]
    found = reader(value, parameter)
    if found is None:
        raise Refusal(f"{parameter.name} {value!a}: expected {_expected(parameter)}")
    return found


def _expected(parameter: Parameter) -> str:
    text = {
        Kind.IDS: "an ID or a list of them",
        Kind.TARGETS: "an ID or a list of them",
        Kind.NUMBER: "a whole number",
        Kind.FLAG: "True or False",
        Kind.TEXT: "a text",
        Kind.OPTIONS: "a dict of options",
    }[parameter.kind]
    return text + "".join(f", or {word!r}" for word in parameter.words)


def _ids(value: Any, _: Parameter) -> list[int] | None:
    numbers = [value] if isinstance(value, (int, str)) else value
    if not isinstance(numbers, (list, tuple)) or not numbers:
        return None
    found = [_id(number) for number in numbers]
    return None if None in found else list(dict.fromkeys(number for number in found if number is not None))


def _id(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0
    return value if 0 < value <= _LARGEST else None


def _targets(value: Any, parameter: Parameter) -> list[int] | str | None:
    return value if isinstance(value, str) and value in parameter.words else _ids(value, parameter)


def _number(value: Any, _: Parameter) -> int | None:
    return _id(value)


def _flag(value: Any, _: Parameter) -> bool | None:
    return bool(value) if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)) else None


def _text(value: Any, _: Parameter) -> str | None:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _options(value: Any, _: Parameter) -> dict[str, Any] | None:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return dict(value)
    return None


_READERS = {
    Kind.IDS: _ids,
    Kind.TARGETS: _targets,
    Kind.NUMBER: _number,
    Kind.FLAG: _flag,
    Kind.TEXT: _text,
    Kind.OPTIONS: _options,
}
