"""Merges the outputs of jobs where the task names no program for it: one file behind the other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from drayman.client.job_values import JobFile, JobOutput
from drayman.worker.job_error import PAYLOAD_FAILED, JobError

_BLOCK = 1 << 20
#: What goes into the stream `X` comes as the stream `TRN_X`.
_PREFIX = "TRN_"


def merge(inputs: Sequence[JobFile], outputs: Sequence[JobOutput], folder: Path) -> None:
    """Write each output: the inputs of its stream, in their order. Raises JobError for one that has none."""
    for output in outputs:
        if output.type == "log":
            continue
        names = [file.name for file in inputs if file.stream == _PREFIX + output.stream]
        if not names:
            raise JobError(PAYLOAD_FAILED, f"there is nothing to merge into {output.name}")
        with (folder / output.name).open("wb") as target:
            for name in names:
                with (folder / name).open("rb") as source:
                    shutil.copyfileobj(source, target, _BLOCK)
