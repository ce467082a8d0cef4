"""What a program writes, kept in bounds."""

from __future__ import annotations

from pathlib import Path

#: Bytes of the end that are kept for a tail.
TAIL = 64 * 1024
#: Bytes of the end that are kept in memory at most.
_LONGEST_END = 8 * 1024 * 1024


class PayloadLog:
    """The beginning goes into a file, the end stays in memory, and what is in between is counted.

    Of `limit` bytes the first half is for the beginning, the other one for the end, of which 8 MiB are kept at most. A file that cannot be
    written takes no more; `problem` says why.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.written = 0
        self.problem = ""
        self._half = limit // 2
        self._in_file = 0
        self._most = max(TAIL, min(self._half, _LONGEST_END))
        self._end = bytearray()

    def touches_file(self) -> bool:
        """Whether the next block goes to the disk."""
        return not self.problem and self.written < self._half

    def add(self, block: bytes) -> None:
        """Take what was written."""
        if self.touches_file():
            self._append(block[: self._half - self.written])
        self.written += len(block)
        self._end += block
        if len(self._end) > 2 * self._most:
            del self._end[: -self._most]

    def tail(self) -> str:
        """Return the last lines, as text."""
        return bytes(self._end[-TAIL:]).decode(errors="replace")

    def close(self) -> None:
        """Write the end behind the beginning, with a line between them that says how much is missing."""
        beyond = self.written - self._in_file
        end = bytes(self._end[-min(beyond, self._half, self._most) :]) if beyond and self._half else b""
        if beyond > len(end):
            self._append(f"\n[... {beyond - len(end)} bytes were left out here ...]\n".encode(), counted=False)
        self._append(end)

    def _append(self, block: bytes, *, counted: bool = True) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            self.problem = self.problem or str(error)
        else:
            self._in_file += len(block) if counted else 0
