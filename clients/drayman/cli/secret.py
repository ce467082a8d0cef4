"""`drayman secret`: texts and files that one's jobs get, which nobody else reads."""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path

import click

from drayman.cli.interrupts import interruptible
from drayman.cli.listing import print_json_array, print_rows
from drayman.cli.output import Failure, json_option, print_json, printable
from drayman.cli.passwords import read_password
from drayman.cli.session import Misuse, calling
from drayman.cli.values import local_time, plain
from drayman.client.user_secrets import SecretClient, UserSecret

#: A file is stored as base64 under its name behind this, as PanDA's clients do it.
FILE_PREFIX = "___file___:"
#: What the list shows of a value.
_SHOWN = 50
#: Nothing longer could be stored: 1,024,000 characters of at most 4 bytes.
_LARGEST = 4 * 1_024_000


@click.group()
def secret() -> None:
    """Texts and files that your jobs get and nobody else reads; encrypted where they are kept."""


@secret.command("set")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "source", metavar="FILE|-", help="Take the value from a file, to the byte.")
@click.option("--as-file", is_flag=True, help="Jobs find a file named KEY instead of a variable; it may hold anything.")
@json_option
@calling
async def set_secret(key: str, value: str | None, source: str | None, as_file: bool, as_json: bool) -> None:
    """Store VALUE under KEY; what is there is replaced.

    A VALUE on the command line is seen by everybody on the machine. Without it, it is asked for, or read from standard input, of which
    one line end at the end does not count.
    """
    if value is not None and source is not None:
        raise Misuse("VALUE and --file exclude each other")
    if as_file and source is None:
        raise Misuse("--as-file goes with --file")
    if not key:
        raise Misuse("the key is empty")
    if source is not None:
        data = _read(source)
        value = base64.b64encode(data).decode() if as_file else _text(data)
    elif value is None:
        value = _typed_or_piped()
    stored = FILE_PREFIX + key if as_file else key
    async with SecretClient() as secrets:
        await secrets.set(stored, value)
    _say(f"secret {printable(key)} stored", {"key": key, "file": as_file, "length": len(value)}, as_json=as_json)


@secret.command()
@click.argument("key")
@json_option
@calling
async def get(key: str, as_json: bool) -> None:
    """Print the value of KEY, or the content of the file KEY if there is no such value. Nothing is added to it in a pipe."""
    async with SecretClient() as secrets:
        found = await secrets.get([key, FILE_PREFIX + key])
    if not found:
        raise Failure(f"there is no secret {printable(key)}")
    is_file = key not in found
    value = found[FILE_PREFIX + key] if is_file else found[key]
    if as_json:
        print_json({"key": key, "file": is_file, "value": value})
        return
    data = _decoded(key, value) if is_file else value.encode()
    if sys.stdout.isatty():
        # what somebody stored must not control the terminal
        lines = data.decode(errors="replace").split("\n")
        click.echo("\n".join(map(printable, lines)))
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@secret.command("list")
@click.option("--values", is_flag=True, help=f"Show the values, cut to {_SHOWN} characters; in JSON whole.")
@json_option
@calling
async def list_secrets(values: bool, as_json: bool) -> None:
    """List the keys."""
    async with SecretClient() as secrets:
        found = secrets.secrets(values=values)
        if as_json:
            await print_json_array(found, _record)
            return
        titles = ("secret", "kind", "length", "changed")
        if values:
            await print_rows((*titles, "value"), found, lambda each: (*_row(each), _cut(each.value or "")))
        else:
            await print_rows(titles, found, _row)


@secret.command()
@click.argument("key", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@json_option
@calling
async def delete(key: str | None, everything: bool, as_json: bool) -> None:
    """Remove the value and the file KEY, or all. What is not there is no error."""
    if bool(key) == everything:
        raise Misuse("give either KEY or --all")
    async with SecretClient() as secrets:
        if everything:
            count = await secrets.delete_all()
        else:
            count = sum([await secrets.delete(f"{prefix}{key}") for prefix in ("", FILE_PREFIX)])
    _say(f"{count} secrets removed", {"deleted": count}, as_json=as_json)


@secret.command()
@json_option
@calling
async def reencrypt(as_json: bool) -> None:
    """Encrypt everything with the newest key of the service's key file. For administrators.

    Afterwards the older keys can be taken out of the file. If it has copies on several hosts, put a new key on all of them before.
    """
    async with SecretClient() as secrets:
        done = await secrets.reencrypt()
    _say(f"{done.reencrypted} values encrypted anew with the key {done.key_id}", plain(done), as_json=as_json)


@secret.command("new-key")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def new_key(file: Path, as_json: bool) -> None:
    """Put a fresh key before the others in the key file FILE of a service, which is made if there is none.

    A running service notices it. Then `drayman secret reencrypt` encrypts with it what older keys do.
    """
    try:
        from drayman.server.auth import sealing  # noqa: PLC0415 - workers have no server
        from drayman.server.platform.settings import SettingsError  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise Failure(f"key files need {error.name}: pip install 'drayman[server]'") from error
    try:
        key_id = sealing.new_key(file)
    except (SettingsError, OSError) as error:
        raise Failure(printable(str(error))) from error
    _say(f"{printable(str(file))}: new key {key_id}", {"file": str(file), "key_id": key_id}, as_json=as_json)


def _read(source: str) -> bytes:
    """Read a file or standard input. Raises OSError, and Failure for what is too large."""
    if source == "-":
        data = _stdin()
    else:
        with Path(source).open("rb") as file:
            data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise Failure("a secret has at most 1024000 characters")
    return data


def _stdin() -> bytes:
    if sys.stdin is None:  # closed by whoever started us
        raise Failure("standard input is closed")
    with interruptible():
        return sys.stdin.buffer.read(_LARGEST + 1)


def _typed_or_piped() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        return read_password(from_stdin=False, new=True)
    return _text(_read("-").removesuffix(b"\n").removesuffix(b"\r"))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failure("the value is not UTF-8; --file FILE --as-file stores any file") from error


def _decoded(key: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Failure(f"the file {printable(key)} is damaged: not base64; see --json") from error


def _split(each: UserSecret) -> tuple[str, bool]:
    return each.key.removeprefix(FILE_PREFIX), each.key.startswith(FILE_PREFIX)


def _row(each: UserSecret) -> tuple[object, ...]:
    name, is_file = _split(each)
    return name, "file" if is_file else "text", each.length, local_time(each.changed)


def _record(each: UserSecret) -> dict[str, object]:
    name, is_file = _split(each)
    value = {} if each.value is None else {"value": each.value}
    return {"key": name, "file": is_file, "length": each.length, "changed": plain(each.changed), **value}


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."


def _say(text: str, record: object, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        click.echo(text)
