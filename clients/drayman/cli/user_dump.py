"""The users of a Data Dispatcher or MetaCat deployment, as its tables have them, in the form in which they are imported.

Both share one set of tables: `users` (username, name, email, flags, auth_info, auid), `roles` (name, description, parent_role) and
`users_roles` (username, role_name); older ones keep some of it in `authenticators` (username, type, issuer, user_info) or elsewhere.
`flags` has an `a` for administrators. `auth_info` is a JSON object by kind of login: `password` has an MD5 hash (RFC 2617) for each realm,
`x509` a list of subjects of certificates, `ldap` the name of an entry. `auid` has anonymous ids, parted by commas: subjects of tokens.

Nothing here repeats a hash. Needs nothing but Python and the client.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from drayman.cli.printable import printable
from drayman.cli.sql_dump import DumpError, Row
from drayman.client.users import Identity, ImportedUser, Role, Secret

TABLES = ("users", "roles", "users_roles", "authenticators")

Format = Literal["sql", "csv", "json", "htdigest"]

_ALGORITHMS = {32: "MD5", 64: "SHA-256"}
_NAMED: Mapping[str, Literal["x509", "ldap"]] = {"x509": "x509", "ldap": "ldap"}
_SQL = re.compile(r"--|/\*|\\|(?:SET|COPY|INSERT|CREATE|SELECT|BEGIN|ALTER|DROP|START)\s", re.IGNORECASE)
_HTDIGEST = re.compile(r"[^:]+:[^:]*:[0-9A-Fa-f]{8,}\s*")
_DELIMITERS = ",;\t"
_ARRAY_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class DumpedUser:
    """A user of the dump: where, what is imported of them, and what is left out."""

    where: str
    user: ImportedUser
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DumpedRole:
    """A role of the dump; `member_places` say where each member stands."""

    where: str
    role: Role
    member_places: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump says."""

    users: Sequence[DumpedUser]
    roles: Sequence[DumpedRole]


@dataclass(slots=True)
class _RoleRows:
    """What the rows of several tables say of a role."""

    where: str
    members: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def guess_format(line: str) -> Format:
    """Guess the format of a file from its first line that is not empty."""
    text = line.strip().lstrip("\ufeff")
    if text.startswith(("{", "[")):
        return "json"
    if _HTDIGEST.fullmatch(text) or text.startswith("#"):
        return "htdigest"
    if _SQL.match(text):
        return "sql"
    return "csv" if "username" in _header(text) else "htdigest"


def read_csv(lines: Iterable[tuple[int, str]]) -> Mapping[str, Sequence[Row]]:
    """Read the users table from CSV with a header: parted by commas, semicolons or tabs. Raises DumpError."""
    rest = iter(lines)
    number, first = next(((number, line) for number, line in rest if line.strip()), (1, ""))
    columns = _header(first)
    if "username" not in columns or len(set(columns)) != len(columns):
        raise DumpError(f"line {number}", "expected a header with `username` in it, and no column twice")
    delimiter = _delimiter(first)
    at = number

    def texts() -> Iterator[str]:
        nonlocal at
        for at, line in rest:  # noqa: B007 - the place is told when a row is complete
            yield line + "\n"

    rows: list[Row] = []
    begun = at + 1
    try:
        for values in csv.reader(texts(), delimiter=delimiter, strict=True):
            where, begun = f"line {begun}", at + 1
            if not values:
                continue
            if len(values) != len(columns):
                raise DumpError(where, f"{len(values)} values for {len(columns)} columns")
            rows.append(Row(where, {column: value or None for column, value in zip(columns, values, strict=True)}))
    except csv.Error as error:
        raise DumpError(f"line {begun}", f"not CSV: {error}") from None
    return {"users": rows}


def read_json(text: str) -> Mapping[str, Sequence[Row]]:
    """Read tables from JSON: an array of users, an object with an array for each table, or an object for each user and line.

    Raises DumpError.
    """
    value = _json_document(text)
    if isinstance(value, list):
        return {"users": _objects("users", value)}
    if "username" in value:
        return {"users": _objects("users", [value])}
    if "users" not in value:
        raise DumpError("the dump", "expected an array of users, or an object with `users` in it")
    return {table: _objects(table, value[table]) for table in TABLES if value.get(table) is not None}


