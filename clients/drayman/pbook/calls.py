"""What is typed: a call with literals at the prompt, `show(123, format="long")`; or words, `show 123 format=long`. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from drayman.pbook.endings import Refusal

_LONGEST = 100_000


@dataclass(frozen=True, slots=True)
class Bare:
    """A name without quotes, as in `help(show)`."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A verb and what it is given. `typed` = the values are Python's; else they are words as a shell gives them."""

    verb: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    typed: bool = True


def read_line(text: str) -> Call | None:
    """Read a line of the prompt; None = there is nothing on it. Raises Refusal."""
    if len(text) > _LONGEST:
        raise Refusal(f"a line has at most {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply, or has a NUL"
        raise Refusal(f"not understood: {reason}; `help` tells what there is") from None
    match tree.body:
        case []:
            return None
        case [ast.Expr(ast.Name(verb))]:
            return Call(verb)
        case [ast.Expr(ast.Call(ast.Name(verb), arguments, keywords))]:
            return Call(
                verb,
                tuple(_literal(argument) for argument in arguments),
                dict(_keyword(keyword) for keyword in keywords),
            )
    raise Refusal('not understood: expected one call, such as show(123, format="long"); `help` tells what there is')


def read_words(words: Sequence[str], names: Collection[str], *, any_text: bool = False) -> Call:
    """Read a command line. `a=b` is a keyword; with `any_text` only if `a` is one of `names`, the verb's parameters. Raises Refusal."""
    arguments: list[str] = []
    keywords: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or not (name in names or (name.isidentifier() and not any_text)):
            if keywords:
                raise Refusal(f"{word!a} comes after name=value: put it before")
            arguments.append(word)
        elif name in keywords:
            raise Refusal(f"{name} is given twice")
        else:
            keywords[name] = value
    return Call(words[0], tuple(arguments), dict(keywords), typed=False)


def value_of(word: str) -> Any:
    """Return what a word means: a number, a list of numbers with commas, True, False, None, a Python literal in brackets; or a text."""
    text = word.strip()
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    parts = [part.strip() for part in text.split(",")]
    if all(_is_number(part) for part in parts):
        numbers = [int(part) for part in parts]
        return numbers[0] if len(numbers) == 1 else numbers
    if text[:1] in ("[", "(", "{", "'", '"') and len(text) <= _LONGEST:
        try:
            return _literal(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError, Refusal):
            return word
    return word


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


def _keyword(keyword: ast.keyword) -> tuple[str, Any]:
    if keyword.arg is None:
        raise Refusal("** is not understood: write name=value")
    return keyword.arg, _literal(keyword.value)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return Bare(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise Refusal(
            "only numbers, texts, True, False, None, and lists, tuples and dicts of these can be given"
        ) from None
