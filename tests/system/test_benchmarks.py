"""The benchmarks run, and say a number for everything that must be reached. Whether it is reached small numbers cannot tell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
PATIENCE = 240.0
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(×| |$)")

#: Of each row, what must be reached.
AIMS = {
    "artifacts": ["upload, against cp -r", "the same again", "download", "manifest", "upload of 3 files"],
    "authentication": ["share of the server's CPU", "share of the time"],
    "sessions": ["against the echo stream", "against row-at-a-time SQL"],
    "crowd": [
        "waiting sessions: server's CPU",
        "waiting sessions: server's memory for each",
        "waiting sessions: ended early",
        "workers that start at the same moment, NextFile + Report each: lost",
        "workers that start at the same moment, NextFile + Report each: files not done exactly once",
    ],
    "huge": ["server's memory at its peak"],
}


@pytest.fixture(scope="module")
def findings() -> list[tuple[str, str, str]]:
    """What was measured, its median, and what must be reached."""
    rows = [argument for row in AIMS for argument in ("--only", row)]
    ended = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--no-write", *rows],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    table = ended.stdout.partition("\n\n")[0].splitlines()[2:]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [(what, median, target) for what, median, _spread, target, _reached in lines]


@pytest.mark.parametrize("row", AIMS)
def test_every_aim_is_measured(findings: list[tuple[str, str, str]], row: str) -> None:
    for aim in AIMS[row]:
        medians = [median for what, median, target in findings if aim in what and target]
        assert medians, f"no line with a target has {aim!r} in it"
        assert all(NUMBER.match(median) for median in medians), medians


def test_every_line_has_a_number(findings: list[tuple[str, str, str]]) -> None:
    assert [line for line in findings if not NUMBER.match(line[1])] == []
