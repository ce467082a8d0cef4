"""What a command line may look like: commands in groups, options of one letter before operands, help at every level."""

from __future__ import annotations

import getopt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from drayman.ddisp.client import Client
from drayman.ddisp.endings import Misuse

#: What was given, by letter; that of a flag is "". The last one counts.
Options: TypeAlias = Mapping[str, str]

#: Seconds for which a command tries again while no service answers: somebody sits and waits ...
BRIEFLY = 20.0
#: ... or a batch job would lose what it has done.
PATIENTLY = 300.0

HELP_WORDS = ("help", "--help", "-?")


@dataclass(frozen=True)
class Option:
    """An option: its letter, what its value is called ("" = it takes none), and what it is for."""

    letter: str
    value: str
    about: str


@dataclass(frozen=True)
class Command:
    """A command. `count` is how many operands it takes (None = any number); `rewritten` may change the words before they are read."""

    run: Callable[[Client, Options, list[str]], None]
    about: str
    operands: str = ""
    count: tuple[int, int | None] = (0, 0)
    options: tuple[Option, ...] = ()
    patience: float = BRIEFLY
    rewritten: Callable[[list[str]], list[str]] = field(default=list)

    def read(self, name: str, words: list[str]) -> tuple[Options, list[str]]:
        """Tell options from operands. Raises Misuse."""
        options, operands = read_options(name, self.options, self.rewritten(words))
        least, most = self.count
        if len(operands) < least:
            raise Misuse(f"something is missing: expected {self.operands}; see `{name} help`")
        if most is not None and len(operands) > most:
            surplus = operands[most]
            hint = "; options go before" if surplus.startswith("-") else ""
            raise Misuse(f"{surplus!r} is too much{hint}; see `{name} help`")
        return options, operands

    def help(self, name: str) -> str:
        """Return what `help` prints."""
        words = [name, *(["[options]"] if self.options else []), *([self.operands] if self.operands else [])]
        lines = [f"{' '.join(words)}", f"    {self.about}", *_option_lines(self.options)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Group:
    """Commands under one word."""

    about: str
    members: Mapping[str, Command | Group]
    options: tuple[Option, ...] = ()

    def help(self, name: str) -> str:
        """Return what `help` prints."""
        width = max(map(len, self.members))
        lines = [f"{name} {'[options] ' if self.options else ''}<command> ...", f"    {self.about}"]
        lines += _option_lines(self.options)
        lines += ["", "Commands:"]
        lines += (f"    {word:<{width}}  {_summary(member)}" for word, member in self.members.items())
        lines += [f"    {'help':<{width}}  this, and with any command what that one does"]
        return "\n".join(lines)


def read_options(name: str, known: tuple[Option, ...], words: list[str]) -> tuple[Options, list[str]]:
    """Read the options in front. Raises Misuse."""
    letters = "".join(option.letter + (":" if option.value else "") for option in known)
    try:
        pairs, rest = getopt.getopt(words, letters)
    except getopt.GetoptError as error:
        raise Misuse(f"{error.msg}; see `{name} help`") from error
    return {letter.removeprefix("-"): value for letter, value in pairs}, rest


def _option_lines(options: tuple[Option, ...]) -> Iterator[str]:
    if options:
        yield ""
    for option in options:
        sign = f"-{option.letter} {option.value}".rstrip()
        yield f"    {sign:<24}  {option.about}"


def _summary(member: Command | Group) -> str:
    return member.about if isinstance(member, Command) else ", ".join(member.members)
