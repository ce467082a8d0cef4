"""The whole command: words of a command line, or a prompt."""

from __future__ import annotations

import os
import sys
from importlib import metadata

from drayman.cli.printable import printable
from drayman.pbook.arguments import bind
from drayman.pbook.calls import Bare, Call, read_line, read_words
from drayman.pbook.endings import Outcome, Refusal
from drayman.pbook.verbs import VERBS, Verb, explanation, overview

_USAGE = """pbook                       a prompt
pbook <verb> [value ...] [name=value ...]
pbook -c '<verb>(value, ..., name=value)'

DRAYMAN_URL (or PANDA_URL_SSL, PANDA_URL) says where the services are, DRAYMAN_TOKEN or `drayman login` who you are.
Exit code 0 if all went well, else 1."""
_ENDS = ("quit", "exit")


def run(words: list[str]) -> int:
    """Run a command line and return its exit code: 0, or 1 if something was refused or did not work (section 12.1)."""
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # who read our output has had enough; nor must Python complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        _print(f"{_USAGE}\n\n{overview()}")
        return 0
    if words and words[0] == "--version":
        _print(f"pbook of drayman {metadata.version('drayman')}")
        return 0
    if not words:
        return _prompt()
    try:
        call = _line_of(words[1:]) if words[0] == "-c" else _words_of(words)
    except Refusal as refusal:
        return _refused(refusal)
    return 0 if call is None or _answered(call) else 1


def _line_of(words: list[str]) -> Call | None:
    if len(words) != 1:
        raise Refusal("-c takes one text, such as 'show(123)'")
    return read_line(words[0])


def _words_of(words: list[str]) -> Call:
    if words[0].startswith("-"):
        raise Refusal(f"there is no option {words[0]!a}; see `pbook --help`")
    if words[0] == "help":
        return Call("help", tuple(map(Bare, words[1:])))
    if len(words) == 2 and words[1] in ("-h", "--help"):
        return Call("help", (Bare(words[0]),))
    verb = _verb(words[0])
    return read_words(words, [parameter.name for parameter in verb.parameters], any_text=verb.any_text)


def _prompt() -> int:
    """Read and answer lines until they end; the exit code is that of the last one, unless a person typed them."""
    person = sys.stdin is not None and sys.stdin.isatty()
    if person:
        import readline  # noqa: F401, PLC0415 - lines can be edited then

        _print("pbook: `help` tells what there is, Ctrl-D ends")
    good = True
    while True:
        try:
            line = input(">>> ") if person else _next_line()
        except EOFError:
            if person:
                _print("")
            return 0 if person or good else 1
        except KeyboardInterrupt:
            _print("")
            continue
        try:
            call = read_line(line)
            if call is not None and call.verb in _ENDS:
                return 0 if person or good else 1
            good = call is None or _answered(call)
        except Refusal as refusal:
            good = _refused(refusal) == 0
        except KeyboardInterrupt:
            _print("")
            good = False


def _next_line() -> str:
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line:
        raise EOFError
    return line


def _answered(call: Call) -> bool:
    """Answer a call; returns whether all went well."""
    try:
        outcome = _outcome(call)
    except Refusal as refusal:
        return _refused(refusal) == 0
    if outcome.value is not None:
        _print(_shown(outcome.value))
    return outcome.good


def _outcome(call: Call) -> Outcome:
    if call.verb == "help":
        _print(_help(call))
        return Outcome()
    verb = _verb(call.verb)
    given, further = bind(call, verb.parameters, open_ended=verb.open_ended)
    import asyncio  # noqa: PLC0415 - help and mistakes need none of this

    from drayman.client.channel import UrlError  # noqa: PLC0415 - as above
    from drayman.client.errors import DraymanError  # noqa: PLC0415 - as above
    from drayman.pbook.desk import desk  # noqa: PLC0415 - as above
    from drayman.prun.connection import explained  # noqa: PLC0415 - as above
    from drayman.prun.endings import Failure  # noqa: PLC0415 - as above

    async def work() -> Outcome:
        async with desk() as opened:
            return await verb.run(opened, given, further)

    try:
        return asyncio.run(work())
    except DraymanError as error:
        raise Refusal(explained(error)) from error
    except (UrlError, Failure) as error:
        raise Refusal(str(error)) from error


def _help(call: Call) -> str:
    if not call.arguments:
        return overview()
    word = call.arguments[0]
    name = word.name if isinstance(word, Bare) else str(word)
    _verb(name)
    return explanation(name)


def _verb(name: str) -> Verb:
    if name not in VERBS:
        raise Refusal(f"there is no verb {name!a}: expected one of {', '.join(VERBS)}, help")
    return VERBS[name]


def _shown(value: object) -> str:
    import json  # noqa: PLC0415 - as above

    simple = isinstance(value, list) and all(isinstance(each, bool) for each in value)
    return repr(value) if simple else json.dumps(value, indent=2, ensure_ascii=True)


def _refused(refusal: Refusal) -> int:
    sys.stderr.write(f"pbook: {printable(' '.join(str(refusal).split()))}\n")
    return 1


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