def read_tables(tables: Mapping[str, Sequence[Row]], realm: str = "", issuers: Sequence[str] = ()) -> Dump:
    """Say what the rows of the tables mean.

    `realm` is that of hashes of which the dump does not tell it. By tokens of `issuers` users log in whose subject is their name or
    anonymous id. Raises DumpError.
    """
    if "users" not in tables:
        raise DumpError(
            "the dump", "there is no table `users`; pg_dump -t users -t roles -t users_roles makes one with it"
        )
    extra: dict[str, list[Row]] = {}
    for row in tables.get("authenticators", ()):
        extra.setdefault(_required(row, "username"), []).append(row)
    users: list[DumpedUser] = []
    places: dict[str, str] = {}
    roles: dict[str, _RoleRows] = {}
    for row in tables["users"]:
        user = _user(row, extra.pop(_required(row, "username"), ()), realm, issuers)
        name = user.user.username
        if name in places:
            raise DumpError(row.where, f"user {printable(name)} occurs twice, first at {places[name]}")
        places[name] = row.where
        users.append(user)
    _collect_roles(tables, roles)
    return Dump(users, [_role(name, roles[name]) for name in sorted(roles)])


# --- users -------------------------------------------------------------------------------------------------------------


def _user(row: Row, more: Sequence[Row], realm: str, issuers: Sequence[str]) -> DumpedUser:
    name = _required(row, "username")
    notes: list[str] = []
    flags = _text(row, "flags")
    if odd := "".join(sorted(set(flags) - set("a \t"))):
        notes.append(f"flags {printable(odd)!r} mean nothing here")
    secrets: dict[tuple[str, str], Secret] = {}
    identities: dict[Identity, None] = {}
    for kind, value, of in [*_credentials(row, realm), *_authenticators(more, realm)]:
        if kind in ("password", "digest"):
            for secret in _secrets(value, of, notes):
                secrets.setdefault((secret.algorithm, secret.realm), secret)
        elif named := _NAMED.get(kind):
            identities.update(dict.fromkeys(_names(named, value, notes)))
        elif value:
            notes.append(f"logins by {printable(kind[:40])} are left out")
    identities.update(dict.fromkeys(_subjects(name, _text(row, "auid"), issuers, notes)))
    user = ImportedUser(
        username=name,
        full_name=_text(row, "name").strip(),
        email=_text(row, "email").strip(),
        admin="a" in flags,
        secrets=tuple(secrets.values()),
        identities=tuple(identities),
    )
    return DumpedUser(row.where, user, tuple(notes))


def _credentials(row: Row, realm: str) -> Iterator[tuple[str, Any, str]]:
    """Yield kind, value and realm of what `auth_info` has."""
    info = _json_value(row, "auth_info")
    if info is None:
        return
    if not isinstance(info, dict):
        raise DumpError(row.where, "auth_info is no JSON object")
    for kind, value in info.items():
        yield kind, value, realm


def _authenticators(rows: Sequence[Row], realm: str) -> Iterator[tuple[str, Any, str]]:
    for row in rows:
        kind = _required(row, "type")
        if row.values.get("secrets") is not None:
            yield kind, _array(row, "secrets"), realm
        if (value := _json_value(row, "user_info")) is not None:
            yield kind, value, _text(row, "issuer") or realm


def _secrets(value: Any, realm: str, notes: list[str]) -> Iterator[Secret]:
    """Read hashes: one, a list, or by realm."""
    if isinstance(value, dict):
        pairs = [(str(of) or realm, ha1) for of, ha1 in value.items()]
    else:
        pairs = [(realm, ha1) for ha1 in (value if isinstance(value, list) else [value])]
    for of, ha1 in pairs:
        if ha1 is None or ha1 == "":
            continue
        text = ha1.strip().lower() if isinstance(ha1, str) else ""
        algorithm = _ALGORITHMS.get(len(text))
        if algorithm is None or not re.fullmatch("[0-9a-f]+", text):
            notes.append(f"a password{_of(of)} is left out: its hash is neither MD5 nor SHA-256")
        elif not of:
            notes.append("a password is left out: nothing says of which realm its hash is; --realm would")
        else:
            yield Secret(algorithm, of, text)


