"""Rows of tables in a plain SQL dump, as `pg_dump` writes it: COPY blocks, INSERT statements, or both. Needs nothing but Python.

A dump may be of a whole database: it is read line by line, and only the rows that are asked for are kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drayman.cli.printable import printable


class DumpError(ValueError):
    """A dump that cannot be read. The text begins with the place, and repeats no value: they may be secrets."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: where it stands, and its values by column; None is NULL."""

    where: str
    values: Mapping[str, object] = field(repr=False)


_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\U0010ffff][\w$]*)'
_TABLE = rf"(?:ONLY\s+)?(?:(?P<schema>{_IDENTIFIER})\s*\.\s*)?(?P<table>{_IDENTIFIER})\s*"
_COLUMNS = rf"(?:\((?P<columns>\s*{_IDENTIFIER}(?:\s*,\s*{_IDENTIFIER})*\s*)\)\s*)?"
_COPY = re.compile(rf"COPY\s+{_TABLE}{_COLUMNS}FROM\s+stdin\s*(?P<options>.*)", re.IGNORECASE | re.DOTALL)
_INSERT = re.compile(
    rf"INSERT\s+INTO\s+{_TABLE}{_COLUMNS}(?:OVERRIDING\s+(?:SYSTEM|USER)\s+VALUE\s+)?VALUES\s*", re.IGNORECASE
)
_CREATE = re.compile(
    rf"CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_TABLE}\((?P<body>.*)\)[^)]*",
    re.IGNORECASE | re.DOTALL,
)
_SET = re.compile(r"SET\s+(?P<name>\w+)\s*(?:=|TO)\s*(?P<value>.*)", re.IGNORECASE | re.DOTALL)
_SEARCH_PATH = re.compile(
    r"SELECT\s+pg_catalog\.set_config\('search_path',\s*'(?P<value>[^']*)'.*", re.IGNORECASE | re.DOTALL
)
_NOT_A_COLUMN = re.compile(r"(?:CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE|LIKE)\b", re.IGNORECASE)

#: What changes how the following characters are read.
_MARK = re.compile(r"""(?<![\w$])[Ee]'|'|"|--|/\*|(?<![\w$])\$(?:[A-Za-z_]\w*)?\$|;""")
_WITHIN = {
    "'": re.compile(r"''|'"),
    "E": re.compile(r"\\.|''|'", re.DOTALL),
    '"': re.compile(r'""|"'),
}
_COMMENT = re.compile(r"/\*|\*/")

_VALUE = re.compile(
    r"""\s*(?:(?P<null>NULL|DEFAULT)\b|(?P<word>TRUE|FALSE)\b|(?P<number>-?[0-9][0-9.eE+-]*)"""
    r"""|(?P<escaped>[Ee])?'(?P<text>(?(escaped)(?:[^'\\]|\\.|'')*|(?:[^']|'')*))')"""
    r"""(?:\s*::\s*[\w. ]+(?:\[\])?)?\s*""",
    re.IGNORECASE | re.DOTALL,
)
_AFTER_VALUES = re.compile(r"\s*(?:ON\s+CONFLICT\s+DO\s+NOTHING\s*)?", re.IGNORECASE)

_FIELD = re.compile(r"(?:[^\t\\]|\\.)*")
_COPY_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_STRING_ESCAPE = re.compile(
    rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL
)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(frozen=True, slots=True)
class _Copy:
    """A COPY block that goes on; `rows` None = of a table that nobody asked for."""

    begun: int
    columns: Sequence[str]
    rows: list[Row] | None


