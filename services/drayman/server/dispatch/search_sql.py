"""A search as a condition on `dispatch.project p`. Pure.

Every value and every name of a field is a parameter. A condition is true or false, never null, so that NOT is the opposite. What can be
said by containment is said so, because that is what the index on `facts` answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from drayman.server.dispatch import search_values
from drayman.server.dispatch.search_tree import (
    And,
    Attribute,
    Comparison,
    Constant,
    Contains,
    Field,
    InList,
    InRange,
    Length,
    Not,
    Operator,
    Or,
    Place,
    Present,
    Quantified,
    Query,
    SearchError,
    Subject,
    constant_text,
)


@dataclass(frozen=True)
class Condition:
    """Text for WHERE, and its parameters in order.

    `expressions` are the regular ones among them, which PostgreSQL reads only when it gets to use them.
    """

    text: str
    parameters: tuple[Any, ...]
    expressions: tuple[str, ...]


def condition(query: Query, first: int = 1) -> Condition:
    """Turn a query into a condition whose parameters count from `first`. Raises SearchError where values do not fit."""
    compiler = _Compiler(first)
    text = compiler.query(query)
    return Condition(text, tuple(compiler.parameters), tuple(compiler.expressions))


@dataclass(frozen=True)
class _Column:
    """Where an attribute is, and how its values are read. `ordered` is the expression that has the order of the language."""

    name: str
    kind: str
    read: Callable[[Constant], Any]
    nullable: bool = True
    ordered: str = ""


_COLUMNS = {
    Attribute.ID: _Column("p.project_id", "numeric", search_values.number, nullable=False),
    Attribute.OWNER: _Column("p.owner", "text", search_values.text, nullable=False, ordered='p.owner COLLATE "C"'),
    Attribute.STATE: _Column(
        "p.state::text", "text", search_values.text, nullable=False, ordered='p.state::text COLLATE "C"'
    ),
    Attribute.QUERY: _Column("p.query", "text", search_values.text, ordered='p.query COLLATE "C"'),
    Attribute.CREATED: _Column("p.created_at", "timestamptz", search_values.moment, nullable=False),
    Attribute.ENDED: _Column("p.ended_at", "timestamptz", search_values.moment),
    Attribute.WORKER_TIMEOUT: _Column("p.worker_timeout", "float8", search_values.span),
    Attribute.IDLE_TIMEOUT: _Column("p.idle_timeout", "float8", search_values.span),
}

#: PostgreSQL's names of the operators for text.
_PATTERNS = {Operator.MATCHES: "~", Operator.MATCHES_ANY_CASE: "~*", Operator.LIKE: "LIKE"}

_ELEMENT = "e.v"
_ELEMENT_TEXT = "(e.v #>> '{}')"
_IS_TEXT = "jsonb_typeof(e.v) = 'string'"
_IS_NUMBER = "jsonb_typeof(e.v) = 'number'"


class _Compiler:
    """Collects parameters while it writes."""

    def __init__(self, first: int) -> None:
        self.parameters: list[Any] = []
        self.expressions: list[str] = []
        self._first = first

    def query(self, query: Query) -> str:
        match query:
            case Or(operands):
                return f"({' OR '.join(map(self.query, operands))})"
            case And(operands):
                return f"({' AND '.join(map(self.query, operands))})"
            case Not(operand):
                return f"(NOT {self.query(operand)})"
            case Contains(place, constant):
                return self._contains(place, constant, query.negated)
            case Present(place, negated):
                return self._present(place, negated)
            case _:
                return self._tested(query.subject, query)

    def _parameter(self, value: Any, kind: str) -> str:
        self.parameters.append(value)
        return f"${self._first + len(self.parameters) - 1}::{kind}"

    def _tested(self, subject: Subject, query: Comparison | InRange | InList) -> str:
        match subject:
            case Attribute():
                return self._attribute(subject, query)
            case Length(field):
                return self._length(field, query)
            case Quantified(field, every):
                return self._quantified(field, query, every=every)
            case Field():
                return self._field(subject, query)
        raise AssertionError(subject)

    # --- attributes --------------------------------------------------------------------------------------------------

    def _attribute(self, attribute: Attribute, query: Comparison | InRange | InList) -> str:
        column = _COLUMNS[attribute]
        match query:
            case Comparison(_, operator, Constant(None)):
                if operator not in (Operator.EQUAL, Operator.NOT_EQUAL):
                    raise SearchError(query.at, f"`{operator}` with null", "`=` or `!=`")
                return f"({column.name} IS {'NOT ' * (operator is Operator.NOT_EQUAL)}NULL)"
            case Comparison(_, operator, constant):
                if operator.is_pattern and column.kind != "text":
                    raise SearchError(query.at, f"`{operator}` after {attribute}", "an operator such as `=` or `<`")
                name = (column.ordered or column.name) if operator.is_order else column.name
                value = self._pattern(operator, constant) if operator.is_pattern else self._value(column, constant)
                test = f"{name} {_sql(operator)} {value}"
            case InRange(_, low, high):
                between = f"{'NOT ' * query.negated}BETWEEN"
                test = f"{column.ordered or column.name} {between} {self._value(column, low)} AND {self._value(column, high)}"
            case InList(_, constants):
                return self._attribute_in_list(column, constants, negated=query.negated)
        return _never_null(test) if column.nullable else f"({test})"

    def _attribute_in_list(self, column: _Column, constants: tuple[Constant, ...], *, negated: bool) -> str:
        values = [column.read(constant) for constant in constants if constant.value is not None]
        if column.kind == "numeric":  # an id is nothing else
            values, kind = [int(value) for value in values if _is_id(value)], "int8"
        else:
            kind = column.kind
        test = f"({column.name} = ANY ({self._parameter(values, f'{kind}[]')}))"
        if not column.nullable:
            return f"(NOT {test})" if negated else test
        if any(constant.value is None for constant in constants):
            test = f"({column.name} IS NULL OR {test})"
        return f"({column.name} IS NOT NULL AND NOT {test})" if negated else _never_null(test)

    def _value(self, column: _Column, constant: Constant) -> str:
        value = column.read(constant)
        if column.kind == "numeric" and _is_id(value):
            return self._parameter(int(value), "int8")  # of the type that the primary key has
        return self._parameter(value, column.kind)

    # --- fields ------------------------------------------------------------------------------------------------------

    def _field(self, field: Field, query: Comparison | InRange | InList) -> str:
        """Test a field: an array passes if any of its elements does. What is denied holds if that does not."""
        positive, negated = _split(query)
        match positive:
            case Comparison(_, Operator.EQUAL, constant):
                test = self._equals(field, [constant])
            case InList(_, constants):
                test = self._equals(field, constants)
            case _:
                test = self._exists(field, self._element(positive))
        if not negated:
            return test
        if isinstance(query, Comparison):
            return f"({self._at(field)} IS NOT NULL AND NOT {test})"
        return f"(NOT {test})"

    def _quantified(self, field: Field, query: Comparison | InRange | InList, *, every: bool) -> str:
        test = self._element(query)
        return f"(NOT {self._exists(field, f'NOT {test}')})" if every else self._exists(field, test)

    def _equals(self, field: Field, constants: Iterable[Constant]) -> str:
        """Test whether a field, or an element of it, is one of the constants."""
        values = [_json(constant) for constant in constants]
        if any(isinstance(step, int) for step in field.steps):
            return self._exists(field, f"({_ELEMENT} = ANY ({self._parameter(values, 'jsonb[]')}))")
        documents = [_document(field, form) for value in values for form in (value, f"[{value}]")]
        if len(documents) > 2:
            return f"(p.facts @> ANY ({self._parameter(documents, 'jsonb[]')}))"
        alone, listed = (self._parameter(document, "jsonb") for document in documents)
        return f"(p.facts @> {alone} OR p.facts @> {listed})"

    def _element(self, query: Comparison | InRange | InList) -> str:
        """Test one element, `e.v`."""
        positive, negated = _split(query)
        match positive:
            case Comparison(_, Operator.EQUAL, constant):
                test = f"({_ELEMENT} = {self._parameter(_json(constant), 'jsonb')})"
            case Comparison(_, operator, constant) if operator.is_pattern:
                test = f"({_IS_TEXT} AND {_ELEMENT_TEXT} {_sql(operator)} {self._pattern(operator, constant)})"
            case Comparison(_, operator, constant):
                test = self._bounded([(operator, constant)])
            case InRange(_, low, high):
                if type(low.value) is not type(high.value):
                    raise SearchError(high.at, constant_text(high), f"a value of the type of {constant_text(low)}")
                test = self._bounded([(Operator.AT_LEAST, low), (Operator.AT_MOST, high)])
            case InList(_, constants):
                values = [_json(constant) for constant in constants]
                test = f"({_ELEMENT} = ANY ({self._parameter(values, 'jsonb[]')}))"
        return f"(NOT {test})" if negated else test

    def _bounded(self, bounds: Iterable[tuple[Operator, Constant]]) -> str:
        tests = []
        for operator, constant in bounds:
            if isinstance(constant.value, Decimal):
                tests.append(f"{_IS_NUMBER} AND {_ELEMENT} {operator} {self._parameter(_json(constant), 'jsonb')}")
            elif isinstance(constant.value, str):
                value = self._parameter(constant.value, "text")
                tests.append(f'{_IS_TEXT} AND {_ELEMENT_TEXT} COLLATE "C" {operator} {value}')
            else:
                raise SearchError(constant.at, constant_text(constant), "a number or a text, which alone have an order")
        return f"({' AND '.join(tests)})"

    def _pattern(self, operator: Operator, constant: Constant) -> str:
        pattern = search_values.text(constant)
        if operator is not Operator.LIKE:
            self.expressions.append(pattern)
        elif (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise SearchError(constant.at, "a pattern that ends in `\\`", "a character behind it")
        return self._parameter(pattern, "text")

    def _length(self, field: Field, query: Comparison | InRange | InList) -> str:
        value = self._at(field)
        length = f"CASE WHEN jsonb_typeof({value}) = 'array' THEN jsonb_array_length({value}) END"
        match query:
            case Comparison(_, operator, constant):
                if operator.is_pattern:
                    raise SearchError(query.at, f"`{operator}` after a length", "an operator such as `=` or `<`")
                test = f"({length}) {operator} {self._number(constant)}"
            case InRange(_, low, high):
                test = f"({length}) BETWEEN {self._number(low)} AND {self._number(high)}"
            case InList(_, constants):
                values = [search_values.number(constant) for constant in constants]
                test = f"({length}) = ANY ({self._parameter(values, 'numeric[]')})"
        return f"(({test}) IS {'NOT ' * getattr(query, 'negated', False)}TRUE)"

    def _number(self, constant: Constant) -> str:
        return self._parameter(search_values.number(constant), "numeric")

    def _exists(self, field: Field, test: str) -> str:
        """Test whether an element passes; what is no array is its own only element, what is missing has none."""
        value = self._at(field)
        elements = f"CASE WHEN jsonb_typeof({value}) = 'array' THEN {value} WHEN {value} IS NOT NULL THEN jsonb_build_array({value}) END"
        return f"EXISTS (SELECT FROM jsonb_array_elements({elements}) AS e (v) WHERE {test})"

    def _at(self, field: Field) -> str:
        if any(isinstance(step, int) for step in field.steps):
            # `->` takes a text, a number for its own first element; a path in strict mode does not
            return f"jsonb_path_query_first(p.facts, {self._parameter(_path(field), 'jsonpath')}, '{{}}', true)"
        return f"(p.facts -> {' -> '.join(self._parameter(step, 'text') for step in field.steps)})"

    # --- both --------------------------------------------------------------------------------------------------------

    def _contains(self, place: Place, constant: Constant, negated: bool) -> str:
        if isinstance(place, Attribute):
            column = _COLUMNS[place]
            if column.kind != "text":
                raise SearchError(constant.at, f"a value in {place}", "one in owner, state, query or a field")
            part = self._parameter(search_values.text(constant), "text")
            return _never_null(f"strpos({column.name}, {part}) {'=' if negated else '>'} 0")
        test = self._equals(place, [constant])
        if isinstance(constant.value, str):
            value, part = self._at(place), self._parameter(constant.value, "text")
            test = f"({test} OR (jsonb_typeof({value}) = 'string' AND strpos({value} #>> '{{}}', {part}) > 0) IS TRUE)"
        return f"(NOT {test})" if negated else test

    def _present(self, place: Place, negated: bool) -> str:
        value = _COLUMNS[place].name if isinstance(place, Attribute) else self._at(place)
        return f"({value} IS {'' if negated else 'NOT '}NULL)"


def _sql(operator: Operator) -> str:
    if operator.negates and operator.is_pattern:
        return f"!{_PATTERNS[operator.negates]}"
    return _PATTERNS.get(operator, operator.value)


def _is_id(value: Decimal) -> bool:
    return abs(value) < 2**63 and value == int(value)


def _never_null(test: str) -> str:
    return f"(({test}) IS TRUE)"


def _split(query: Comparison | InRange | InList) -> tuple[Comparison | InRange | InList, bool]:
    """Return what a test affirms or denies, and whether it denies it."""
    match query:
        case Comparison(subject, operator, constant) if operator.negates:
            return Comparison(subject, operator.negates, constant, query.at), True
        case InRange() | InList() if query.negated:
            return replace(query, negated=False), True
        case _:
            return query, False


def _json(constant: Constant) -> str:
    value = constant.value
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _path(field: Field) -> str:
    parts = (_element_path(step) if isinstance(step, int) else f".{json.dumps(step)}" for step in field.steps)
    return "strict $" + "".join(parts)


def _element_path(index: int) -> str:
    return f"[{index}]" if index >= 0 else f"[last - {-index - 1}]"


def _document(field: Field, value: str) -> str:
    """Wrap a value so that facts in which the field has it contain the document."""
    for step in reversed(field.steps):
        value = f"{{{json.dumps(step, ensure_ascii=False)}: {value}}}"
    return value
