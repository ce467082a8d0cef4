"""All verbs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from drayman.pbook import commanding, keeping, showing
from drayman.pbook.arguments import Parameter
from drayman.pbook.desk import Desk
from drayman.pbook.endings import Outcome

Run: TypeAlias = Callable[[Desk, Mapping[str, Any], Mapping[str, Any]], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: what it does, what it takes, whether further keywords are its business too, and whether `a=b` may be a value of its own."""

    run: Run
    parameters: tuple[Parameter, ...] = ()
    open_ended: bool = False
    any_text: bool = False
    example: str = ""

    @property
    def about(self) -> str:
        """What it does, in a line or two."""
        return " ".join((self.run.__doc__ or "").split())


VERBS: Mapping[str, Verb] = {
    "show": Verb(showing.show, showing.PARAMETERS, example="show(123), show('run'), show(days=3, format='json')"),
    "showl": Verb(showing.show_long, showing.PARAMETERS, example="showl([123, 124])"),
    "kill": Verb(commanding.kill, (commanding.TARGETS,), example="kill(123), kill([123, 124]), kill('all')"),
    "finish": Verb(commanding.finish, (commanding.TARGETS, commanding.SOFT), example="finish(123, soft=True)"),
    "retry": Verb(commanding.retry, commanding.RETRY, open_ended=True, example="retry(123, nFilesPerJob=2)"),
    "pause": Verb(commanding.pause, (commanding.TARGETS,), example="pause(123)"),
    "resume": Verb(commanding.resume, (commanding.TARGETS,), example="resume(123)"),
    "reload_input": Verb(commanding.reload_input, (commanding.TARGETS,), example="reload_input(123)"),
    "debug": Verb(commanding.debug, commanding.DEBUG, example="debug(45678, True)"),
    "getUserJobMetadata": Verb(
        keeping.get_metadata, keeping.METADATA, example="getUserJobMetadata(123, 'metadata.json')"
    ),
    "recover_lost_files": Verb(keeping.recover, keeping.RECOVER, example="recover_lost_files(123, test_mode=True)"),
    "set_secret": Verb(
        keeping.set_secret,
        keeping.SET_SECRET,
        any_text=True,
        example="set_secret('KEY', 'value'), set_secret('key.pem', 'my.pem', True)",
    ),
    "list_secrets": Verb(keeping.list_secrets, keeping.LIST_SECRETS, example="list_secrets(full=True)"),
    "delete_secret": Verb(keeping.delete_secret, keeping.DELETE_SECRET, example="delete_secret('KEY')"),
    "delete_all_secrets": Verb(keeping.delete_all_secrets),
    "generate_credential": Verb(keeping.generate_credential),
}


def overview() -> str:
    """Return what `help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "Verbs; help(show) tells more of one, quit() or Ctrl-D ends:",
            *lines,
            "A number below 10,000,000 is a reqID, which stands for all its tasks, or else a task.",
        ]
    )


def explanation(name: str) -> str:
    """Return what `help(name)` prints. Raises KeyError."""
    verb = VERBS[name]
    words = [_usage(parameter) for parameter in verb.parameters] + (["option=value ..."] if verb.open_ended else [])
    lines = [f"{name}({', '.join(words)})", f"    {verb.about}"]
    if verb.example:
        lines.append(f"    for example {verb.example}")
    return "\n".join(lines)


def _usage(parameter: Parameter) -> str:
    return parameter.name if parameter.needed else f"{parameter.name}={parameter.default!r}"
