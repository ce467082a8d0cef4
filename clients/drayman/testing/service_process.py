"""`drayman serve` as a child process: started, awaited, ended or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_READY = "drayman ready at "


class ServiceProcess:
    """One server process. `log` gets what it writes to standard error."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, program: Sequence[str] | None = None
    ) -> None:
        """Start it.

        `arguments` follow `drayman serve`; `environment` goes on top of ours, without any DRAYMAN_* of ours. `program` stands for
        `python -m drayman`.
        """
        ours = {key: value for key, value in os.environ.items() if not key.startswith("DRAYMAN_")}
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                # whatever becomes of us, the end of its standard input ends it
                [*(program or (sys.executable, "-m", "drayman")), "serve", "--until-eof", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=ours | dict(environment),
                start_new_session=True,  # Ctrl-C is for whoever uses it, who then ends it
                text=True,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def await_ready(self, seconds: float) -> str:
        """Return its URL once it answers calls. Raises RuntimeError with the end of its log if it ends or takes too long."""
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line.startswith(_READY):
            self.kill()
            raise RuntimeError(f"drayman serve did not become ready: {self.log_tail()}")
        return line.removeprefix(_READY).strip()

    def terminate(self, seconds: float = 30.0) -> int:
        """End it as a service manager would, and return its exit code."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode
        finally:
            self._close()

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._close()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