def _names(kind: Literal["x509", "ldap"], value: Any, notes: list[str]) -> Iterator[Identity]:
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and name.strip():
            yield Identity(kind, name.strip())
        elif name:
            notes.append(f"an entry of {kind} is left out: it is no distinguished name")


def _subjects(name: str, anonymous: str, issuers: Sequence[str], notes: list[str]) -> Iterator[Identity]:
    subjects = [subject.strip() for subject in anonymous.split(",") if subject.strip()]
    if subjects and not issuers:
        notes.append("the anonymous id is left out: --issuer says whose tokens have it as their subject")
    for issuer in issuers:
        for subject in [name, *subjects]:
            yield Identity("token", subject, issuer)


def _of(realm: str) -> str:
    return f" of realm {printable(realm[:64])!r}" if realm else ""


# --- roles -------------------------------------------------------------------------------------------------------------


def _collect_roles(tables: Mapping[str, Sequence[Row]], roles: dict[str, _RoleRows]) -> None:
    for row in tables.get("roles", ()):
        name = _required(row, "name")
        if name in roles:
            raise DumpError(row.where, f"role {printable(name)} occurs twice, first at {roles[name].where}")
        found = roles[name] = _RoleRows(row.where)
        if parent := _text(row, "parent_role"):
            found.notes.append(f"it had the parent {printable(parent)}: roles stand for themselves here")
        for column in ("users", "members"):
            found.members.update(dict.fromkeys(_array(row, column), row.where))
    for row in tables.get("users_roles", ()):
        column = "role_name" if "role_name" in row.values else "role"
        name = _required(row, column)
        roles.setdefault(name, _RoleRows(row.where)).members.setdefault(_required(row, "username"), row.where)
    for row in tables["users"]:
        for name in _array(row, "roles"):
            roles.setdefault(name, _RoleRows(row.where)).members.setdefault(_required(row, "username"), row.where)


def _role(name: str, rows: _RoleRows) -> DumpedRole:
    members = sorted(rows.members)
    places = tuple(rows.members[member] for member in members)
    return DumpedRole(rows.where, Role(name, tuple(members)), places, tuple(rows.notes))


# --- values ------------------------------------------------------------------------------------------------------------


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DumpError(row.where, f"{column} is no text")
    return value


def _required(row: Row, column: str) -> str:
    value = _text(row, column)
    if not value:
        raise DumpError(row.where, f"{column} is missing")
    return value


def _json_value(row: Row, column: str) -> Any:
    """Return what a JSON column has, which in a dump is a text."""
    value = row.values.get(column)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise DumpError(row.where, f"{column} is not JSON") from None


def _array(row: Row, column: str) -> list[str]:
    """Return the texts of an array, which in a dump is `{one,"the other"}`."""
    value = row.values.get(column)
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return [
            re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL) if match[1] is not None else match[2].strip()
            for match in _ARRAY_ITEM.finditer(value[1:-1])
            if match[2] != "NULL"
        ]
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return value
    raise DumpError(row.where, f"{column} is no array of texts")


def _header(line: str) -> list[str]:
    return [column.strip().strip('"').lower() for column in line.lstrip("\ufeff").split(_delimiter(line))]


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _json_document(text: str) -> Any:
    try:
        value = json.loads(text)
    except RecursionError:
        raise DumpError("the dump", "the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        return _json_lines(text, f"line {error.lineno}", error.msg)
    except ValueError:  # a number of more digits than Python reads
        raise DumpError("the dump", "not JSON") from None
    if not isinstance(value, (list, dict)):
        raise DumpError("the dump", "expected an array or an object")
    return value


def _json_lines(text: str, where: str, problem: str) -> list[Any]:
    """Read an object of each line; if it is not that either, tell the problem of the whole."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        raise DumpError(where, f"not JSON: {problem}") from None


def _objects(table: str, value: Any) -> list[Row]:
    if not isinstance(value, list):
        raise DumpError(table, "expected an array")
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            raise DumpError(f"{table}[{place}]", "expected an object")
    return [Row(f"{table}[{place}]", item) for place, item in enumerate(value)]