class SqlDump:
    """Takes in a dump line by line and keeps the rows of some tables; `schema` empty = of whichever schema has them."""

    def __init__(self, tables: Collection[str], schema: str = "") -> None:
        self._tables = tables
        self._schema = schema
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._columns: dict[tuple[str, str], Sequence[str]] = {}
        self._search_path = ""
        self._copy: _Copy | None = None
        # the statement that goes on: its lines, where it began, and in which quotes or comments it is just now
        self._pieces: list[str] = []
        self._begun = 0
        self._state = ""
        self._depth = 0
        self._comment: int | None = None  # where a comment begins that goes on to the end of the line

    def feed(self, number: int, line: str) -> None:
        """Take in a line. Raises DumpError."""
        if self._copy is not None:
            self._take_copied(self._copy, number, line)
            return
        idle = not (self._pieces or self._state or self._depth)
        if idle and (not line.strip() or line.startswith(("--", "\\"))):
            return  # backslash: a command to psql
        start = position = 0
        while position < len(line):
            commented = self._depth > 0
            position, end = self._scan(line, position)
            if end is not None:
                self._keep(number, line[start:end])
                self._finish_statement()
                start = position
            elif self._depth and not commented:
                self._keep(number, line[start : position - 2] + " ")
            elif commented and not self._depth:
                start = position
        if not self._depth:
            self._keep(number, line[start : self._comment])
        if self._pieces:
            self._pieces.append("\n")
        self._comment = None

    def finish(self) -> Mapping[str, Sequence[Row]]:
        """Return the rows by table, for those tables that the dump has. Raises DumpError."""
        if self._copy is not None:
            raise DumpError(f"line {self._copy.begun}", "the data of this COPY have no end")
        if self._pieces:
            raise DumpError(f"line {self._begun}", "the statement that begins here has no end")
        found: dict[str, Sequence[Row]] = {}
        for schema, table in self._rows:
            if table in found:
                schemas = " and ".join(printable(s or "?") for s, t in self._rows if t == table)
                raise DumpError(
                    "the dump", f"several schemas ({schemas}) have a table {table}: say which one, --schema"
                )
            found[table] = self._rows[schema, table]
        return found

    # --- statements --------------------------------------------------------------------------------------------------

    def _keep(self, number: int, text: str) -> None:
        """Keep a part of a statement; where the first one stands, there it begins."""
        if not self._pieces:
            self._begun = number
        if self._pieces or text.strip():
            self._pieces.append(text)

    def _scan(self, line: str, position: int) -> tuple[int, int | None]:
        """Go on in a line: returns up to where, and the end of a statement if that is there."""
        if self._depth or self._state:
            return self._scan_within(line, position), None
        match = _MARK.search(line, position)
        if match is None:
            return len(line), None
        mark = match.group()
        if mark == ";":
            return match.end(), match.start()
        if mark == "--":
            self._comment = match.start()
            return len(line), None
        if mark == "/*":
            self._depth = 1
        else:
            self._state = "E" if mark in ("E'", "e'") else mark
        return match.end(), None

    def _scan_within(self, line: str, position: int) -> int:
        """Go on in a comment or between quotes: returns up to where."""
        if self._depth:
            match = _COMMENT.search(line, position)
            if match is None:
                return len(line)
            self._depth += 1 if match.group() == "/*" else -1
            return match.end()
        match = (_WITHIN.get(self._state) or re.compile(re.escape(self._state))).search(line, position)
        if match is None:
            return len(line)
        # two characters are an escape, unless they are the quotes themselves
        if len(match.group()) == 1 or self._state.startswith("$"):
            self._state = ""
        return match.end()

    def _finish_statement(self) -> None:
        begun, text = self._begun, "".join(self._pieces).lstrip()
        self._pieces = []
        if match := _COPY.fullmatch(text):
            self._begin_copy(begun, match)
        elif match := _INSERT.match(text):
            key = self._wanted(match)
            if key is not None:
                rows = self._rows.setdefault(key, [])
                rows.extend(_inserted(begun, text, match.end(), self._columns_of(key, begun, match["columns"])))
        elif match := _CREATE.fullmatch(text):
            key = self._wanted(match)
            if key is not None:
                self._columns[key] = _declared(match["body"])
        elif match := _SET.fullmatch(text) or _SEARCH_PATH.fullmatch(text):
            self._set(begun, match.groupdict().get("name", "search_path"), match["value"].strip())

    def _set(self, begun: int, name: str, value: str) -> None:
        name, value = name.lower(), value.strip("'")
        if name == "client_encoding" and value.lower().replace("-", "") not in ("utf8", "unicode", "sql_ascii"):
            raise DumpError(f"line {begun}", f"the dump is in {printable(value)}: make it with --encoding=UTF8")
        if name == "standard_conforming_strings" and value.lower() != "on":
            raise DumpError(f"line {begun}", "only dumps with standard_conforming_strings on are read")
        if name == "search_path":
            first = value.split(",")[0].strip()
            self._search_path = _name(first) if first else ""

    def _wanted(self, match: re.Match[str]) -> tuple[str, str] | None:
        """Return schema and table of a statement, None if nobody asked for it."""
        table = _name(match["table"])
        schema = _name(match["schema"]) if match["schema"] else self._search_path
        if table not in self._tables or (self._schema and schema != self._schema):
            return None
        return schema, table

    def _columns_of(self, key: tuple[str, str], begun: int, listed: str | None) -> Sequence[str]:
        columns = [_name(column) for column in _split(listed)] if listed else self._columns.get(key)
        if columns is None:
            raise DumpError(f"line {begun}", f"nothing says which columns the table {printable(key[1])} has")
        return columns

    # --- COPY --------------------------------------------------------------------------------------------------------

    def _begin_copy(self, begun: int, match: re.Match[str]) -> None:
        key = self._wanted(match)
        if key is None:
            self._copy = _Copy(begun, (), None)
            return
        if match["options"].strip():
            raise DumpError(f"line {begun}", "only the text format of COPY is read")
        rows = self._rows.setdefault(key, [])
        self._copy = _Copy(begun, self._columns_of(key, begun, match["columns"]), rows)

    def _take_copied(self, copy: _Copy, number: int, line: str) -> None:
        if line == "\\.":
            self._copy = None
        elif copy.rows is not None:
            where = f"line {number}"
            values = [None if text == "\\N" else _unescape(where, text, _COPY_ESCAPE) for text in _fields(where, line)]
            copy.rows.append(_row(where, copy.columns, values))


