"""Arithmetic of one number, as users write it in `${IN/M[...]}`. Pure; nothing is evaluated as a program."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

Number = int | float
Formula = Callable[[Number], Number]

_LONGEST = 200
_MOST_BITS = 128
_ALLOWED = re.compile(r"[0-9.+\-*/%()# \t]+")
_VARIABLE = "n"
_TWO: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class FormulaError(ValueError):
    """A formula that is none, or has no value; the text says why."""


def parse(text: str) -> Formula:
    """Understand a formula: numbers, `#` for the variable, + - * / // % ** and parentheses.

    The function it returns raises FormulaError where there is no value, or one of more than 128 bits. Raises FormulaError.
    """
    if len(text) > _LONGEST or not _ALLOWED.fullmatch(text):
        raise FormulaError(
            f"{text[:_LONGEST]!a} is no formula: at most {_LONGEST} characters; numbers, #, + - * / // % ** and parentheses"
        )
    try:
        # blanks, so that "1#" is no name and no number
        tree = ast.parse(text.replace("#", f" {_VARIABLE} ").strip(), mode="eval")
        body = _node(tree.body, text)
    except FormulaError:
        raise
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        raise FormulaError(f"{text!a} is no formula") from None

    def formula(number: Number) -> Number:
        try:
            return body(number)
        except (ZeroDivisionError, OverflowError):
            raise FormulaError(f"{text!a} has no value for {number}") from None

    return formula


def _node(node: ast.expr, text: str) -> Formula:
    match node:
        case ast.Name(id=name) if name == _VARIABLE:
            return lambda number: number
        case ast.Constant(value=int() | float() as value):
            constant = _bounded(value)
            return lambda number: constant
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _node(operand, text)
            return lambda number: -inner(number)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _node(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _node(left, text), _node(right, text)
            return lambda number: _power(base(number), exponent(number))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            compute = _TWO[type(op)]
            one, other = _node(left, text), _node(right, text)
            return lambda number: _bounded(compute(one(number), other(number)))
    raise FormulaError(f"{text!a} is no formula: only arithmetic")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) > 1 and base.bit_length() * exponent > 2 * _MOST_BITS:
            raise OverflowError
        return _bounded(base ** min(exponent, 2 * _MOST_BITS + exponent % 2))
    value = base**exponent
    if isinstance(value, complex):
        raise OverflowError
    return _bounded(value)


def _bounded(value: Number) -> Number:
    if (isinstance(value, int) and value.bit_length() > _MOST_BITS) or not math.isfinite(value):
        raise OverflowError
    return value
