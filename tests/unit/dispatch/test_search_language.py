"""Queries read and written."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drayman.server.dispatch import search_sql, search_values
from drayman.server.dispatch.search_language import DEEPEST_NESTING, LONGEST_QUERY, parse
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
    Present,
    Quantified,
    Query,
    SearchError,
    to_text,
)

_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
_words = st.sampled_from(["and", "or", "not", "in", "true", "null", "5", "a.b", "x-y", "len", "any", "present", "like"])
_numbers = st.decimals(allow_nan=False, allow_infinity=False) | st.integers().map(Decimal)
_constants = st.builds(
    Constant, _texts | _words | _numbers.filter(lambda n: abs(n.adjusted()) < 900) | st.booleans() | st.none()
)
_fields = st.builds(
    lambda name, steps: Field((name, *steps)),
    _texts | _words | st.sampled_from([*Attribute, "created", "n", "ns"]).map(str),
    st.lists(_texts | _words | st.integers(-(10**7), 10**8 - 1), max_size=2),
)
_places: st.SearchStrategy[Any] = st.sampled_from(Attribute) | _fields
_subjects = _places | st.builds(Quantified, _fields, st.booleans()) | st.builds(Length, _fields)
_conditions: st.SearchStrategy[Query] = st.one_of(
    st.builds(Comparison, _subjects, st.sampled_from(Operator), _constants),
    st.builds(InRange, _subjects, _constants, _constants, st.booleans()),
    st.builds(InList, _subjects, st.lists(_constants, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(Contains, _places, _constants, st.booleans()),
    st.builds(Present, _places, st.booleans()),
)


def _several(queries: st.SearchStrategy[Query]) -> st.SearchStrategy[tuple[Query, ...]]:
    return st.lists(queries, min_size=2, max_size=3).map(tuple)


_queries = st.recursive(
    _conditions,
    lambda inner: st.builds(Not, inner) | st.builds(And, _several(inner)) | st.builds(Or, _several(inner)),
    max_leaves=6,
)
_SCRAPS = """
n owner 5 a:b "x" ' " ( ) [ ] , : ! = ~* in not and or like present len any 2024-05-31 10:00 é & 1e400 \\ +
"""
_noise = st.lists(st.sampled_from(_SCRAPS.split())).map(" ".join)


@given(_queries)
def test_a_query_written_down_reads_as_itself(query: Query) -> None:
    text = to_text(query)
    read = parse(text)
    assert read == query
    assert repr(read) == repr(query)  # == takes true for 1


@settings(max_examples=300)
@given(st.text() | _noise)
@example('"' + "x" * 9000)
@example("1" * 9000 + " in n")
@example("n in " + "1" * 9000)
@example("n = " + " " * 9000)
@example("(" * 9000)
@example("not " * 2400 + "n")
@example("n or " * 1999 + "n")
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    error = _refusal(text)
    if error is not None:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert error.found
        assert all(error.expected)


def _refusal(text: str) -> SearchError | None:
    try:
        search_sql.condition(parse(text))
    except SearchError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "column", "found", "expected"),
    [
        ("", 1, "the end of the query", ("a condition such as `state = active`",)),
        ("n =", 4, "the end of the query", ("a value",)),
        ("n = 5 and", 10, "the end of the query", ("a condition such as `state = active`",)),
        ("n = 5 m = 6", 7, "`m`", ("`or`", "`and`", "the end of the query")),
        ("(n = 5", 7, "the end of the query", ("`or`", "`and`", "`)`")),
        ("5 = n", 3, "`=`", ("`not`", "`in`")),
        ("n in 5", 6, "`5`", ("a list in parentheses", "a range such as 1:5", "a field")),
        ("n in 1:", 8, "the end of the query", ("the upper end of the range",)),
        ("n in (1 2)", 9, "`2`", ("`)`", "`,`")),
        ("n not 5", 7, "`5`", ("`in`", "`present`")),
        ("n[x] = 5", 3, "`x`", ("a number", "a quoted name", "`any`", "`all`")),
        ("n[0] in bits", 9, "`bits`", ("a list in parentheses", "a range such as 1:5")),
        ("n[123456789] = 5", 3, "the index 123456789...", ("an index of at most 8 digits",)),
        ("owner[0] = x", 1, "the attribute `owner`", ("a field, which alone has elements",)),
        ("n = 'abc", 5, "a quote that is never closed", ("another ' behind it",)),
        ("n = 1e2000", 5, "the number 1e2000...", ("a number of at most 1000 digits",)),
        ("n = a\0b", 6, "the character \\x00", ("text without it",)),
        (
            "n & m",
            3,
            "`&`",
            (
                "`or`",
                "`and`",
                "`not`",
                "`in`",
                "`present`",
                "`like`",
                "an operator such as `=`",
                "`[`",
                "the end of the query",
            ),
        ),
    ],
)
def test_a_syntax_error_says_where_what_and_what_instead(
    text: str, column: int, found: str, expected: tuple[str, ...]
) -> None:
    with pytest.raises(SearchError) as refused:
        parse(text)
    error = refused.value
    assert (error.line, error.column, error.found, set(error.expected)) == (1, column, found, set(expected))
    assert str(error).startswith(f"line 1, column {column}: found {found}, expected {error.expected[0]}")


def test_lines_are_counted() -> None:
    with pytest.raises(SearchError, match=r"^line 3, column 3: found `=`, expected a value$"):
        parse("n = 5\nand m\n= = 3")


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("created > yesterday", 11, "a date such as"),
        ("created > 2024-02-30", 11, "a date such as"),
        ("created > 0000-01-01", 11, "a date such as"),
        ('created > "0001-01-01 00:00:00+01:00"', 11, "a date such as"),
        ('created > "9999-12-31 23:59:59-01:00"', 11, "a date such as"),
        ("created > 5", 11, "a date such as"),
        ("created ~ 2024", 9, "an operator such as `=` or `<`"),
        ("created < null", 9, "`=` or `!=`"),
        ("worker_timeout = soon", 18, "seconds, or a span"),
        ("id = abc", 6, "a number"),
        ("owner = 5", 9, "a text"),
        ("5 in query", 1, "a text"),
        ("x in created", 1, "owner, state, query or a field"),
        ("n ~ 5", 5, "a text"),
        ("n < true", 5, "a number or a text"),
        ("n in 1:a", 8, "a value of the type of 1"),
        ("n in null:null", 6, "a number or a text"),
        ("len(n) = a", 10, "a number"),
        ("len(n) like a", 8, "an operator such as `=` or `<`"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_where_it_stands(text: str, column: int, expected: str) -> None:
    with pytest.raises(SearchError, match=f"expected .*{expected}") as refused:
        search_sql.condition(parse(text))
    assert (refused.value.line, refused.value.column) == (1, column)


def test_limits() -> None:
    parse("n" * LONGEST_QUERY)
    with pytest.raises(SearchError, match="at most 10000"):
        parse("n" * (LONGEST_QUERY + 1))
    for opening, closing in (("(", ")"), ("!", ""), ("not ", "")):
        parse(opening * DEEPEST_NESTING + "n" + closing * DEEPEST_NESTING)
        with pytest.raises(SearchError, match="at most 100 deep"):
            parse(opening * (DEEPEST_NESTING + 1) + "n" + closing * (DEEPEST_NESTING + 1))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", Decimal(5)),
        ("-5.", Decimal(-5)),
        ("+.5e-3", Decimal("0.0005")),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("5.2.1", "5.2.1"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("ns:file*.root", "ns:file*.root"),
        ("OR", "OR"),
        ("'it''s \"x\"'", 'it\'s "x"'),
        ('"5"', "5"),
        ("2024-05-31 12:00", "2024-05-31 12:00"),
        ("2024-05-31 12:00:00.5+02:00", "2024-05-31 12:00:00.5+02:00"),
    ],
)
def test_values(word: str, value: object) -> None:
    query = parse(f"n = {word}")
    assert isinstance(query, Comparison)
    assert (query.constant.value, type(query.constant.value)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a = 1 or b = 2 and ! c = 3", "(a = 1) or ((b = 2) and (!(c = 3)))"),
        ("a AND NOT b OR c IN (1)", "(a and !b) or c in (1)"),
        ("a NOT IN 1:2 AND b NOT PRESENT AND c LIKE x", "a not in 1:2 and b not present and c like x"),
        ("n in 5 : 15", "n in 5:15"),
        ("created in 2024-01-01 10:00:2024-02-01 10:00", 'created_timestamp in "2024-01-01 10:00":"2024-02-01 10:00"'),
        ("mode~*deb", 'mode ~* "deb"'),
        ("on in bits", '"on" in bits'),
        ("LEN ( n ) == 5", "len(n) = 5"),
        ("a.b", '["a.b"] present'),
        ("ended not present", "ended_timestamp not present"),
    ],
)
def test_the_same_in_other_words(text: str, same: str) -> None:
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        ("1.5", 1.5),
        ("1h", 3600),
        ("30 seconds", 30),
        ("90 MINUTES", 5400),
        ("72:00:00", 259200),
        ("01:30", 5400),
        ("1 day, 2 hours 30min", 95400),
        ("1 day 02:00:00.5", 93600.5),
        ("2w", 1209600),
        ("", None),
        ("1 fortnight", None),
        ("1h 5", None),
        ("5 1h", None),
        ("10:99", None),
        ("1" * 5000, None),
        ("1h" * 2000 + "!", None),
    ],
)
def test_spans(text: str, seconds: float | None) -> None:
    constant = Constant(text)
    if seconds is None:
        with pytest.raises(SearchError):
            search_values.span(constant)
    else:
        assert search_values.span(constant) == seconds


def test_no_value_gets_into_the_condition() -> None:
    spice = "'; DROP TABLE x; --"
    condition = search_sql.condition(parse(f'["{spice}"]["{spice}"][0] not in ("{spice}") or "{spice}" in query'), 7)
    assert "DROP" not in condition.text
    assert "$6:" not in condition.text
    assert f"${6 + len(condition.parameters)}:" in condition.text


@pytest.mark.parametrize("text", ["n < a", "n in a:b", "owner >= a", "state in a:b", "query < a"])
def test_texts_are_ordered_alike_in_every_database(text: str) -> None:
    assert 'COLLATE "C"' in search_sql.condition(parse(text)).text
