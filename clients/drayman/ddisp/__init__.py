"""The command `ddisp`, as Data Dispatcher has it: same syntax, environment and output, so that shell scripts keep working.

It sits on `drayman.data_dispatcher` and needs nothing that a worker does not install anyway. Section numbers in docstrings are those of
Data Dispatcher's description of behaviour; docs/ddisp.md says what was mended.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; ends the process."""
    # gRPC's own log tells users nothing that our errors do not; it is set up when gRPC is imported
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the rest of the process
    from drayman.ddisp.program import run  # noqa: PLC0415 - after that

    sys.exit(run(sys.argv[1:]))
