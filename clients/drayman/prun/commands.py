"""The commands that jobs run: what a user typed, made ready for a worker that splits it as a shell does and starts no shell of its own.

`%IN`, `%OUT` and their like are PanDA's placeholders for users; they become the task service's `${...}`, which users may write too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from drayman.prun.endings import ConfigurationError

_PLACEHOLDER = re.compile(r"%(?:RNDM(?::(?P<base>[0-9]{1,9}))?|(?P<name>[A-Za-z_][A-Za-z0-9_]*))(?![A-Za-z0-9_])")
_SIMPLE: Mapping[str, str] = {
    "SKIPEVENTS": "${SKIPEVENTS}",
    "MAXEVENTS": "${MAXEVENTS}",
    "FIRSTEVENT": "${FIRSTEVENT}",
}


def with_placeholders(command: str, *, streams: Collection[str], outputs: int) -> str:
    """Return a command with `${...}` for each `%...`: `streams` are the names of the task's inputs, `outputs` how many it makes.

    What is no placeholder stays as it is: `date +%F` does what it did. Raises ConfigurationError for a %IN or %OUT that stands for nothing.
    """

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return "${RNDMSEED}"
        if name in _SIMPLE:
            return _SIMPLE[name]
        if name in streams:
            return f"${{{name}/L}}"
        if name == "IN":
            raise ConfigurationError("--exec has %IN, and there is no input: give --inDS or --pfnList")
        if name == "OUT":
            if not outputs:
                raise ConfigurationError("--exec has %OUT, and there is no output: give --outputs")
            return ",".join(f"${{OUTPUT{number}}}" for number in range(outputs))
        return match[0]

    return _PLACEHOLDER.sub(replaced, command)


def random_base(command: str) -> int | None:
    """Return where random seeds begin, the n of %RNDM:n; None = the command has none. Raises ConfigurationError for several."""
    bases = {int(match["base"] or 0) for match in _PLACEHOLDER.finditer(command) if match["name"] is None}
    if len(bases) > 1:
        raise ConfigurationError(
            f"--exec has %RNDM with different numbers ({', '.join(map(str, sorted(bases)))}): take one"
        )
    return bases.pop() if bases else None


def for_bash(command: str) -> str:
    """Return the arguments with which bash runs a command, as text that is split as a shell does, once placeholders were replaced.

    In double quotes: `${IN/T}` and `${IN/A}` bring single ones.
    """
    escaped = command.replace("\\", "\\\\").replace('"', '\\"')
    return f'-c "{escaped}"'


def run_script(command: str, made: Sequence[tuple[str, bool]], *, library: bool) -> str:
    """Return the whole script of a job: unpack what the build job left, run the command, and give its outputs their names.

    `made` are the names, or patterns if so flagged, of what the command makes; what it wrote under the final name already stays.
    """
    before = ["tar -xzf ${LIB} || exit"] if library else []
    after = [_named(name, f"${{OUTPUT{number}}}", archive=archive) for number, (name, archive) in enumerate(made)]
    if not before and not after:
        return command
    # a command may end with `exit 0`, and with a comment
    return "\n".join([*before, "(", command, ") || exit", *after])


def build_script(command: str) -> str:
    """Return the script of a build job: run the command, and pack everything that is there then."""
    # 1 = a file changed meanwhile: the folder did, since the archive is in it
    return "\n".join(["(", command, ") || exit", 'tar -czf ${LIB} "--exclude=./${LIB}" . || test $? -eq 1'])


def _named(name: str, target: str, *, archive: bool) -> str:
    if archive:
        return f"test -e {target} || tar -czf {target} -- {name} || exit"
    quoted = shlex.quote(name)
    return f"test ! -e {quoted} || mv -- {quoted} {target} || exit"
