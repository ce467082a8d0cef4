"""What a registry command is about: `PROJECT`, `PROJECT/ASSET`, `PROJECT/ASSET/VERSION` and `PROJECT/ASSET/VERSION/PATH`."""

from __future__ import annotations

from drayman.cli.printable import printable
from drayman.cli.session import Misuse
from drayman.client.registry_values import Doomed

ASSET = "PROJECT/ASSET"
VERSION = "PROJECT/ASSET/VERSION"
FILE = "PROJECT/ASSET/VERSION[/PATH]"
ANY = "PROJECT[/ASSET[/VERSION]]"


def asset(text: str) -> tuple[str, str]:
    """Read `PROJECT/ASSET`."""
    project, name = _parts(text, 2, ASSET)
    return project, name


def version(text: str) -> tuple[str, str, str]:
    """Read `PROJECT/ASSET/VERSION`."""
    project, name, number = _parts(text, 3, VERSION)
    return project, name, number


def file(text: str) -> tuple[str, str, str, str]:
    """Read `PROJECT/ASSET/VERSION[/PATH]`; the path is "" if there is none, and may end in `/`."""
    parts = text.split("/", 3)
    if len(parts) < 3 or not all(parts[:3]):
        raise Misuse(f"{printable(text)!r}: expected {FILE}")
    return parts[0], parts[1], parts[2], parts[3] if len(parts) > 3 else ""


def doomed(text: str) -> Doomed:
    """Read `PROJECT[/ASSET[/VERSION]]`."""
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        raise Misuse(f"{printable(text)!r}: expected {ANY}")
    return Doomed(*parts)


def _parts(text: str, count: int, expected: str) -> list[str]:
    parts = text.split("/")
    if len(parts) != count or not all(parts):
        raise Misuse(f"{printable(text)!r}: expected {expected}")
    return parts
