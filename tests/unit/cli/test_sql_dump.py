"""Plain SQL dumps: COPY with all its escapes, INSERT, and everything between that must not be taken for them."""

import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.cli.sql_dump import DumpError, Row, SqlDump

HASH = "0123456789abcdef" * 2


def read(text: str, *, schema: str = "", tables: Sequence[str] = ("users", "roles")) -> Mapping[str, Sequence[Row]]:
    dump = SqlDump(tables, schema)
    for number, line in enumerate(text.split("\n"), 1):
        dump.feed(number, line)
    return dump.finish()


def values(text: str, table: str = "users") -> list[dict[str, object]]:
    return [dict(row.values) for row in read(text)[table]]


DUMP = r"""--
-- PostgreSQL database dump
--

\restrict abc
SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

CREATE FUNCTION public.f() RETURNS text LANGUAGE plpgsql AS $_$
begin
  -- COPY public.users (username) FROM stdin;
  insert into users values ('nobody''s; $1'); return $_x$ ; $_x$;
end $_$;

CREATE TABLE public.users (
    username text NOT NULL,
    name text DEFAULT 'a, b)'::text,
    "Odd" numeric(10,2),
    CONSTRAINT users_check CHECK ((username <> ','::text))
);

COPY public.files (name, "users") FROM stdin;
INSERT INTO public.users VALUES ('not me');	\N
COPY public.users (username) FROM stdin;	x
\.


COPY public.users (username, name, "Odd") FROM stdin;
ann	Ann\tO'Neil\\	\N
bob	\\N	1.50
\.

CREATE INDEX i ON public.users USING btree (name) WHERE (name <> ';'::text);
"""


def test_a_copy_block_has_the_rows_and_nothing_else_does() -> None:
    rows = read(DUMP)
    assert [dict(row.values) for row in rows["users"]] == [
        {"username": "ann", "name": "Ann\tO'Neil\\", "Odd": None},
        {"username": "bob", "name": "\\N", "Odd": "1.50"},
    ]
    lines = DUMP.split("\n")
    assert [row.where for row in rows["users"]] == [f"line {lines.index(lines[place]) + 1}" for place in (30, 31)]
    assert "roles" not in rows


def test_inserts_have_the_same_rows() -> None:
    start = DUMP[: DUMP.index("COPY public.users (username, name")]
    text = start + (
        "INSERT INTO public.users (username, name) VALUES ('ann', 'two\n\nlines; -- with '' and \\ and (''brackets'')');\n"
        "insert into public.users values ('bob', NULL, 1.5), ('cid', E'tab\\there\\u00e9\\xc3\\xa9', -2);\n"
        "INSERT INTO public.users VALUES\n\t('dan', 'x', NULL),\n\t('eve', true, NULL)\nON CONFLICT DO NOTHING;\n"
    )
    rows = read(text)["users"]
    first = start.count("\n") + 1
    assert [row.where for row in rows] == [f"line {first + offset}" for offset in (0, 3, 3, 5, 6)]
    assert [dict(row.values) for row in rows] == [
        {"username": "ann", "name": "two\n\nlines; -- with ' and \\ and ('brackets')"},
        {"username": "bob", "name": None, "Odd": "1.5"},
        {"username": "cid", "name": "tab\thereéé", "Odd": "-2"},
        {"username": "dan", "name": "x", "Odd": None},
        {"username": "eve", "name": "true", "Odd": None},
    ]


def test_comments_and_names_in_quotes_do_not_confuse() -> None:
    text = """/* COPY users (username) FROM stdin;
    /* nested ' */ */ COPY "users" ( "username" , "a ""b"", c" ) FROM stdin; -- it's here
ann\tx
\\.
/* the end */
"""
    assert values(text) == [{"username": "ann", 'a "b", c': "x"}]
    assert read('COPY "Users" (username) FROM stdin;\nann\n\\.\n') == {}
    assert values("SELECT 1; INSERT INTO users (username) VALUES ('ann'); SELECT ';';") == [{"username": "ann"}]


