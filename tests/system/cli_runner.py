"""The real command, as a process of its own."""

import json
import os
import subprocess
import sys
from typing import Any

from drayman.testing import LocalStack


class Outcome:
    """What a run printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        assert "Traceback" not in err + out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """`drayman` as one user of a stack."""

    def __init__(self, url: str, token: str | None) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DRAYMAN_")}
        self.environment = kept | {"DRAYMAN_URL": url} | ({"DRAYMAN_TOKEN": token} if token else {})

    @classmethod
    def of(cls, stack: LocalStack, user: str) -> "Cli":
        return cls(stack.url, stack.token(user))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "drayman", *arguments]

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(*arguments),
            input=data or b"",
            capture_output=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: str, stdin: str | bytes | None = None) -> Outcome:
        """Run it; it must end well and say nothing on standard error."""
        outcome = self.run(*arguments, stdin=stdin)
        assert (outcome.code, outcome.err) == (0, ""), outcome.err
        return outcome

    def refused(self, *arguments: str, stdin: str | bytes | None = None, code: int = 1) -> str:
        """Run it; it must end with one line on standard error and nothing else."""
        outcome = self.run(*arguments, stdin=stdin)
        assert outcome.code == code, (outcome.out, outcome.err)
        assert outcome.out == ""
        assert outcome.err.startswith("drayman: ")
        assert outcome.err.count("\n") == 1
        return outcome.err
