"""What goes wrong with a job, by the numbers that PanDA's users know."""

from __future__ import annotations

from typing import Any

#: Pilot error codes.
DISK_FAILED = 1098
STAGE_IN_FAILED = 1099
SANDBOX_FAILED = 1110
STAGE_OUT_FAILED = 1137
LOOPING = 1150
OUTPUT_MISSING = 1165
KILLED = 1200
TERMINATED = 1201
TOO_MUCH_MEMORY = 1212
TOO_LONG = 1213
PAYLOAD_FAILED = 1305

_LONGEST = 500


class JobError(Exception):
    """A job that failed: the pilot's code and a text for its user, and other fields by PanDA's names."""

    def __init__(self, code: int, text: str, **fields: Any) -> None:
        # names of files may be no text at all
        text = text.encode(errors="backslashreplace").decode()
        super().__init__(text)
        self.fields = {"pilotErrorCode": code, "pilotErrorDiag": text[:_LONGEST], **fields}
