"""What a search means, as a tree; and the tree written as text again. Pure.

`docs/search.md` describes the language, `search_language` reads it, `search_sql` turns the tree into a condition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the query's text; both count from 1."""

    line: int = 1
    column: int = 1


class SearchError(ValueError):
    """A query that cannot be read, or that asks for what has no meaning: where, what stands there, what was expected."""

    def __init__(self, at: Position, found: str, *expected: str) -> None:
        self.line = at.line
        self.column = at.column
        self.found = found
        self.expected = expected
        wanted = ", ".join(expected[:-1]) + " or " + expected[-1] if len(expected) > 1 else expected[0]
        super().__init__(f"line {at.line}, column {at.column}: found {found}, expected {wanted}")


class Attribute(StrEnum):
    """What every project has."""

    ID = "id"
    OWNER = "owner"
    STATE = "state"
    QUERY = "query"
    CREATED = "created_timestamp"
    ENDED = "ended_timestamp"
    WORKER_TIMEOUT = "worker_timeout"
    IDLE_TIMEOUT = "idle_timeout"


#: Every name that means an attribute.
ATTRIBUTES: Mapping[str, Attribute] = {attribute.value: attribute for attribute in Attribute} | {
    "created": Attribute.CREATED,
    "ended": Attribute.ENDED,
}
#: Words that no field can be named by without brackets.
KEYWORDS = frozenset(["and", "or", "not", "in", "present", "like", "any", "all", "len"])
#: What a field's name looks like without brackets.
FIELD_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class Operator(StrEnum):
    """Compares a subject with one value."""

    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "~"
    MATCHES_ANY_CASE = "~*"
    MATCHES_NOT = "!~"
    MATCHES_NOT_ANY_CASE = "!~*"
    LIKE = "like"

    @property
    def is_order(self) -> bool:
        """Whether it asks which of the two comes first."""
        return self in (Operator.LESS, Operator.AT_MOST, Operator.GREATER, Operator.AT_LEAST)

    @property
    def is_pattern(self) -> bool:
        """Whether the value is a pattern for text."""
        return "~" in self.value or self is Operator.LIKE

    @property
    def negates(self) -> Operator | None:
        """The operator whose opposite this one is."""
        return _NEGATED.get(self)


_NEGATED = {
    Operator.NOT_EQUAL: Operator.EQUAL,
    Operator.MATCHES_NOT: Operator.MATCHES,
    Operator.MATCHES_NOT_ANY_CASE: Operator.MATCHES_ANY_CASE,
}

#: A value of the language. Numbers are exact.
Value: TypeAlias = str | Decimal | bool | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A value as it stands in a query."""

    value: Value
    at: Position = field(default=Position(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Field:
    """A member of the project's own attributes: its name, then keys and indexes that lead further inside."""

    steps: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Quantified:
    """The elements of a field: any of them, or every one."""

    field: Field
    every: bool


@dataclass(frozen=True, slots=True)
class Length:
    """How many elements a field has."""

    field: Field


Place: TypeAlias = Attribute | Field
Subject: TypeAlias = Attribute | Field | Quantified | Length


@dataclass(frozen=True, slots=True)
class Comparison:
    """Subject, operator, value."""

    subject: Subject
    operator: Operator
    constant: Constant
    at: Position = field(default=Position(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class InRange:
    """From one value to another, both included."""

    subject: Subject
    low: Constant
    high: Constant
    negated: bool = False


@dataclass(frozen=True, slots=True)
class InList:
    """One of several values."""

    subject: Subject
    constants: tuple[Constant, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Contains:
    """A value among the elements of a field, or inside a text."""

    place: Place
    constant: Constant
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """Whether there is something at all."""

    place: Place
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    operand: Query


@dataclass(frozen=True, slots=True)
class And:
    """All of several, two at least."""

    operands: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of several, two at least."""

    operands: tuple[Query, ...]


Query: TypeAlias = Comparison | InRange | InList | Contains | Present | Not | And | Or


def to_text(query: Query) -> str:
    """Write a query so that it reads as the same tree."""
    match query:
        case Or(operands):
            return " or ".join(_group(operand, Or) for operand in operands)
        case And(operands):
            return " and ".join(_group(operand, And, Or) for operand in operands)
        case Not(operand):
            return f"!{_group(operand, And, Or)}"
        case _:
            return _condition_text(query)


def _condition_text(query: Comparison | InRange | InList | Contains | Present) -> str:
    match query:
        case Comparison(subject, operator, constant):
            return f"{subject_text(subject)} {operator} {constant_text(constant)}"
        case InRange(subject, low, high):
            return f"{subject_text(subject)} {_in(query)} {constant_text(low)}:{constant_text(high)}"
        case InList(subject, constants):
            return f"{subject_text(subject)} {_in(query)} ({', '.join(map(constant_text, constants))})"
        case Contains(place, constant):
            return f"{constant_text(constant)} {_in(query)} {subject_text(place)}"
        case Present(place, negated):
            return f"{subject_text(place)} {'not ' if negated else ''}present"


def subject_text(subject: Subject) -> str:
    """Write what is compared."""
    match subject:
        case Attribute():
            return subject.value
        case Field((name, *steps)):
            bare = FIELD_NAME.fullmatch(str(name)) and name not in ATTRIBUTES and str(name).lower() not in KEYWORDS
            return (str(name) if bare else f"[{_quoted(str(name))}]") + "".join(map(_index, steps))
        case Quantified(inner, every):
            return f"{subject_text(inner)}[{'all' if every else 'any'}]"
        case Length(inner):
            return f"len({subject_text(inner)})"
    raise AssertionError(subject)


def constant_text(constant: Constant) -> str:
    """Write a value."""
    value = constant.value
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Decimal):
        return str(value)
    return "null" if value is None else str(value).lower()


def _group(operand: Query, *weaker: type) -> str:
    text = to_text(operand)
    return f"({text})" if isinstance(operand, weaker) else text


def _in(query: InRange | InList | Contains) -> str:
    return "not in" if query.negated else "in"


def _index(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f"[{_quoted(step)}]"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
