"""From options to a task: what `prun` and `drayman run` have in common."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drayman.client.errors import DraymanError
from drayman.client.sandboxes import SandboxClient
from drayman.client.task_values import Submission
from drayman.client.tasks import TaskClient
from drayman.prun.endings import SubmissionError
from drayman.prun.options import Options
from drayman.prun.records import dump_outcome, dump_parameters
from drayman.prun.sandboxes import Sandbox, make_sandbox
from drayman.prun.task_parameters import task_parameters

#: Answers that are no refusal: new, and run again with what is new (section 4.6).
ACCEPTED = (0, 3)

#: Tells the user something; the flag says that it matters although nobody asked.
Say = Callable[[str, bool], None]


@dataclass(frozen=True, slots=True)
class Clients:
    """Whom to talk to."""

    sandboxes: SandboxClient
    tasks: TaskClient


async def submit(
    options: Options,
    clients: Callable[[], Clients],
    *,
    command_line: str,
    say: Say,
    explain: Callable[[DraymanError], str],
) -> Submission | None:
    """Pack, store and submit; returns what was answered, None with --noSubmit. `clients` is asked for them when they are needed.

    Raises ConfigurationError, ArchiveError, UploadError and SubmissionError.
    """
    # what is wrong with the options is told before anything is packed
    task_parameters(options, command_line=command_line)
    with tempfile.TemporaryDirectory(prefix="prun-") as scratch:
        sandbox = make_sandbox(options, Path(scratch))
        _tell(sandbox, say)
        if options.flag("noSubmit"):
            parameters = task_parameters(options, sandbox=sandbox.name, command_line=command_line)
            dump_parameters(options, parameters)
            dump_outcome(options, 0, "not submitted", None)
            return None
        if sandbox.path is not None:
            stored = await sandbox.store(clients().sandboxes, explain)
            say(f"{'stored' if stored else 'the same was stored before'}: {sandbox.name}", False)
    parameters = task_parameters(options, sandbox=sandbox.name, command_line=command_line)
    dump_parameters(options, parameters)
    try:
        answer = await clients().tasks.submit(parameters, parent=options.number("parentTaskID") or 0)
    except DraymanError as error:
        dump_outcome(options, SubmissionError.code, explain(error), None)
        raise SubmissionError(explain(error)) from error
    code = 0 if answer.code in ACCEPTED else SubmissionError.code
    dump_outcome(options, code, answer.message, answer.task_id or None)
    if code:
        raise SubmissionError(f"{answer.message} (code {answer.code})")
    return answer


def _tell(sandbox: Sandbox, say: Say) -> None:
    for path, reason in sandbox.packed.left.items():
        say(f"{path} stays here: {reason}", True)
    if sandbox.path is None:
        say("there is nothing to pack: jobs begin in an empty folder", False)
    else:
        size = sandbox.path.stat().st_size
        say(f"{sandbox.packed.files or 'given'} files in {size} bytes", False)