def test_of_several_schemas_one_must_be_chosen() -> None:
    block = "COPY {}.users (username) FROM stdin;\n{}\n\\.\n"
    text = block.format("dune", "ann") + block.format('"Hypot"', "bob")
    with pytest.raises(DumpError, match=r"dune and Hypot.*--schema"):
        read(text)
    assert [dict(row.values) for row in read(text, schema="Hypot")["users"]] == [{"username": "bob"}]
    # as older ones name it
    old = "SET search_path = dune, pg_catalog;\n" + block.format("x", "cid").replace("x.", "") + block.format("o", "d")
    assert [dict(row.values) for row in read(old, schema="dune")["users"]] == [{"username": "cid"}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("COPY users (username) FROM stdin;\nann", "line 1: the data of this COPY have no end"),
        (f"\nCOPY users (username, x) FROM stdin;\n{HASH}\n\\.", "line 3: 1 values for 2 columns"),
        (f"COPY users (username) FROM stdin;\n{HASH}\tb\n\\.", "line 2: 2 values for 1 columns"),
        (f"COPY users (username) FROM stdin;\n{HASH}\\\n\\.", "line 2: a backslash"),
        (f"COPY users (username) FROM stdin;\n{HASH}\\xff\n\\.", "line 2: an escaped value is not UTF-8"),
        ("COPY users FROM stdin;\nann\n\\.", "line 1: nothing says which columns"),
        ("COPY users (username) FROM stdin WITH (FORMAT csv);\nann\n\\.", "line 1: only the text format"),
        ("INSERT INTO users VALUES ('ann');", "line 1: nothing says which columns"),
        (f"\nINSERT INTO users (username) VALUES ('{HASH}', 'b');", "line 2: 2 values for 1 columns"),
        (f"INSERT INTO users (username) VALUES\n('a'),\n('{HASH}' || 'b');", "line 3: this INSERT is not"),
        (f"INSERT INTO users (username) VALUES (f('{HASH}'));", "line 1: a value of this INSERT is neither"),
        (f"INSERT INTO users (username) SELECT '{HASH}';", ""),
        (f"INSERT INTO users (username) VALUES ('{HASH}') RETURNING 1;", "line 1: this INSERT is not"),
        (f"SELECT 1;\n\nINSERT INTO users (username) VALUES ('{HASH}", "line 3: the statement that begins here"),
        ("SET client_encoding = 'LATIN1';", "line 1: the dump is in LATIN1"),
        ("SET standard_conforming_strings = off;", "line 1: only dumps with standard_conforming_strings on"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, problem: str) -> None:
    if not problem:  # no rows, and nothing that we could miss in silence
        assert read(text) == {}
        return
    with pytest.raises(DumpError, match=re.escape(problem)) as caught:
        read(text)
    assert HASH not in str(caught.value)


def test_a_row_does_not_show_its_values() -> None:
    assert HASH not in repr(read(f"INSERT INTO users (username) VALUES ('{HASH}');"))


# --- escapes ------------------------------------------------------------------------------------------------------------

#: What a database may hold: anything but NUL and what is no character.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


def copied(value: str | None) -> str:
    """Write a value as PostgreSQL's COPY does."""
    if value is None:
        return "\\N"
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    return "".join(escapes.get(character, character) for character in value)


def as_bytes(value: str) -> str:
    """Write a value as COPY would read it as well: every byte by its number."""
    return "".join(f"\\{byte:03o}" if byte % 2 else f"\\x{byte:02x}" for byte in value.encode())


@given(st.lists(st.tuples(st.none() | texts, st.none() | texts), max_size=5))
def test_copy_gives_back_what_was_written(rows: list[tuple[str | None, str | None]]) -> None:
    lines = ["\t".join(map(copied, row)) for row in rows]
    found = read("\n".join(["COPY users (a, b) FROM stdin;", *lines, "\\.", ""]))["users"]
    assert [(row.values["a"], row.values["b"]) for row in found] == rows


@given(texts)
def test_copy_reads_bytes_by_their_numbers(value: str) -> None:
    assert values(f"COPY users (a) FROM stdin;\n{as_bytes(value)}\n\\.\n") == [{"a": value}]


@given(st.lists(texts, min_size=1, max_size=5), st.booleans())
def test_insert_gives_back_what_was_written(written: list[str], escaped: bool) -> None:
    def literal(value: str) -> str:
        doubled = value.replace("'", "''")
        return "E'" + doubled.replace("\\", "\\\\") + "'" if escaped else f"'{doubled}'"

    # a lone carriage return at the end of a line does not survive the reading of lines
    text = "INSERT INTO users (a) VALUES " + ", ".join(f"({literal(value)})" for value in written) + ";"
    assert [row["a"] for row in values(text)] == written


@given(st.text("COPYusers ()'\"$;,\\.-/*\n\tE1", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except DumpError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome will do