def _fields(where: str, line: str) -> Iterator[str]:
    position = 0
    while True:
        match = _FIELD.match(line, position)
        assert match is not None, "the pattern matches the empty text"
        yield match.group()
        position = match.end()
        if position == len(line):
            return
        if line[position] != "\t":
            raise DumpError(where, "a backslash at the end of the line")
        position += 1


def _row(where: str, columns: Sequence[str], values: Sequence[object]) -> Row:
    if len(values) != len(columns):
        raise DumpError(where, f"{len(values)} values for {len(columns)} columns")
    return Row(where, dict(zip(columns, values, strict=True)))


def _unescape(where: str, text: str, escapes: re.Pattern[bytes]) -> str:
    if "\\" not in text:
        return text
    # octal and hexadecimal escapes are bytes, of which several may make a character
    content = escapes.sub(_escaped, text.encode(errors="surrogatepass"))
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DumpError(where, "an escaped value is not UTF-8") from None


def _escaped(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, *points, character = match.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    for point in points:
        if point:
            return chr(min(int(point, 16), 0x10FFFF)).encode(errors="surrogatepass")
    return _CONTROLS.get(character, character)


# --- INSERT and CREATE -------------------------------------------------------------------------------------------------


def _inserted(begun: int, text: str, position: int, columns: Sequence[str]) -> Iterator[Row]:
    line, counted = begun, 0
    while True:
        line, counted = line + text.count("\n", counted, position), position
        where = f"line {line}"
        values, position = _parenthesis(where, text, position)
        yield _row(where, columns, values)
        rest = text[position:].lstrip()
        if not rest.startswith(","):
            break
        position = len(text) - len(rest) + 1
        position += len(text[position:]) - len(text[position:].lstrip())
    end = _AFTER_VALUES.match(text, position)
    if end is None or end.end() != len(text):
        raise DumpError(where, "this INSERT is not one that pg_dump writes")


def _parenthesis(where: str, text: str, position: int) -> tuple[list[object], int]:
    values: list[object] = []
    separator = "("
    while True:
        if text[position : position + 1] != separator:
            raise DumpError(where, "this INSERT is not one that pg_dump writes")
        match = _VALUE.match(text, position + 1)
        if match is None:
            raise DumpError(where, "a value of this INSERT is neither a text nor a number, truth value or NULL")
        values.append(_value(where, match))
        position = match.end()
        if text[position : position + 1] == ")":
            return values, position + 1
        separator = ","


def _value(where: str, match: re.Match[str]) -> str | None:
    if match["null"]:
        return None
    if match["text"] is None:
        return match["word"] or match["number"]
    text = match["text"].replace("''", "'")
    return _unescape(where, text, _STRING_ESCAPE) if match["escaped"] else text


def _declared(body: str) -> list[str]:
    columns = []
    for part in _split(body):
        match = re.match(_IDENTIFIER, part)
        if match and not _NOT_A_COLUMN.match(part):
            columns.append(_name(match.group()))
    return columns


def _split(text: str) -> Iterator[str]:
    """Part a text at its commas, but not within quotes and parentheses."""
    depth = start = 0
    for match in re.finditer(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[(),]""", text):
        mark = match.group()
        if mark == "(":
            depth += 1
        elif mark == ")":
            depth -= 1
        elif mark == "," and not depth:
            yield text[start : match.start()].strip()
            start = match.end()
    yield text[start:].strip()


def _name(identifier: str) -> str:
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()
