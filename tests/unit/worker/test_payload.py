"""Programs of jobs: how they end, what they may use, and that nothing of them stays."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drayman.worker import payload as payloads
from drayman.worker.job_error import (
    KILLED,
    LOOPING,
    PAYLOAD_FAILED,
    TERMINATED,
    TOO_LONG,
    TOO_MUCH_MEMORY,
    JobError,
)
from drayman.worker.payload import Limits, Payload, words_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told from /proc")

PATIENCE = 30.0
MB = 1024 * 1024


def payload(tmp_path: Path, *words: str, log: str = "log", **limits: Any) -> Payload:
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return Payload(list(words), folder, dict(os.environ), Limits(**limits), tmp_path / log)


def python(tmp_path: Path, program: str, **limits: Any) -> Payload:
    return payload(tmp_path, sys.executable, "-c", program, **limits)


async def failure(program: Payload) -> JobError:
    with pytest.raises(JobError) as raised:
        await asyncio.wait_for(program.run(), PATIENCE)
    return raised.value


async def appears(path: Path) -> str:
    """Wait for a file with something in it."""
    async with asyncio.timeout(PATIENCE):
        while not (path.exists() and path.read_text()):
            await asyncio.sleep(0.02)
    return path.read_text().strip()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_it_writes_is_kept_and_what_it_used_is_known(tmp_path: Path) -> None:
    program = python(tmp_path, "import time, sys; print('out'); print('err', file=sys.stderr); time.sleep(1.5)")
    await program.run()
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["err", "out"]
    assert program.usage.memory > MB
    assert program.over


@pytest.mark.parametrize(
    ("script", "number", "text"),
    [("echo oops; exit 3", 3, "exit code 3: oops"), ("kill -9 $$", 137, "signal 9"), ("exit 1", 1, "exit code 1")],
)
async def test_a_bad_end_has_its_code_and_its_last_line(tmp_path: Path, script: str, number: int, text: str) -> None:
    error = await failure(payload(tmp_path, "bash", "-c", script))
    assert error.fields["pilotErrorCode"] == PAYLOAD_FAILED
    assert error.fields["transExitCode"] == error.fields["exeErrorCode"] == number
    assert error.fields["pilotErrorDiag"] == f"the program ended with {text}"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    error = await failure(payload(tmp_path, "no-such-program"))
    assert (error.fields["pilotErrorCode"], error.fields["transExitCode"]) == (PAYLOAD_FAILED, 127)
    assert "no-such-program" in str(error)


@pytest.mark.parametrize("command", ["", "   ", "bash -c 'oops", '""'])
def test_command_lines_that_are_none(tmp_path: Path, command: str) -> None:
    with pytest.raises(JobError, match="command line") as raised:
        words_of(command, tmp_path)
    assert raised.value.fields["pilotErrorCode"] == PAYLOAD_FAILED


def test_a_command_line_is_split_as_a_shell_does_and_no_more(tmp_path: Path) -> None:
    assert words_of("bash -c 'echo $X' \"a b\" *", tmp_path) == ["bash", "-c", "echo $X", "a b", "*"]
    (tmp_path / "run.sh").write_text("")
    assert words_of("run.sh", tmp_path) == ["run.sh"]
    (tmp_path / "run.sh").chmod(0o755)
    assert words_of("run.sh 1", tmp_path) == [str(tmp_path / "run.sh"), "1"]


async def test_a_huge_log_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    written, limit = 2_000 * MB, 4 * MB
    # a gigabyte and more in a few seconds; the text at both ends tells what is kept
    script = f"echo first; head -c {written} /dev/zero; echo; echo last"
    before = resident()
    program = payload(tmp_path, "bash", "-c", script, log_bytes=limit)
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            await asyncio.sleep(0.05)
            most = max(most, resident() - before)

    looking = asyncio.create_task(look())
    await asyncio.wait_for(program.run(), 120)
    looking.cancel()
    log = tmp_path / "log"
    assert limit - 1000 <= log.stat().st_size <= limit + 1000
    content = log.read_bytes()
    assert content.startswith(b"first\n")
    assert content.endswith(b"\nlast\n")
    assert f"{written + 12 - limit} bytes were left out" in content.replace(b"\0", b"").decode()
    assert program.log.written == written + 12
    assert most < 64 * MB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_log_that_cannot_be_written_does_not_stop_the_program(tmp_path: Path) -> None:
    program = python(tmp_path, "print('x' * 1_000_000)", log="no/such/folder/log")
    await asyncio.wait_for(program.run(), PATIENCE)
    assert "No such file" in program.log.problem
    assert program.log.tail().endswith("xxx\n")


async def test_memory_is_limited(tmp_path: Path) -> None:
    script = "import time; held = b'x' * 300_000_000; time.sleep(60)"
    error = await failure(python(tmp_path, script, memory_mb=100))
    assert error.fields["pilotErrorCode"] == TOO_MUCH_MEMORY
    assert "it may use 100 MB" in str(error)


async def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    script = """if True:
        import os, time
        held = b'x' * 100_000_000
        for _ in range(4):
            if os.fork() == 0:
                break
        time.sleep(2.5)
    """
    program = python(tmp_path, script, memory_mb=250)
    await asyncio.wait_for(program.run(), PATIENCE)
    assert program.usage.memory > 400_000_000


async def test_time_is_limited_for_all_that_was_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 100 & echo $! > {pids}; echo $$ >> {pids}; sleep 100"
    begin = time.monotonic()
    error = await failure(payload(tmp_path, "bash", "-c", script, walltime=1.0))
    assert error.fields["pilotErrorCode"] == TOO_LONG
    assert time.monotonic() - begin < 8
    assert not any(map(lives, map(int, pids.read_text().split())))


async def test_who_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "_GRACE", 0.5)
    mark = tmp_path / "mark"
    script = f"trap 'echo no >> {mark}' TERM; echo $$ > {mark}; while true; do sleep 0.1; done"
    program = payload(tmp_path, "bash", "-c", script)
    running = asyncio.create_task(failure(program))
    pid = int(await appears(mark))
    program.kill("enough")
    error = await running
    assert error.fields["pilotErrorCode"] == KILLED
    assert mark.read_text().split() == [str(pid), "no"]
    assert not lives(pid)


async def test_who_heeds_sigterm_may_tidy_up(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"trap 'echo tidy >> {mark}; exit 0' TERM; echo $$ > {mark}; while true; do sleep 0.1; done"
    program = payload(tmp_path, "bash", "-c", script)
    running = asyncio.create_task(failure(program))
    await appears(mark)
    program.kill("enough", TERMINATED)
    program.kill("a second reason changes nothing")
    error = await running
    assert (error.fields["pilotErrorCode"], str(error)) == (TERMINATED, "enough")
    assert "tidy" in mark.read_text()


@pytest.mark.parametrize("how", ["", "setsid"])
async def test_what_it_leaves_behind_is_ended(tmp_path: Path, how: str) -> None:
    mark = tmp_path / "mark"
    script = f"{how} bash -c 'echo $$ > {mark}; exec sleep 300' & while ! [ -s {mark} ]; do sleep 0.05; done; echo done"
    begin = time.monotonic()
    await asyncio.wait_for(payload(tmp_path, "bash", "-c", script).run(), PATIENCE)
    # neither does its open output keep us waiting
    assert time.monotonic() - begin < 8
    assert not lives(int(mark.read_text()))


async def test_a_daemon_counts_for_memory(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        f"    open({str(mark)!r}, 'w').write(str(os.getpid()))\n"
        "    held = b'x' * 300_000_000\n"
        "time.sleep(60)\n"
    )
    error = await failure(python(tmp_path, daemon, memory_mb=150))
    assert error.fields["pilotErrorCode"] == TOO_MUCH_MEMORY
    assert not lives(int(mark.read_text()))


async def test_a_program_that_hangs_is_killed(tmp_path: Path) -> None:
    error = await failure(payload(tmp_path, "sleep", "60", looping=1.0))
    assert error.fields["pilotErrorCode"] == LOOPING
    assert "for 1 s" in str(error)


@pytest.mark.parametrize(
    "sign",
    ["echo .; sleep 0.3", "echo . >> file; sleep 0.3", "for i in {1..20000}; do :; done"],
    ids=["output", "files", "processor"],
)
async def test_signs_of_life(tmp_path: Path, sign: str) -> None:
    script = f"end=$((SECONDS + 7)); while [ $SECONDS -lt $end ]; do {sign}; done"
    await asyncio.wait_for(payload(tmp_path, "bash", "-c", script, looping=3.0).run(), PATIENCE)


async def test_who_gives_up_waiting_leaves_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    running = asyncio.create_task(payload(tmp_path, "bash", "-c", f"echo $$ > {mark}; sleep 100").run())
    pid = int(await appears(mark))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not lives(pid)


async def test_killed_before_it_began(tmp_path: Path) -> None:
    program = payload(tmp_path, "touch", str(tmp_path / "mark"))
    program.kill("too early", TERMINATED)
    assert (await failure(program)).fields["pilotErrorCode"] == TERMINATED
    assert not (tmp_path / "mark").exists()


async def test_signals_of_the_terminal_do_not_reach_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    running = asyncio.create_task(payload(tmp_path, "bash", "-c", f"echo $$ > {mark}; sleep 0.5").run())
    pid = int(await appears(mark))
    assert os.getpgid(pid) != os.getpgrp()
    assert os.getsid(pid) == pid
    await running


def test_names_that_are_no_text_stay_printable() -> None:
    error = JobError(PAYLOAD_FAILED, "no file " + os.fsdecode(b"\xff"))
    assert str(error).encode() == b"no file \\udcff"
    assert len(JobError(PAYLOAD_FAILED, "x" * 1000).fields["pilotErrorDiag"]) == 500
