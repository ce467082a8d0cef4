"""`drayman user import`: users who come from another system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from drayman.cli.htdigest import read_secrets
from drayman.cli.lines import numbered_lines
from drayman.cli.output import Failure, json_option, print_json, print_table, printable
from drayman.cli.session import Misuse, calling
from drayman.cli.sql_dump import SqlDump
from drayman.cli.user_dump import TABLES, Dump, guess_format, read_csv, read_json, read_tables
from drayman.client.errors import AlreadyExistsError, DraymanError
from drayman.client.users import ImportOutcome, Secret, UserClient

#: Formats in which pg_dump writes what only pg_restore reads.
_ARCHIVE = b"PGDMP"

_ENTRY = re.compile(r"(users|roles)\[(\d+)\](?:\.members\[(\d+)\])?")


@click.command("import")
@click.argument("source", metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Say what would become of each user, and change nothing.")
@click.option("--update", is_flag=True, help="Give those who exist what their entry has; nothing is taken from them.")
@click.option(
    "--realm", default="", metavar="REALM", help="Realm of password hashes of which the dump does not tell it."
)
@click.option(
    "--issuer",
    "issuers",
    multiple=True,
    metavar="URL",
    help="Whose tokens users log in with: those whose subject is their name or their anonymous id.",
)
@click.option("--schema", default="", metavar="NAME", help="Schema of the tables, if the dump has several.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["sql", "csv", "json", "htdigest"]),
    help="Format of the file; default: as it looks.",
)
@json_option
@calling
async def import_users(
    source: str,
    dry_run: bool,
    update: bool,
    realm: str,
    issuers: tuple[str, ...],
    schema: str,
    kind: str | None,
    as_json: bool,
) -> None:
    """Add the users of FILE, with the passwords and certificates they have elsewhere.

    FILE is a dump of the tables `users`, `roles` and `users_roles` of Data Dispatcher or MetaCat: plain SQL (pg_dump -t users -t roles
    -t users_roles), or the table `users` as CSV with a header, or JSON. All of it is imported, or nothing. Passwords stay good if the
    deployment has the realm of their hashes (DRAYMAN_REALM); hashes of other realms are left out.

    Or it has lines `username:realm:hash`, as htdigest files have: the passwords of users who exist are replaced then.
    """
    _require_plain(source)
    lines = numbered_lines(source)
    first = await _first_line(lines)
    chosen = kind or guess_format(first[1] if first else "")
    if chosen == "htdigest":
        if dry_run or update or realm or issuers or schema:
            raise Misuse("lines of htdigest files are imported as they are: --json is the only option")
        await _import_secrets(_again(first, lines), as_json=as_json)
        return
    dump = await _read(chosen, _again(first, lines), schema, realm, issuers)
    if not dump.users and not dump.roles:
        raise Failure("no users to import")
    outcomes = await _import(dump, dry_run=dry_run, update=update)
    _show(dump, outcomes, dry_run=dry_run, as_json=as_json)


# --- dumps -------------------------------------------------------------------------------------------------------------


async def _read(
    kind: str, lines: AsyncIterator[tuple[int, str]], schema: str, realm: str, issuers: Sequence[str]
) -> Dump:
    """Read a dump. Raises Failure, OSError, DumpError."""
    if kind == "sql":
        reader = SqlDump(TABLES, schema)
        async for number, line in lines:
            reader.feed(number, line)
        return read_tables(reader.finish(), realm, issuers)
    content = [(number, line) async for number, line in lines]
    if kind == "csv":
        return read_tables(read_csv(content), realm, issuers)
    before = content[0][0] - 1 if content else 0  # lines that were empty, for the places of errors
    return read_tables(read_json("\n" * before + "\n".join(line for _, line in content)), realm, issuers)


async def _import(dump: Dump, *, dry_run: bool, update: bool) -> list[ImportOutcome]:
    users, roles = [each.user for each in dump.users], [each.role for each in dump.roles]
    async with UserClient() as client:
        try:
            return await client.import_users(users, roles, dry_run=dry_run, update_existing=update)
        except DraymanError as error:
            # the service speaks of entries of the request, and whoever has the file of its lines
            if place := _place(dump, error.field):
                error.message, error.field = f"{place}: {error.message}", ""
            raise


def _place(dump: Dump, path: str) -> str:
    match = _ENTRY.match(path)
    if match is None:
        return ""
    place = int(match[2])
    if match[1] == "users":
        user = dump.users[place]
        return f"{user.where}, user {user.user.username}"
    role = dump.roles[place]
    where = role.member_places[int(match[3])] if match[3] else role.where
    return f"{where}, role {role.role.name}"


def _show(dump: Dump, outcomes: Sequence[ImportOutcome], *, dry_run: bool, as_json: bool) -> None:
    read = [*(each.notes for each in dump.users), *(each.notes for each in dump.roles)]
    entries = [_entry(notes, outcome) for notes, outcome in zip(read, outcomes, strict=True)]
    counts = {kind: _counts(outcomes, kind) for kind in ("user", "role")}
    if as_json:
        print_json({"dry_run": dry_run, "users": counts["user"], "roles": counts["role"], "entries": entries})
        return
    print_table(
        ("", "name", "outcome", "notes"),
        [(each["kind"], each["name"], each["result"], "; ".join(each["notes"])) for each in entries],
    )
    click.echo(f"users: {_sentence(counts['user'])}; roles: {_sentence(counts['role'])}")
    if dry_run:
        click.echo("nothing was changed: this was a dry run")


def _entry(notes: Sequence[str], outcome: ImportOutcome) -> dict[str, Any]:
    # of an entry that was not taken nothing in particular was left out
    told = [*(notes if outcome.result != "unchanged" else ()), *outcome.notes]
    return {"kind": outcome.kind, "name": outcome.name, "result": outcome.result, "notes": told}


def _counts(outcomes: Sequence[ImportOutcome], kind: str) -> dict[str, int]:
    found = Counter(outcome.result for outcome in outcomes if outcome.kind == kind)
    return {result: found[result] for result in ("created", "updated", "unchanged")}


def _sentence(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {result}" for result, count in counts.items())


# --- htdigest ----------------------------------------------------------------------------------------------------------


async def _import_secrets(lines: AsyncIterator[tuple[int, str]], *, as_json: bool) -> None:
    found = await read_secrets(lines)
    if not found:
        raise Failure("no users to import")
    async with UserClient() as client:
        added, changed = await _set_secrets(client, found)
    if as_json:
        print_json({"added": added, "changed": changed})
    else:
        click.echo(f"{added} users added, {changed} changed")


async def _set_secrets(client: UserClient, found: Mapping[str, Sequence[Secret]]) -> tuple[int, int]:
    added = changed = 0
    for username, secrets in found.items():
        try:
            try:
                await client.create_user(username, secrets=secrets)
                added += 1
            except AlreadyExistsError:
                await client.set_password(username, secrets=secrets)
                changed += 1
        except DraymanError as error:
            before = f"; {added} users added and {changed} changed before" if added or changed else ""
            error.message = f"user {username}: {error.message}{before}"
            raise
    return added, changed


# --- files -------------------------------------------------------------------------------------------------------------


def _require_plain(source: str) -> None:
    if source == "-" or not Path(source).is_file():
        return
    with Path(source).open("rb") as file:
        if file.read(len(_ARCHIVE)) == _ARCHIVE:
            shown = printable(source)
            raise Failure(f"{shown} is an archive of pg_dump: `pg_restore -f users.sql {shown}` makes plain SQL of it")


async def _first_line(lines: AsyncIterator[tuple[int, str]]) -> tuple[int, str] | None:
    async for number, line in lines:
        if line.strip():
            return number, line
    return None


async def _again(first: tuple[int, str] | None, rest: AsyncIterator[tuple[int, str]]) -> AsyncIterator[tuple[int, str]]:
    """Yield the lines from the first that is not empty on."""
    if first is not None:
        yield first
    async for line in rest:
        yield line
