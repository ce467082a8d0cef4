"""Who may act as whom: the deployment's rules, read once at the start.

A file of lines `NAME:USER,USER`: NAME may act as these users; `NAME:*` = as everybody; `NAME:*,-USER` = as everybody but USER. Of several
lines for one NAME the last one holds. Blank lines and lines that begin with `#` say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drayman.server.platform.errors import Refusal
from drayman.server.platform.settings import SettingsError
from drayman.server.platform.trust import Caller

_EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is taken to make a call. Nobody is an administrator in another's name."""

    username: str
    admin: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """As whom somebody may act: as `users`, or, with `everybody`, as all but those."""

    everybody: bool
    users: frozenset[str]

    def allows(self, user: str) -> bool:
        return (user in self.users) is not self.everybody


class Spoofing:
    """The rules of a deployment; none = nobody acts as anybody else."""

    def __init__(self, rules: Mapping[str, _Rule] | None = None) -> None:
        self._rules = rules or {}

    @classmethod
    def parse(cls, text: str) -> Spoofing:
        """Read rules. Raises ValueError that names the line and what is expected."""
        rules: dict[str, _Rule] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                name, rule = _parse_line(number, line)
                if rule is None:  # as Gobbler reads it: an empty list says nothing
                    continue
                rules[name] = rule
        return cls(rules)

    @classmethod
    def load(cls, path: str) -> Spoofing:
        """Read the file at `path`; empty = no rules. Raises SettingsError."""
        if not path:
            return cls()
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"registry_spoof {path!r}: {error.strerror}") from error
        except ValueError as error:  # UnicodeDecodeError is one as well
            raise SettingsError(f"registry_spoof {path!r}: {error}") from error

    def allows(self, name: str, user: str) -> bool:
        """Whether `name` may act as `user`. Everybody may act as themselves."""
        rule = self._rules.get(name)
        return name == user or (rule is not None and rule.allows(user))

    def actor(self, caller: Caller, spoof: str) -> Actor:
        """Say who a call is made by, if its request has this `spoof`; empty = by the caller. Raises Refusal."""
        if not spoof or spoof == caller.username:
            return Actor(caller.username, caller.admin)
        if not self.allows(caller.username, spoof):
            raise Refusal(
                "SPOOFING_REFUSED",
                f"{caller.username} may not act as {spoof}",
                "spoof",
                {"user": caller.username, "spoof": spoof},
            )
        return Actor(spoof, admin=False)


def _parse_line(number: int, line: str) -> tuple[str, _Rule | None]:
    if line.count(":") != 1:
        raise ValueError(f"line {number}: {line[:80]!r}: expected NAME:USER,USER or NAME:* or NAME:*,-USER")
    name, _, names = line.partition(":")
    name = name.strip()
    if not name:
        raise ValueError(f"line {number}: {line[:80]!r}: the name before the colon is missing")
    users = [user.strip() for user in names.split(",")]
    if users == [""]:
        return name, None
    if not all(users) or "-" in users:
        raise ValueError(f"line {number}: {line[:80]!r}: an empty name between two commas")
    if _EVERYBODY not in users:
        # "-USER" without "*" takes nothing away from anybody
        return name, _Rule(everybody=False, users=frozenset(user for user in users if not user.startswith("-")))
    excluded = frozenset(user[1:] for user in users if user.startswith("-"))
    return name, _Rule(everybody=True, users=excluded)
