"""`drayman pilot` as a process of its own, for as long as a test needs it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system.cli_runner import Cli


@contextmanager
def pilot(cli: Cli, scratch: Path, *arguments: str) -> Iterator[None]:
    """Run jobs that this user may run. It must end well when it is told to."""
    log = scratch / "pilot.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            cli.command("pilot", "--scratch", str(scratch), "--grace", "0", *arguments),
            env=cli.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
            process.terminate()
            code = process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
    text = log.read_text()
    assert "Traceback" not in text, text
    assert code == 0, text
