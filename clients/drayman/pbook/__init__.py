"""The command `pbook`, as PanDA's client has it: looks after one's tasks, at a prompt or with the words of a command line.

Its verbs are PanDA's, so that shell scripts keep working; docs/running-tasks.md says what differs. It needs nothing that a worker does not
install anyway. Section numbers in docstrings are those of PanDA's description of behaviour.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; ends the process."""
    # gRPC's own log tells users nothing that our errors do not; it is set up when gRPC is imported
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from drayman.pbook.program import run  # noqa: PLC0415 - after that

    sys.exit(run(sys.argv[1:]))
