"""The command `drayman`. Each module here is one of its verbs."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; what it needs comes with `pip install drayman[cli]`."""
    # gRPC's own log tells users nothing that our errors do not; it is set up when gRPC is imported
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from drayman.cli.commands import run  # noqa: PLC0415 - to say what is missing
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"drayman: the command needs {error.name}: pip install 'drayman[cli]'")
    run()
