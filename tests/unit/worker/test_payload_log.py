"""Logs of programs, kept in bounds."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from drayman.worker.payload_log import TAIL, PayloadLog


@settings(deadline=None)
@given(blocks=st.lists(st.binary(min_size=1, max_size=300), max_size=40), limit=st.integers(0, 4000))
def test_the_beginning_and_the_end_are_kept(blocks: list[bytes], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(blocks, limit, Path(folder) / "log")


def check(blocks: list[bytes], limit: int, path: Path) -> None:
    log = PayloadLog(path, limit)
    for block in blocks:
        log.add(block)
    everything = b"".join(blocks)
    assert log.tail() == everything[-TAIL:].decode(errors="replace")
    log.close()
    content = path.read_bytes()
    half = limit // 2
    if len(everything) <= 2 * half:
        assert content == everything
    else:
        left_out = len(everything) - 2 * half
        note = f"\n[... {left_out} bytes were left out here ...]\n".encode()
        assert content == everything[:half] + note + everything[len(everything) - half :]


def test_memory_is_bounded_whatever_the_blocks(tmp_path: Path) -> None:
    log = PayloadLog(tmp_path / "log", 1000)
    for number in range(400_000):
        log.add(b"%d\n" % number)
    assert log.written == 2_688_890
    assert len(log._end) <= 2 * TAIL
    assert log.tail().endswith("399998\n399999\n")
