"""What is typed: calls at the prompt, words on a command line, and nothing that is evaluated."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.pbook.arguments import Kind, Parameter, bind
from drayman.pbook.calls import Bare, Call, read_line, read_words, value_of
from drayman.pbook.endings import Refusal
from drayman.pbook.verbs import VERBS, explanation

LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(LITERALS, max_size=3), st.dictionaries(st.sampled_from(["days", "format", "x"]), LITERALS))
def test_calls_with_literals_are_read(arguments: list[Any], keywords: dict[str, Any]) -> None:
    inside = ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in keywords.items())])
    assert read_line(f"  show({inside}) ") == Call("show", tuple(arguments), keywords)


@given(st.text() | st.text(st.sampled_from("show()[]{},='\"1 a.\n\\")))
def test_whatever_is_typed_is_a_call_or_refused(text: str) -> None:
    try:
        call = read_line(text)
    except Refusal:
        return
    assert call is None or call.verb.isidentifier()


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "show(1); kill(2)",
        "show(1)\nkill(2)",
        "x = show(1)",
        "import os",
        "os.system('ls')",
        "show(os.environ)",
        "show(open('x'))",
        "show(1 + f())",
        "show(*[1])",
        "show(**{'a': 1})",
        "show(x for x in y)",
        "(lambda: 1)()",
        "show(" + "(" * 1000 + ")" * 1000 + ")",
        "show(" + "-" * 20000 + "1)",
        "show('" + "x" * 100_000 + "')",
        "show('",
        "\0",
    ],
)
def test_nothing_else_is_understood(text: str) -> None:
    with pytest.raises(Refusal):
        read_line(text)


def test_lines_that_say_little() -> None:
    assert read_line("") is None
    assert read_line("  # a comment") is None
    assert read_line("show") == Call("show")
    assert read_line("help(show)") == Call("help", (Bare("show"),))


def test_words() -> None:
    names = [parameter.name for parameter in VERBS["show"].parameters]
    assert read_words(shlex.split("show 1,2 format=long days=3"), names) == Call(
        "show", ("1,2",), {"format": "long", "days": "3"}, typed=False
    )
    assert read_words(["set_secret", "KEY", "a=b"], ["key", "value"], any_text=True).arguments == ("KEY", "a=b")
    with pytest.raises(Refusal, match="before"):
        read_words(["show", "days=3", "1"], names)
    with pytest.raises(Refusal, match="twice"):
        read_words(["show", "days=3", "days=4"], names)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1),
        ("1,2, 3", [1, 2, 3]),
        ("-1", -1),
        ("True", True),
        ("None", None),
        ("all", "all"),
        ("a,b", "a,b"),
        ("['a', 1]", ["a", 1]),
        ("{'nFiles': 2}", {"nFiles": 2}),
        ("[os.system('x')]", "[os.system('x')]"),
        ("", ""),
        ("٣", "٣"),
        ("9" * 30, "9" * 30),
    ],
)
def test_what_a_word_means(word: str, value: Any) -> None:
    assert value_of(word) == value


PARAMETERS = (
    Parameter("targets", Kind.TARGETS, needed=True, words=("all",)),
    Parameter("soft", Kind.FLAG, False),
    Parameter("days", Kind.NUMBER, 14),
    Parameter("name", Kind.TEXT),
    Parameter("options", Kind.OPTIONS),
)


def test_arguments_are_bound() -> None:
    values, further = bind(Call("verb", ([1, "2", 1],), {"soft": True, "name": "x"}), PARAMETERS)
    assert values == {"targets": [1, 2], "soft": True, "days": 14, "name": "x", "options": None}
    assert further == {}
    values, further = bind(
        Call("verb", ("all", "False", "3", "7", "{'a': 1}"), {"nFiles": "3"}, typed=False), PARAMETERS, open_ended=True
    )
    assert values == {"targets": "all", "soft": False, "days": 3, "name": "7", "options": {"a": 1}}
    assert further == {"nFiles": 3}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (Call("verb"), "needs targets"),
        (Call("verb", (None,)), "expected an ID or a list of them, or 'all'"),
        (Call("verb", ("some",)), "expected an ID"),
        (Call("verb", ([],)), "expected an ID"),
        (Call("verb", (0,)), "expected an ID"),
        (Call("verb", (True,)), "expected an ID"),
        (Call("verb", (2**63,)), "expected an ID"),
        (Call("verb", ([[1]],)), "expected an ID"),
        (Call("verb", (Bare("all"),)), "in quotes"),
        (Call("verb", (1, 2)), "expected True or False"),
        (Call("verb", (1,), {"days": "soon"}), "expected a whole number"),
        (Call("verb", (1,), {"days": 1.5}), "expected a whole number"),
        (Call("verb", (1,), {"name": ["x"]}), "expected a text"),
        (Call("verb", (1,), {"options": [1]}), "expected a dict"),
        (Call("verb", (1,), {"targets": 1}), "given twice"),
        (Call("verb", (1,), {"what": 1}), "unknown option 'what'"),
        (Call("verb", (1,) * 6), "5 arguments at most, 6"),
    ],
)
def test_what_cannot_be_right_is_told(call: Call, problem: str) -> None:
    with pytest.raises(Refusal, match=problem):
        bind(call, PARAMETERS)


@pytest.mark.parametrize("name", list(VERBS))
def test_the_example_of_each_verb_is_right(name: str) -> None:
    verb = VERBS[name]
    text = explanation(name)
    assert verb.about
    assert text.startswith(f"{name}(")
    tree = verb.example.replace("), ", ")\n").splitlines()
    for line in tree:
        call = read_line(line)
        assert call is not None
        assert call.verb == name
        bind(call, verb.parameters, open_ended=verb.open_ended)
